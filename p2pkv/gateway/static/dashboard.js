// The dashboard: wires the stream of events to what is shown.

import { $, element, guarded } from "./dom.js";
import { list } from "./files.js";
import "./keys.js";
import { onPeers, onSilence, onStatus, tick } from "./state.js";

const EVENTS_SHOWN_MAX = 200;

function onEvent(event) {
  const { event: kind, type, ...rest } = JSON.parse(event.data);
  const details = Object.entries(rest).map(([name, value]) => `${name}=${typeof value === "object" ? JSON.stringify(value) : value}`);
  const item = element("li", {}, element("time", {}, new Date().toLocaleTimeString()), element("b", {}, kind ?? type ?? event.type), details.join(" "));
  $("events").prepend(item);
  while ($("events").children.length > EVENTS_SHOWN_MAX) $("events").lastChild.remove();
}

const source = new EventSource("/v1/events?state=1");
source.addEventListener("status", (event) => onStatus(JSON.parse(event.data)));
source.addEventListener("peers", (event) => onPeers(JSON.parse(event.data)));
source.addEventListener("peer", onEvent);
source.onerror = onSilence;
setInterval(tick, 1000);
guarded(list)();
