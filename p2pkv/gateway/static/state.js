// The peer's state as it arrives: all of it once, then only what changed. Rows are kept and altered, not made anew.

import { $, ago, element, size } from "./dom.js";

const status = { counters: {} };
const contacts = new Map();
const rows = new Map();
const TILES = [
  ["contacts", "contacts", (s) => s.contacts],
  ["swarm", "peers, estimated", (s) => `~${s.swarm_size_estimate.toLocaleString()}`],
  ["records", "records held", (s) => s.records.toLocaleString()],
  ["keys", "keys held", (s) => s.keys.toLocaleString()],
  ["chunks", "chunks held", (s) => s.chunks.toLocaleString()],
  ["stored", "on disk", (s) => size(s.stored_bytes)],
  ["uptime", "running for", (s) => ago(Date.now() / 1000 - s.started)],
];

function set(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}

export function onStatus(changed) {
  const { counters, ...fields } = changed;
  Object.assign(status, fields);
  Object.assign(status.counters, counters);
  if (!$("tiles").children.length) {
    $("tiles").append(...TILES.map(([id, label]) => element("div", { class: "tile" }, element("b", { id: `tile-${id}` }), element("span", {}, label))));
  }
  drawStatus();
  if (changed.warnings) $("warnings").replaceChildren(...changed.warnings.map((text) => element("li", {}, text)));
  for (const [name, value] of Object.entries(counters ?? {})) drawCounter(name, value);
}

function drawStatus() {
  if (!status.node) return;
  set($("node"), status.node);
  for (const [id, , text] of TILES) set($(`tile-${id}`), text(status));
  const quota = status.quota_bytes === null ? "no quota" : `quota ${size(status.quota_bytes)}`;
  set($("about"), `UDP ${status.udp.join(", ")} · ${quota} · version ${status.version}`);
  const badge = $("state");
  const waiting = status.bootstrap.length ? "alone: no bootstrap peer answers" : "alone: no other peer has come yet";
  set(badge, status.connected ? "connected" : waiting);
  badge.className = `badge ${status.connected ? "good" : "bad"}`;
}

function drawCounter(name, value) {
  let cell = rows.get(`counter ${name}`);
  if (!cell) {
    cell = element("dd");
    rows.set(`counter ${name}`, cell);
    $("counters").append(element("div", {}, element("dt", {}, name.replaceAll("_", " ")), cell));
  }
  set(cell, value.toLocaleString());
}

export function onPeers({ changed, gone }) {
  for (const node of gone) {
    contacts.delete(node);
    rows.get(node)?.remove();
    rows.delete(node);
  }
  for (const contact of changed) {
    contacts.set(contact.node, contact);
    if (!rows.has(contact.node)) {
      const classes = ["mono tight", "tight", "tight", "number", "number", "number", "number"];
      const row = element("tr", { title: contact.node }, ...classes.map((name) => element("td", { class: name })));
      rows.set(contact.node, row);
      $("contacts").append(row);
    }
    drawContact(contact);
  }
  set($("contacts-end"), contacts.size ? "" : "No contacts yet. Another peer joins with `p2pkv start --bootstrap HOST:PORT`, where HOST:PORT is this one's UDP address.");
}

function drawContact(contact) {
  const now = Date.now() / 1000;
  const texts = [
    `${contact.node.slice(0, 16)}…`, contact.address, contact.kind,
    contact.rtt_ms === null ? "–" : `${contact.rtt_ms.toFixed(1)} ms`,
    ago(now - contact.first_seen), `${ago(now - contact.last_seen)} ago`, contact.failures,
  ];
  const cells = rows.get(contact.node).children;
  texts.forEach((text, index) => set(cells[index], text));
}

export function onSilence() {
  set($("state"), "no answer from the peer");
  $("state").className = "badge bad";
}

export function tick() {
  drawStatus();
  contacts.forEach(drawContact);
}
