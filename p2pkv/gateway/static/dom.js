// Small helpers: elements, units, requests. Text is always set as text, never as markup.

export const $ = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") made.addEventListener("click", value);
    else if (value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return `${unit ? bytes.toFixed(1) : bytes} ${units[unit]}`;
}

export function ago(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} m`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

export function when(seconds) {
  return new Date(seconds * 1000).toLocaleString();
}

// A key or name as a path segment. Browsers take a segment of dots for a folder, however it is spelt.
export function segment(text) {
  if (text === "." || text === "..") throw new Error(`a browser cannot ask for the key "${text}"; use the p2pkv command`);
  return encodeURIComponent(text);
}

export function notice(text = "") {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

export async function ask(method, target, body) {
  const response = await fetch(target, { method, body });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({ detail: response.statusText }));
  throw new Error(problem.mend ? `${problem.detail}; ${problem.mend}` : problem.detail);
}

// The objects of a stream as they come. Returns its last line; throws where the stream was cut off.
export async function lines(target, each, most = Infinity) {
  const stop = new AbortController();
  const response = await fetch(target, { signal: stop.signal });
  if (!response.ok) throw new Error((await response.json()).detail);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", count = 0; ;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the answer was cut off");
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts.filter(Boolean)) {
      const item = JSON.parse(part);
      if ("complete" in item) return item;
      if (count === most) { stop.abort(); return { complete: true, count, more: true }; }
      count += 1;
      each(item);
    }
  }
}

export function guarded(action) {
  return async (event) => {
    event?.preventDefault();
    notice();
    try { await action(event); } catch (error) { notice(error.message); }
  };
}
