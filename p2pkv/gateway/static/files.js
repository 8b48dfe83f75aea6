// Listing, uploading, downloading and deleting files.

import { $, ask, element, guarded, lines, size, when } from "./dom.js";

const SHOWN_MAX = 1000;
const target = (name) => `/v1/files/${encodeURIComponent(name)}`;

export async function list() {
  const rows = [];
  const end = await lines(`/v1/files?prefix=${encodeURIComponent($("list-prefix").value)}`, (info) => rows.push(row(info)), SHOWN_MAX);
  $("files").replaceChildren(...rows);
  const more = end.more ? `The first ${SHOWN_MAX}; narrow the prefix for others.` : "";
  $("files-end").textContent = end.complete ? more || (rows.length ? "" : "No files.") : `May be incomplete: ${end.reason}`;
}

function row(info) {
  const name = info.kind === "file" ? element("a", { href: target(info.name), download: "" }, info.name) : info.name;
  const remove = guarded(async () => {
    const whole = info.kind === "folder";
    if (!confirm(whole ? `Delete ${info.name} with all that is in it?` : `Delete ${info.name}?`)) return;
    await ask("DELETE", whole ? `${target(info.name.slice(0, -1))}?recursive=1` : target(info.name));
    await list();
  });
  return element("tr", {},
    element("td", {}, name),
    element("td", { class: "number" }, info.kind === "folder" ? "" : size(info.size)),
    element("td", { class: "tight" }, info.time ? when(info.time) : ""),
    element("td", { class: "number" }, element("button", { class: "plain", type: "button", onclick: remove }, "delete")));
}

// fetch() tells no progress of an upload; XMLHttpRequest does.
function send(file, name, bar) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.upload.onprogress = (event) => { if (event.lengthComputable) bar.value = event.loaded / event.total; };
    request.onload = () => {
      if (request.status < 300) { resolve(); return; }
      let detail = request.statusText;
      try { detail = JSON.parse(request.responseText).detail; } catch { /* no problem document */ }
      reject(new Error(detail));
    };
    request.onerror = () => reject(new Error(`the upload of ${name} broke off`));
    request.open("PUT", target(name));
    request.send(file);
  });
}

async function upload() {
  const folder = $("upload-to").value.replace(/\/+$/, "");
  const bar = $("upload-progress");
  bar.hidden = false;
  try {
    for (const file of $("upload-file").files) {
      bar.value = 0;
      await send(file, folder ? `${folder}/${file.name}` : file.name, bar);
    }
  } finally {
    bar.hidden = true;
  }
  $("upload-file").value = "";
  await list();
}

$("upload").addEventListener("submit", guarded(upload));
$("list").addEventListener("submit", guarded(list));
