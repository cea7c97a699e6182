// The collection as a map: a point for each item, coloured by a metadata field, moving when the version is switched.

import { at, call } from "../api.js";
import { content, details } from "../cards.js";
import { button, field, h, number, plural, put, select } from "../dom.js";
import { itemPath, state } from "../state.js";
import { told } from "../toast.js";
import { Scatter } from "../scatter.js";

const COLOURS = 10; // values that have a colour of their own; the others are grey
const REST = 100; // ms that the pointer rests on a point before the item is asked for

// Values that are colours themselves are shown in them, not in any other.
const NAMED = { red: 6, orange: 1, yellow: 4, green: 2, blue: 0, purple: 7, pink: 3, brown: 9, "black and white": COLOURS };

/** How points are coloured by values: a number for each (see scatter.js), and what the numbers mean. */
function colouring(values, numeric) {
  const flat = values.map((value) => (Array.isArray(value) ? value[0] : value)).map((value) => (value === null || typeof value === "object" ? undefined : value));
  const distinct = new Set(flat);
  distinct.delete(undefined);
  if (numeric && distinct.size > COLOURS) return scaled(flat);
  const counts = new Map();
  for (const value of flat) if (value !== undefined) counts.set(String(value), (counts.get(String(value)) ?? 0) + 1);
  const top = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, COLOURS);
  const named = top.every(([value]) => Object.hasOwn(NAMED, value));
  const places = new Map(top.map(([value], place) => [value, named ? NAMED[value] : place]));
  const legend = top.map(([value, count]) => [`colour-${places.get(value)}`, `${value} (${number(count)})`]);
  const none = flat.filter((value) => value === undefined).length;
  if (counts.size > COLOURS) legend.push([`colour-${COLOURS}`, plural(counts.size - COLOURS, "other value")]);
  if (none) legend.push([`colour-${COLOURS}`, `none (${number(none)})`]);
  return { colour: Uint8Array.from(flat, (value) => places.get(String(value)) ?? COLOURS), legend };
}

/** Numbers in ten ranges of as many items each. */
function scaled(values) {
  const known = Float64Array.from(values.filter((value) => typeof value === "number")).sort();
  const ends = Array.from({ length: COLOURS - 1 }, (_, n) => known[Math.floor(((n + 1) / COLOURS) * known.length)]);
  const place = (value) => ends.findLastIndex((end) => value >= end) + 1;
  const edges = [known[0], ...ends, known.at(-1)];
  const said = (value) => value.toLocaleString("en", { maximumSignificantDigits: 6, useGrouping: false });
  const legend = Array.from({ length: COLOURS }, (_, n) => [`scale-${n}`, `${said(edges[n])} to ${said(edges[n + 1])}`]).filter((_, n) => edges[n] < edges[n + 1]);
  if (known.length < values.length) legend.push([`colour-${COLOURS}`, `no number (${number(values.length - known.length)})`]);
  return { colour: Uint8Array.from(values, (value) => (typeof value === "number" ? COLOURS + 1 + place(value) : COLOURS)), legend };
}

export default async function view(main, params) {
  const coloured = state.fields.filter((one) => one.kinds.some((kind) => kind !== "object" && kind !== "null"));
  const usable = coloured.filter((one) => one.distinct > 1 && one.distinct < Math.max(60, one.items / 3));
  usable.sort((a, b) => Math.abs(a.distinct - COLOURS) - Math.abs(b.distinct - COLOURS));
  let by = (usable[0] ?? coloured[0])?.name ?? "";
  let version = Number(params.get("version") ?? state.about.live);
  let data = { ids: [] };
  let turn = 0;
  let over = null; // the point under the pointer
  const canvas = h("canvas", { class: "map", tabindex: "0", role: "img" });
  const legend = h("ul", { class: "legend", "aria-label": "Colours" });
  const tip = h("div", { class: "tip", hidden: true });
  const status = h("p", { class: "status", role: "status" });
  const seen = new Map(); // items that were pointed at
  const item = async (id) => {
    const found = seen.get(id) ?? await call("GET", itemPath(id));
    if (seen.size > 200) seen.clear();
    seen.set(id, found);
    return found;
  };

  async function hover(point, x, y) {
    over = point;
    tip.hidden = point === null;
    if (point === null) { delete tip.dataset.id; return; }
    tip.style.setProperty("left", `${Math.max(0, Math.min(x + 12, canvas.clientWidth - 220))}px`);
    tip.style.setProperty("top", `${y + 12}px`);
    const id = data.ids[point];
    if (tip.dataset.id === id) return;
    tip.dataset.id = id;
    put(tip, h("span", {}, id));
    await new Promise((resolve) => setTimeout(resolve, REST));
    if (over !== point) return;
    const found = await item(id).catch(() => null); // deleted since: its id stays
    if (found && over === point) put(tip, h("span", {}, found.metadata.name ?? id), content(found));
  }

  const scatter = new Scatter(canvas, {
    hover,
    pick: (point) => told(async () => details(await item(data.ids[point]), { like: (one) => { location.hash = `#/${encodeURIComponent(state.name)}/search?like=${encodeURIComponent(one.id)}`; } })),
  });
  const names = state.versions.map((one) => [one.number, `version ${one.number}${one.live ? ", live" : ""}`]);
  const go = (to) => { version = Number(to); chooser.value = to; load(); };
  const step = (by) => { const place = names.findIndex(([n]) => n === version) + by; if (names[place]) go(names[place][0]); };
  const chooser = select(names, version, go, { id: "map-version" });
  const [earlier, later] = [button("Earlier", () => step(-1)), button("Later", () => step(1))];
  put(main, h("h1", {}, "Map"),
    h("div", { class: "row low" }, field("Version", chooser), names.length > 1 ? [earlier, later] : null,
      field("Colour by", select([["", "nothing"], ...coloured.map((one) => [one.name, one.name])], by, (value) => { by = value; load(); }))),
    status, h("div", { class: "map-box" }, canvas, tip), legend,
    h("p", { class: "hint" }, "Two principal axes, turned towards those of version 0, so that points move only as much as versions differ. Drag to move, scroll or + and − to come nearer, arrow keys, 0 for the whole."));

  async function load() {
    const mine = (turn += 1);
    status.textContent = "Computing …";
    [earlier.disabled, later.disabled] = [version === names[0][0], version === names.at(-1)[0]];
    try {
      const query = new URLSearchParams({ version, ...(by ? { field: by } : {}) });
      const found = await call("GET", at(state.name, `/map?${query}`));
      if (mine !== turn) return;
      data = found;
      const numeric = coloured.find((one) => one.name === by)?.kinds.includes("number");
      const { colour, legend: meaning } = by ? colouring(data.values, numeric) : { colour: new Uint8Array(data.ids.length), legend: [] };
      scatter.show(data.ids, data.x, data.y, colour);
      put(legend, meaning.map(([dot, text]) => h("li", {}, h("i", { class: `dot ${dot}` }), text)));
      const part = data.total > data.ids.length ? `${number(data.ids.length)} of ${plural(data.total, "item")}, drawn at random,` : plural(data.ids.length, "item");
      status.textContent = `${part} under version ${data.version}`;
      canvas.setAttribute("aria-label", `Map of ${status.textContent}, ${by ? `coloured by ${by}: ${meaning.map(([, text]) => text).join(", ")}` : "in one colour"}`);
    } catch (error) {
      if (mine !== turn) return;
      status.textContent = error.message;
    }
  }

  await load();
  return () => scatter.close();
}
