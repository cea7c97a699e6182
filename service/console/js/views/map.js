// The collection as a map: a point for each item, coloured by a metadata field, moving when the version is switched.

import { at, call } from "../api.js";
import { details } from "../cards.js";
import { button, field, h, number, plural, put, select } from "../dom.js";
import { itemPath, state } from "../state.js";
import { told } from "../toast.js";
import { Scatter } from "../scatter.js";

const COLOURS = 10; // values that have a colour of their own; the others are grey

export default async function view(main, params) {
  const coloured = state.fields.filter((one) => one.kinds.some((kind) => kind === "text" || kind === "boolean" || kind === "number"));
  const usable = coloured.filter((one) => one.distinct > 1 && one.distinct < Math.max(60, one.items / 3));
  usable.sort((a, b) => Math.abs(a.distinct - COLOURS) - Math.abs(b.distinct - COLOURS));
  let by = (usable[0] ?? coloured[0])?.name ?? "";
  let version = Number(params.get("version") ?? state.about.live);
  const canvas = h("canvas", { class: "map", tabindex: "0", role: "img" });
  const legend = h("ul", { class: "legend", "aria-label": "Colours" });
  const tip = h("p", { class: "tip", hidden: true });
  const status = h("p", { class: "status", role: "status" });
  const scatter = new Scatter(canvas, {
    hover: (point, x, y) => {
      tip.hidden = point === null;
      if (point === null) return;
      tip.textContent = data.lines[point] || data.ids[point];
      tip.style.setProperty("left", `${Math.min(x + 12, canvas.clientWidth - 220)}px`);
      tip.style.setProperty("top", `${y + 12}px`);
    },
    pick: (point) => told(async () => details(await call("GET", itemPath(data.ids[point])), { like: (item) => { location.hash = `#/${encodeURIComponent(state.name)}/search?like=${encodeURIComponent(item.id)}`; } })),
  });
  const names = state.versions.map((one) => [one.number, `version ${one.number}${one.live ? ", live" : ""}`]);
  const step = (by) => { const place = names.findIndex(([n]) => n === version) + by; if (names[place]) { chooser.value = names[place][0]; version = names[place][0]; load(); } };
  const chooser = select(names, version, (value) => { version = Number(value); load(); }, { id: "map-version" });
  put(main, h("h1", {}, "Map"),
    h("div", { class: "row low" }, field("Version", chooser), button("Earlier", () => step(-1), { kind: "small" }), button("Later", () => step(1), { kind: "small" }),
      field("Colour by", select([["", "nothing"], ...coloured.map((one) => [one.name, one.name])], by, (value) => { by = value; load(); }))),
    status, h("div", { class: "map-box" }, canvas, tip), legend,
    h("p", { class: "hint" }, "Two principal axes, turned towards those of version 0, so that points move only as much as versions differ. Drag to move, scroll or + and − to come nearer, arrow keys, 0 for the whole."));
  let data = { ids: [], lines: [] };

  async function load() {
    status.textContent = "Computing …";
    await told(async () => {
      const query = new URLSearchParams({ version, ...(by ? { field: by } : {}) });
      data = await call("GET", at(state.name, `/map?${query}`));
      const counts = new Map();
      for (const value of data.values) if (value !== null && typeof value !== "object") counts.set(String(value), (counts.get(String(value)) ?? 0) + 1);
      const top = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, COLOURS);
      const places = new Map(top.map(([value], place) => [value, place]));
      const colour = data.values.length ? data.values.map((value) => places.get(String(value)) ?? COLOURS) : data.ids.map(() => 0);
      scatter.show(data.ids, data.x, data.y, colour);
      put(legend, top.map(([value, count], place) => h("li", {}, h("i", { class: `dot colour-${place}` }), `${value} (${count})`)),
        by && counts.size > COLOURS ? h("li", {}, h("i", { class: `dot colour-${COLOURS}` }), `${counts.size - COLOURS} others`) : null);
      const part = data.total > data.ids.length ? ` of ${number(data.total)}, the first by id` : "";
      status.textContent = `${plural(data.ids.length, "item")}${part} under version ${data.version}`;
      canvas.setAttribute("aria-label", `Map of ${status.textContent}, ${by ? `coloured by ${by}: ${top.map(([value, count]) => `${value} ${count}`).join(", ")}` : "in one colour"}`);
    });
  }

  await load();
  return () => scatter.close();
}
