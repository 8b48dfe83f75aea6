// An event of the peer in words. One that is not known here is shown as its fields.

import { size } from "./dom.js";

const WORDS = {
  contact: (e) => `${e.change}: ${e.node.slice(0, 16)}… at ${e.address}`,
  put: (e) => `${e.key} ${e.name}: on ${e.stored} of ${e.asked} replicas${e.reached ? "" : ", too few"}`,
  delete: (e) => `${e.key}: ${e.count} ${e.count === 1 ? "record" : "records"}`,
  "delete-file": (e) => e.name,
  upload: transfer,
  download: transfer,
  lost: (e) => `${e.count} events came too fast to be shown`,
};

function transfer(e) {
  if (e.phase !== "done") return `${e.name} ${e.phase}${e.reason ? `: ${e.reason}` : ""}`;
  const files = e.files === 1 ? "" : `${e.files} files, `;
  return `${e.name} done: ${files}${size(e.size)} in ${e.seconds.toFixed(1)} s`;
}

export function told(event) {
  const words = WORDS[event.event];
  if (words) return words(event);
  const { event: _, ...rest } = event;
  return Object.entries(rest).map(([name, value]) => `${name}=${JSON.stringify(value)}`).join(" ");
}
