// Items as cards: what they hold, how near they are, and what can be said about them.

import { button, dialog, h, icon, number } from "./dom.js";
import { conceptsOf, score, state } from "./state.js";

/** A base64 picture as an address that an <img> takes. */
export function pictureUrl(base64) {
  const kind = base64.startsWith("iVBOR") ? "png" : base64.startsWith("/9j/") ? "jpeg" : base64.startsWith("R0lG") ? "gif" : "webp";
  return `data:image/${kind};base64,${base64}`;
}

/** The content of an item or hit. */
export function content(item, { whole = false } = {}) {
  if (item.image) return h("img", { class: "picture", src: pictureUrl(item.image), alt: String(item.metadata.name ?? item.id), loading: "lazy" });
  if (item.text) return h("p", { class: whole ? "text whole" : "text" }, item.text);
  return h("p", { class: "text muted" }, "an own vector");
}

/** Metadata as name and value. */
export function metadata(values) {
  const shown = Object.entries(values);
  if (!shown.length) return null;
  return h("dl", { class: "metadata" }, shown.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, typeof value === "string" ? value : JSON.stringify(value)))));
}

/** Places won or lost; null: it was not among them. */
export function arrow(change, { among = "before" } = {}) {
  if (change === undefined) return null;
  if (change === null) return h("span", { class: "arrow new", data: { change: "new" }, title: `not among the hits ${among}` }, "new");
  const [kind, sign, words] = change > 0 ? ["up", "▲", "up"] : change < 0 ? ["down", "▼", "down"] : ["same", "=", ""];
  const said = change ? `${words} ${Math.abs(change)}` : "same place";
  return h("span", { class: `arrow ${kind}`, data: { change }, title: `${said} against ${among}` },
    h("span", { "aria-hidden": "true" }, change ? `${sign}${Math.abs(change)}` : sign), h("span", { class: "unseen" }, said));
}

const named = (item) => (item.text ? item.text.slice(0, 60) : item.metadata?.name ?? item.id);

/** A card. `does`: {mark(item, score), like(item), tick(item, on)}. */
export function card(item, rank, does) {
  const what = named(item);
  const said = score(item.id);
  const thumb = (value, name, words) =>
    button("", () => does.mark(item, said === value ? 0 : value),
      { kind: `thumb ${name}${said === value ? " on" : ""}`, icon: name, label: `${words}: ${what}`, "aria-pressed": String(said === value) });
  const tick = h("input", { type: "checkbox", "aria-label": `Tick: ${what}`, on: { change: (event) => does.tick(item, event.target.checked) } });
  tick.checked = state.ticked.has(item.id);
  const chips = conceptsOf(item.id).map((name) => h("span", { class: "chip concept" }, name));
  const box = h("li", {
    class: `card ${item.image ? "pictured" : ""} ${said > 0 ? "liked" : said < 0 ? "disliked" : ""}`, tabindex: "0", draggable: "true", data: { id: item.id },
    "aria-label": `${rank === null ? "" : `${rank}. `}${what}`,
  },
    h("div", { class: "card-head" }, tick, rank === null ? null : h("span", { class: "rank" }, rank),
      arrow(item.rank_change, { among: "the untouched encoder" }),
      item.score === undefined ? null : h("span", { class: "score", title: "cosine" }, number(item.score, 3))),
    content(item), h("p", { class: "id" }, item.id), item.why ? h("p", { class: "why" }, item.why) : null, metadata(item.metadata),
    chips.length ? h("div", { class: "chips" }, chips) : null,
    h("div", { class: "card-foot" }, thumb(1, "up", "Fits"), thumb(-1, "down", "Does not fit"),
      button("More like this", () => does.like(item), { kind: "quiet", icon: "like" }),
      button("", () => details(item, does), { kind: "quiet", icon: "items", label: `All of it: ${what}` })));
  box.addEventListener("keydown", (event) => {
    if (event.target !== box || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = { "+": () => does.mark(item, 1), "-": () => does.mark(item, -1), "0": () => does.mark(item, 0), m: () => does.like(item), x: () => tick.click(), Enter: () => details(item, does) }[event.key];
    const step = { ArrowDown: "nextElementSibling", ArrowRight: "nextElementSibling", ArrowUp: "previousElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
    if (key) { event.preventDefault(); key(); } else if (step && box[step]) { event.preventDefault(); box[step].focus(); }
  });
  box.addEventListener("dragstart", (event) => {
    const ids = state.ticked.has(item.id) ? [...state.ticked] : [item.id];
    event.dataTransfer.setData("application/x-vecmeta-ids", JSON.stringify(ids));
    event.dataTransfer.effectAllowed = "copy";
  });
  return box;
}

/** The whole item in a dialog. */
export function details(item, does = {}) {
  return dialog("Item", (close) => [
    h("p", { class: "id" }, item.id), content(item, { whole: true }), metadata(item.metadata),
    h("div", { class: "row end" },
      does.like ? button("More like this", () => { close(); does.like(item); }, { icon: "like" }) : null,
      does.remove ? button("Delete", () => { close(); does.remove(item); }, { kind: "danger" }) : null,
      button("Close", () => close(), { kind: "primary" })),
  ]);
}

export const empty = (title, text, ...more) => h("div", { class: "empty" }, icon("spark"), h("h2", {}, title), h("p", {}, text), more);
