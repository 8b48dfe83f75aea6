// The dashboard: wires the stream of events to what is shown.

import { $, element, guarded } from "./dom.js";
import { told } from "./events.js";
import { list } from "./files.js";
import "./keys.js";
import { onPeers, onSilence, onStatus, tick } from "./state.js";

const EVENTS_SHOWN_MAX = 200;

function onEvent(event) {
  const happening = JSON.parse(event.data);
  const failed = happening.phase === "failed" || happening.reached === false;
  const kind = element("b", failed ? { class: "bad" } : {}, happening.event);
  $("events").prepend(element("li", {}, element("time", {}, new Date().toLocaleTimeString()), kind, told(happening)));
  $("events-end").hidden = true;
  while ($("events").children.length > EVENTS_SHOWN_MAX) $("events").lastChild.remove();
}

const source = new EventSource("/v1/events?state=1");
source.addEventListener("status", (event) => onStatus(JSON.parse(event.data)));
source.addEventListener("peers", (event) => onPeers(JSON.parse(event.data)));
source.addEventListener("peer", onEvent);
source.onerror = onSilence;
setInterval(tick, 1000);
guarded(list)();
