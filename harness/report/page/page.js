"use strict";
// Rows are [id, values, details]; details point into `pool`, where a text that many rows share stands once.
const data = JSON.parse(document.getElementById("data").textContent);
const { pool, columns, rows } = data;
const PAGE = 50;
const WORDS = new Set(["started_at", "model", "technique", "workload", "status", "corpus", "device_name"]);
const HEADINGS = {
  started_at: "Started", model: "Model", technique: "Technique", workload: "Workload", status: "Status",
  latency_p50_seconds: "Step p50", throughput_tokens_per_second: "Tokens/s", peak_allocated_bytes: "Peak memory",
  weights_bytes: "Weights", quality_bits_per_byte: "Bits/byte", seed: "Seed", corpus: "Corpus", device_name: "Device",
};
const text = (place) => (place === -1 || place === undefined ? "" : pool[place]);
const at = Object.fromEntries(columns.map((name, place) => [name, place]));
const cell = (row, name) => (WORDS.has(name) ? text(row[1][at[name]]) : row[1][at[name]]);
const open = new Set();
let sorted = { name: "started_at", down: false };
let page = 0;
let found = rows;

/** An element with text or children; text is never read as markup. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== "") element.setAttribute(key, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

function scaled(value, unit, steps) {
  const [factor, prefix] = steps.find(([size]) => value >= size) ?? steps.at(-1);
  const shown = value / factor;
  return `${shown.toFixed(Math.max(0, 2 - Math.floor(Math.log10(shown || 1))))} ${prefix}${unit}`;
}

function shown(name, value) {
  if (value === null || value === "") return "\u2014";
  if (name === "started_at") return value.slice(0, 19).replace("T", " ");
  if (WORDS.has(name) || name === "seed") return String(value);
  if (name.endsWith("_per_second")) return Math.round(value).toLocaleString("en");
  if (name.endsWith("_bytes")) return scaled(value, "B", [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]]);
  if (name.endsWith("_bits_per_byte")) return value.toFixed(3);
  if (name.endsWith("_seconds")) return scaled(value, "s", [[1, ""], [1e-3, "m"], [1e-6, "\u00b5"]]);
  return String(value);
}

/* Filters: the same for the boards above and for the table of rows. */
const choice = (name) => document.getElementById(`by-${name}`)?.value ?? "";

function wanted() {
  const words = document.getElementById("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  return { words, model: choice("model"), workload: choice("workload"), device: choice("device"), status: choice("status") };
}

function fits(want, have) {
  for (const key of ["model", "workload", "device", "status"]) if (want[key] && have[key] && have[key] !== want[key]) return false;
  const hay = `${have.technique ?? ""} ${have.model ?? ""} ${have.workload ?? ""} ${have.device ?? ""} ${have.status ?? ""}`.toLowerCase();
  return want.words.every((word) => hay.includes(word));
}

function filterBoards(want) {
  for (const board of document.querySelectorAll(".board")) {
    let any = false;
    for (const line of board.querySelectorAll("tbody tr")) {
      line.hidden = !fits(want, { ...board.dataset, ...line.dataset });
      any ||= !line.hidden;
    }
    board.hidden = !any;
  }
  for (const card of document.querySelectorAll(".card")) {
    const have = { ...card.dataset };
    card.hidden = !fits({ ...want, words: [], status: "" }, have);
  }
}

function filterRows(want) {
  const names = ["model", "technique", "workload", "status"];
  found = rows.filter((row) => {
    const have = Object.fromEntries(names.map((name) => [name, cell(row, name)]));
    have.device = cell(row, "device_name");
    return fits(want, have);
  });
}

function refilter() {
  const want = wanted();
  filterBoards(want);
  filterRows(want);
  const narrowed = want.words.length || want.model || want.workload || want.device || want.status;
  document.getElementById("shown").textContent = narrowed ? `${found.length} of ${rows.length} rows` : "";
  document.getElementById("clear").hidden = !narrowed;
  page = 0;
  resort();
}

/* Sorting: empty cells last in both directions. */
function compare(a, b, down) {
  const none = (value) => value === null || value === undefined || value === "";
  if (none(a) || none(b)) return none(a) - none(b);
  const way = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  return down ? -way : way;
}

function mark(heads, chosen, down) {
  for (const head of heads) head.removeAttribute("aria-sort");
  chosen.setAttribute("aria-sort", down ? "descending" : "ascending");
}

function sortTable(table, head) {
  const heads = [...head.parentElement.children];
  const place = heads.indexOf(head);
  const down = head.getAttribute("aria-sort") === "ascending";
  const value = (line) => {
    const given = line.children[place]?.dataset.v;
    return given === undefined ? null : head.classList.contains("text") ? given : Number(given);
  };
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b), down)));
  mark(heads, head, down);
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.tHead.addEventListener("click", (event) => {
    if (event.target.closest("button")) sortTable(table, event.target.closest("th"));
  });
}

/* The table of all rows: one page of it is in the document at a time. */
const raw = document.getElementById("raw");

function resort() {
  const { name, down } = sorted;
  found = [...found].sort((a, b) => compare(cell(a, name), cell(b, name), down));
  draw();
}

function drawHead() {
  const heads = columns.map((name) => {
    const button = make("button", { type: "button" }, HEADINGS[name] ?? name);
    const head = make("th", { scope: "col", class: WORDS.has(name) ? "text" : "number" }, button);
    button.addEventListener("click", () => {
      sorted = { name, down: sorted.name === name && !sorted.down };
      mark(heads, head, sorted.down);
      page = 0;
      resort();
    });
    return head;
  });
  raw.tHead.append(make("tr", {}, ...heads));
  mark(heads, heads[0], false);
}

function draw() {
  const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
  page = Math.min(Math.max(page, 0), last);
  const here = found.slice(page * PAGE, (page + 1) * PAGE);
  raw.tBodies[0].replaceChildren(...here.flatMap((row) => lines(row)));
  const first = found.length ? page * PAGE + 1 : 0;
  document.getElementById("place").textContent = `${first}\u2013${page * PAGE + here.length} of ${found.length}`;
  document.getElementById("before").disabled = page === 0;
  document.getElementById("after").disabled = page === last;
}

function lines(row) {
  const isOpen = open.has(row[0]);
  const button = make("button", { type: "button", "aria-expanded": String(isOpen) }, shown("started_at", cell(row, "started_at")));
  button.addEventListener("click", () => {
    if (!open.delete(row[0])) open.add(row[0]);
    draw();
    raw.querySelector(`[id="row-${CSS.escape(row[0])}"] button`)?.focus();
  });
  const cells = columns.slice(1).map((name) => {
    const value = shown(name, cell(row, name));
    const inner = name === "status" ? make("span", { class: `badge ${value}` }, value) : value;
    const old = name === "technique" && row[2].age !== undefined ? make("span", { class: "badge warn" }, "older") : null;
    return make("td", { class: WORDS.has(name) ? "" : "number", title: WORDS.has(name) ? value : "" }, inner, old);
  });
  const kind = [isOpen ? "open" : "", row[2].age === undefined ? "" : "old"].join(" ").trim();
  const line = make("tr", { id: `row-${row[0]}`, class: kind }, make("th", { scope: "row" }, button), ...cells);
  return isOpen ? [line, make("tr", {}, make("td", { colspan: columns.length }, detail(row)))] : [line];
}

function detail(row) {
  const more = row[2];
  const versions = JSON.parse(text(more.versions) || "{}");
  const part = (title, body) => (body ? make("div", {}, make("h4", {}, title), body) : null);
  const block = (words) => (words ? make("pre", {}, words) : null);
  return make(
    "div", { class: "detail" },
    part("Reason", block(text(more.why))),
    part("Flags", block((more.flags ?? []).map(text).join("\n"))),
    part("Age", block(text(more.age))),
    part("Measures this row again", block(text(more.again))),
    part("Command of its sweep", block(text(more.command))),
    make("div", { class: "two" },
      part(`Step times (${more.count ?? 0} steps, seconds)`, spark(more.steps)),
      part("What the technique changed", list(more.changed)),
      part("Configuration", list(more.trial)),
      make("div", {}, part("Software", table({ ...versions, "harness code": text(more.code) })), part("Why numbers are missing", grouped(more.nulls)))),
    part("Traceback", block(text(more.trace))),
    make("small", {}, `row ${row[0]}`),
  );
}

/** A chosen option as `name (key: value, ...)`; anything else as it stands. */
function plain(words) {
  let value;
  try { value = JSON.parse(words); } catch { return words; }
  return say(value);
}

function say(value) {
  if (value === null || typeof value !== "object") return String(value);
  if (Array.isArray(value)) return value.map(say).join("\n");
  const inner = (of) => Object.entries(of).map(([key, part]) => `${key}: ${part && typeof part === "object" ? `{${inner(part)}}` : part}`).join(", ");
  if (!("name" in value && "options" in value)) return inner(value);
  const options = inner(value.options);
  return options ? `${value.name} (${options})` : value.name;
}

/** Reasons for missing numbers, the numbers that share one together. */
function grouped(pairs) {
  const found = {};
  for (let i = 0; i < (pairs ?? []).length; i += 2) (found[text(pairs[i + 1])] ??= []).push(text(pairs[i]));
  return table(Object.fromEntries(Object.entries(found).map(([reason, names]) => [reason, names.join(", ")])));
}

function list(pairs) {
  const found = {};
  for (let i = 0; i < (pairs ?? []).length; i += 2) found[text(pairs[i])] = text(pairs[i + 1]) || "\u2014";
  for (const key of Object.keys(found)) found[key] = plain(found[key]) || "\u2014";
  return table(found);
}

function table(entries) {
  const filled = Object.entries(entries).filter(([, value]) => value !== "");
  if (!filled.length) return null;
  return make("dl", {}, ...filled.flatMap(([key, value]) => [make("dt", {}, key), make("dd", {}, value)]));
}

function spark(values) {
  if (!values || values.length < 2) return null;
  const high = Math.max(...values), low = Math.min(...values);
  const y = (value) => (50 - (46 * value) / high).toFixed(1);
  const points = values.map((value, i) => `${((i * 300) / (values.length - 1)).toFixed(1)} ${y(value)}`);
  const holder = make("div");
  // Only numbers of our own making stand in this markup.
  holder.innerHTML = `<svg class="spark" viewBox="0 0 300 52" preserveAspectRatio="none" role="img"><line x1="0" x2="300" y1="50" y2="50"/><path d="M${points.join("L")}"/></svg>`;
  const range = `from ${shown("_seconds", low)} to ${shown("_seconds", high)}; the base line is zero`;
  holder.firstChild.setAttribute("aria-label", `Step times ${range}`);
  holder.append(make("small", {}, range));
  return holder;
}

/* A link to #row-<id> opens that row wherever it is. */
function goToRow() {
  if (!location.hash.startsWith("#row-")) return;
  const id = decodeURIComponent(location.hash.slice(5));
  let place = found.findIndex((row) => row[0] === id);
  if (place === -1 && rows.some((row) => row[0] === id)) {
    clear();
    place = found.findIndex((row) => row[0] === id);
  }
  if (place === -1) return;
  open.add(id);
  page = Math.floor(place / PAGE);
  draw();
  // Twice: what lies above may get its true height only when it comes into view.
  const show = () => document.getElementById(`row-${id}`)?.scrollIntoView({ block: "start" });
  show();
  requestAnimationFrame(show);
}

function clear() {
  document.getElementById("words").value = "";
  for (const select of document.querySelectorAll(".filters select")) select.value = "";
  refilter();
}

let waiting;
document.getElementById("words").addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(refilter, 120);
});
for (const select of document.querySelectorAll(".filters select")) select.addEventListener("change", refilter);
document.getElementById("clear").addEventListener("click", clear);
document.getElementById("before").addEventListener("click", () => { page -= 1; draw(); });
document.getElementById("after").addEventListener("click", () => { page += 1; draw(); });
window.addEventListener("hashchange", goToRow);
document.addEventListener("click", (event) => {
  const link = event.target.closest?.('a[href^="#row-"]');
  if (link && link.hash === location.hash) goToRow();
});
drawHead();
refilter();
goToRow();
