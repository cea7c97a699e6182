// Before and after, side by side, for one's own queries; and what was measured of the later version.

import { at, call } from "../api.js";
import { arrow, content, empty } from "../cards.js";
import { button, field, h, number, plural, put, select } from "../dom.js";
import { report } from "../report.js";
import { described, recent, remember, state } from "../state.js";
import { told } from "../toast.js";

export default async function view(main, params) {
  const numbers = state.versions.map((one) => one.number);
  let left = numbers.includes(Number(params.get("a") ?? NaN)) ? Number(params.get("a")) : 0;
  let right = numbers.includes(Number(params.get("b") ?? NaN)) ? Number(params.get("b")) : state.about.live;
  let query = params.get("q") ? { text: params.get("q") } : (state.query ?? recent()[0] ?? null);
  const k = 12;
  const queries = h("div", { class: "queries", role: "group", "aria-label": "Your queries" });
  const sides = h("div", { class: "sides" });
  const said = h("p", { class: "status", role: "status", id: "moved" });
  const measured = h("section", { class: "panel", "aria-label": "What was measured" });
  const input = h("input", { type: "search", "aria-label": "Another query", placeholder: "Another query" });
  const names = state.versions.map((one) => [one.number, `version ${one.number}${one.number === 0 ? ", the untouched encoder" : ""}${one.live ? ", live" : ""}`]);
  put(main, h("h1", {}, "What changed"),
    h("form", { class: "ask", on: { submit: (event) => { event.preventDefault(); if (input.value.trim()) { query = { text: input.value.trim() }; draw(); } } } },
      field("Before", select(names, left, (value) => { left = Number(value); draw(); })), field("After", select(names, right, (value) => { right = Number(value); draw(); })),
      state.about.modality === "text" ? [input, h("button", { class: "button", type: "submit" }, "Ask")] : null),
    queries, said, sides, measured);

  const version = (n) => state.versions.find((one) => one.number === n);

  async function draw() {
    if (query && !query.image) remember(query);
    put(queries, recent().map((one) => button(described(one), () => { query = one; draw(); }, { kind: `small ${JSON.stringify(one) === JSON.stringify(query) ? "on" : ""}`, "aria-pressed": String(JSON.stringify(one) === JSON.stringify(query)) })));
    if (!query) { put(sides, empty("No query yet", "Search for something first: your last queries are compared here.")); return; }
    await told(async () => {
      const ask = (n) => call("POST", at(state.name, "/search"), { ...query, k, version: n });
      const [before, after] = await Promise.all([ask(left), ask(right)]);
      const rank = new Map(before.hits.map((hit, place) => [hit.id, place]));
      const now = new Map(after.hits.map((hit, place) => [hit.id, place]));
      const rows = after.hits.map((hit, place) => ({ hit, change: rank.has(hit.id) ? rank.get(hit.id) - place : null }));
      const fresh = rows.filter((row) => row.change === null).length;
      const moved = rows.filter((row) => row.change).length;
      said.textContent = left === right ? "The same version on both sides." : `Of ${plural(after.hits.length, "hit")} for ${described(query)}: ${fresh} new, ${moved} moved, ${after.hits.length - fresh - moved} in place.`;
      put(sides, side(`Version ${left}`, before.hits.map((hit) => ({ hit, gone: !now.has(hit.id) }))), side(`Version ${right}`, rows));
    });
    await told(async () => {
      const number = right || left;
      if (!version(number) || number === 0) { put(measured, h("p", { class: "hint" }, "Version 0 is the untouched encoder: nothing was learned and nothing had to be measured.")); return; }
      const one = await call("GET", at(state.name, `/versions/${number}`));
      put(measured, h("h2", {}, `Version ${number}, measured on what it did not learn from`), one.report ? report(one.report) : h("p", {}, one.reason));
    });
  }

  function side(name, rows) {
    return h("section", { class: "panel side", "aria-label": name }, h("h2", {}, name),
      h("ol", { class: "ranking" }, rows.map(({ hit, change, gone }, place) => h("li", { class: gone ? "gone" : change === null ? "fresh" : "", data: { id: hit.id } },
        h("span", { class: "rank" }, place + 1), arrow(change), content(hit), hit.text ? null : h("span", { class: "text" }, hit.metadata.name ?? hit.id), gone ? h("span", { class: "muted small" }, "left") : null, h("span", { class: "score" }, number(hit.score, 3))))));
  }

  await draw();
}
