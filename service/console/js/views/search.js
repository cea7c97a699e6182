// Search: a query, its hits as cards, and the teaching panel beside them.

import { ApiError, at, call } from "../api.js";
import { card, empty } from "../cards.js";
import { add, button, h, number, plural, put, select } from "../dom.js";
import { Filter } from "../filter.js";
import { changed, described, kept, mark, remember, state } from "../state.js";
import { Teach } from "../teach.js";
import { toast, told } from "../toast.js";

export default async function view(main, params) {
  const image = state.about.modality === "image";
  const asks = state.about.modality === "text";
  let k = 12;
  let hits = [];
  let mode = "hits"; // or "suggestions"
  let turn = 0;

  const input = h("input", { type: "search", id: "query", "aria-label": "What to look for", autocomplete: "off", placeholder: image ? "Drop or choose a picture" : asks ? "What are you looking for?" : "Choose an item below", disabled: !asks });
  const file = h("input", { type: "file", accept: "image/*", class: "unseen", "aria-label": "A picture to search by", on: { change: () => byPicture(file.files[0]) } });
  const status = h("p", { class: "status", role: "status", "aria-live": "polite", id: "status" });
  const list = h("ol", { class: `cards ${image ? "pictures" : ""}`, "aria-label": "Hits" });
  const filter = new Filter(state.fields, () => state.query && search());
  const form = h("form", { class: "ask", role: "search", on: { submit: (event) => { event.preventDefault(); if (input.value.trim()) search({ text: input.value.trim() }); } } },
    input, image ? [file, button("Picture", () => file.click(), { icon: "image", kind: "primary" })] : asks && h("button", { class: "button primary", type: "submit" }, "Search"));
  const count = select([5, 12, 24, 50].map((n) => [n, `${n} hits`]), k, (value) => { k = Number(value); if (state.query) search(); }, { "aria-label": "How many hits" });
  const examples = h("div", { class: "examples" });
  const teach = new Teach({ suggest: () => { teach.element.classList.remove("open"); suggest(); } }); // on a phone it would lie above them
  const column = h("div", { class: "column" }, h("h1", { class: "unseen" }, `Search ${state.name}`), form, h("div", { class: "row narrowing" }, filter.element, count), examples, status, list);
  const opener = button("Teach", () => teach.element.classList.toggle("open"), { kind: "primary teach-opener", icon: "up" });
  put(main, h("div", { class: "with-panel" }, column, teach.element), opener);

  const does = {
    mark: (item, value) => told(() => mark([item.id], value)),
    like: (item) => { input.value = ""; search({ id: item.id }); scrollTo({ top: 0 }); },
    tick: (item, on) => { if (on) state.ticked.add(item.id); else state.ticked.delete(item.id); teach.draw(); },
  };

  function draw() {
    const focused = list.contains(document.activeElement) ? [document.activeElement.closest("[data-id]")?.dataset.id, document.activeElement.className.match(/up|down/)?.[0]] : [];
    put(list, hits.map((hit, place) => card(hit, mode === "hits" ? place + 1 : null, does)));
    if (focused[0]) {
      const again = [...list.children].find((one) => one.dataset.id === focused[0]);
      (again?.querySelector(focused[1] ? `.thumb.${focused[1]}` : null) ?? again)?.focus();
    }
  }

  async function search(query = state.query) {
    if (!query) return;
    mode = "hits";
    const mine = (turn += 1);
    state.query = query;
    list.setAttribute("aria-busy", "true");
    const begin = performance.now();
    const body = { ...query, k, compare: state.about.live > 0, ...(filter.where() ? { where: filter.where() } : {}) };
    try {
      const answer = await call("POST", at(state.name, "/search"), body);
      if (mine !== turn) return;
      hits = answer.hits.map((hit) => (answer.base ? { ...hit, rank_change: hit.rank_change ?? null } : hit));
      const moved = answer.base ? `, ${hits.filter((hit) => hit.rank_change !== 0).length} moved against the untouched encoder` : "";
      status.textContent = `${plural(hits.length, "hit")} · ${described(query)} · version ${answer.version} · ${number(performance.now() - begin)} ms${moved}`;
      remember(query);
      put(examples);
      if (!hits.length) status.textContent += " — nothing matches the filter";
      teach.draw();
      draw();
    } catch (error) {
      if (mine !== turn) return;
      status.textContent = error instanceof ApiError && error.status === 413 ? `Too large: ${error.message}` : error.message;
    } finally {
      list.removeAttribute("aria-busy");
    }
  }

  async function byPicture(picture) {
    if (!picture) return;
    if (!image) { toast("This collection is searched by text; pictures suit collections with the encoder “image”."); return; }
    const data = new Uint8Array(await picture.arrayBuffer());
    let binary = "";
    for (let place = 0; place < data.length; place += 8192) binary += String.fromCharCode(...data.subarray(place, place + 8192));
    search({ image: btoa(binary) });
  }

  async function suggest() {
    turn += 1; // what is still being asked for comes too late
    await told(async () => {
      status.textContent = "Looking for what a label would tell most …";
      const found = await call("GET", at(state.name, "/suggestions?k=12"));
      mode = "suggestions";
      hits = found.suggestions.map((one) => ({ ...one.item, why: one.why }));
      status.textContent = hits.length ? `${plural(hits.length, "item")} worth labelling next` : "Everything is labelled.";
      draw();
    });
  }

  column.addEventListener("dragover", (event) => { if (event.dataTransfer.types.includes("Files")) event.preventDefault(); });
  column.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    byPicture(event.dataTransfer.files[0]);
  });
  const marked = () => draw();
  const versions = () => { if (state.query && mode === "hits") search(); };
  changed.addEventListener("marks", marked);
  changed.addEventListener("versions", versions);

  const asked = params.get("like") ? { id: params.get("like") } : params.get("q") ? { text: params.get("q") } : state.query;
  if (asked) { input.value = asked.text ?? ""; await search(asked); }
  else if (!state.about.items) put(list, h("li", { class: "plain" }, empty("Nothing here yet", "This collection has no items.", h("a", { class: "button primary", href: `#/${encodeURIComponent(state.name)}/items` }, "Add items"))));
  else {
    const tries = kept("examples");
    if (asks && tries.length) add(put(examples), h("span", {}, "Try"), tries.map((text) => button(text, () => { input.value = text; search({ text }); }, { kind: "small" })));
    if (asks) input.focus();
    const mine = turn;
    const seen = await told(() => call("GET", at(state.name, "/items?limit=12")));
    if (seen && mine === turn) { mode = "items"; hits = seen.items; status.textContent = `${seen.items.length} of ${plural(state.about.items, "item")}. ${asks ? "Ask for something" : image ? "Drop a picture" : "Choose an item"}${asks || image ? ", or choose “More like this”" : ""}.`; draw(); }
  }
  return () => {
    changed.removeEventListener("marks", marked);
    changed.removeEventListener("versions", versions);
    teach.close();
  };
}
