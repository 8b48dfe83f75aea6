// Looking into keys: which this peer holds, what records a key has, putting one.

import { $, ask, element, guarded, lines, segment, size, when } from "./dom.js";

const SHOWN_MAX = 500;

function head(...names) {
  $("records-head").replaceChildren(element("tr", {}, ...names.map((name) => element("th", {}, name))));
}

function end(end, empty, count) {
  const more = end.more ? `The first ${SHOWN_MAX}.` : count ? "" : empty;
  $("records-end").textContent = end.complete ? more : `May be incomplete: ${end.reason}`;
}

async function get() {
  const key = $("get-key").value;
  const rows = [];
  const last = await lines(`/v1/keys/${segment(key)}`, (record) => rows.push(recordRow(record)), SHOWN_MAX);
  head("Value", "Name", "Size", "Written");
  $("records").replaceChildren(...rows);
  end(last, "No record under this key.", rows.length);
}

function recordRow(record) {
  const text = record.value ?? (record.value_base64 === undefined ? "(long)" : `base64: ${record.value_base64}`);
  return element("tr", {},
    element("td", { class: "mono" }, text.length > 400 ? `${text.slice(0, 400)}…` : text),
    element("td", {}, record.name),
    element("td", { class: "number" }, size(record.size)),
    element("td", { class: "tight" }, when(record.time)));
}

async function keys() {
  const rows = [];
  const last = await lines("/v1/keys", (item) => rows.push(keyRow(item)), SHOWN_MAX);
  head("Key", "Records");
  $("records").replaceChildren(...rows);
  end(last, "This peer holds no keys.", rows.length);
}

function keyRow(item) {
  const open = guarded(async () => { $("get-key").value = item.key; await get(); });
  const name = item.key === undefined ? `base64: ${item.key_base64}` : element("button", { class: "plain", type: "button", onclick: open }, item.key);
  return element("tr", {}, element("td", {}, name), element("td", { class: "number" }, item.count));
}

async function put() {
  if (!$("get-key").reportValidity()) return;
  await ask("POST", `/v1/keys/${segment($("get-key").value)}`, new Blob([$("put-value").value]));
  $("put-value").value = "";
  await get();
}

$("get").addEventListener("submit", guarded(get));
$("get-keys").addEventListener("click", guarded(keys));
$("put").addEventListener("submit", guarded(put));
