// The items of a collection: pages of them, one by one, and whole files with progress.

import { at, call, write } from "../api.js";
import { content, details, metadata } from "../cards.js";
import { button, confirmed, field, h, number, plural, put } from "../dom.js";
import { itemsOf } from "../files.js";
import { itemPath, loadAbout, loadFields, state } from "../state.js";
import { labelled, table } from "../table.js";
import { toast, told } from "../toast.js";

const PAGE = 50;
const COLUMNS = ["Id", "Content", "Metadata", ""];

export default async function view(main) {
  const cursors = [null];
  const body = h("tbody");
  const status = h("p", { class: "status", role: "status" });
  const [earlier, later] = [button("Earlier", () => { cursors.pop(); cursors.pop(); load(); }), button("Later", () => load())];
  const progress = h("div", { role: "status", "aria-live": "polite" });
  const file = h("input", { type: "file", multiple: true, class: "unseen", "aria-label": "Files of items", on: { change: () => bring([...file.files]) } });
  const drop = h("div", { class: "drop panel" }, file, h("p", {}, "Drop files here: .jsonl, .json, .csv, .txt", state.about.modality === "image" ? " or pictures" : ""), button("Choose files", () => file.click(), { icon: "plus", kind: "primary" }), progress);
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); drop.classList.remove("over"); bring([...event.dataTransfer.files]); });
  const one = single();
  put(main, h("h1", {}, "Items"), h("div", { class: "two" }, drop, one),
    status, table(COLUMNS, [], body),
    h("div", { class: "row end" }, earlier, later));

  function single() {
    if (state.about.modality !== "text") return null;
    const [id, text] = [h("input", { type: "text", required: true, maxlength: "512" }), h("textarea", { rows: "3", required: true })];
    return h("form", { class: "panel", on: { submit: (event) => { event.preventDefault(); told(async () => {
      await call("PUT", itemPath(id.value), { text: text.value });
      toast(`Written: ${id.value}`);
      id.value = text.value = "";
      await fresh();
    }); } } }, h("h2", {}, "One item"), field("Id", id), field("Text", text), h("button", { class: "button", type: "submit" }, "Write"));
  }

  async function bring(files) {
    if (!files.length) return;
    let [items, done] = [[], 0];
    const bar = h("progress", { max: 1, value: 0, "aria-label": "Progress of the import" });
    const said = h("p", {}, "Reading …");
    put(progress, said, bar);
    try {
      items = await itemsOf(files, state.about.modality);
      bar.max = items.length || 1;
      const refused = await write(state.name, items, (so, bad) => { bar.value = done = so; said.textContent = `${number(so)} of ${number(items.length)}${bad.length ? `, ${bad.length} refused` : ""}`; });
      put(progress, h("p", {}, `${plural(items.length - refused.length, "item")} written.`),
        refused.length ? h("details", { open: true }, h("summary", {}, `${refused.length} refused`), h("ul", {}, refused.slice(0, 20).map((line) => h("li", {}, `item ${line.line}: ${line.detail}`)))) : null);
    } catch (error) {
      put(progress, h("p", { class: "failed", role: "alert" }, items.length ? `Stopped after ${number(done)} of ${plural(items.length, "item")}: ${error.message}` : error.message));
    }
    file.value = "";
    await told(fresh);
  }

  async function fresh() {
    cursors.splice(0, cursors.length, null);
    await Promise.all([loadAbout(), loadFields()]);
    await load();
  }

  async function load() {
    await told(async () => {
      const after = cursors.at(-1);
      const page = await call("GET", at(state.name, `/items?limit=${PAGE}${after === null ? "" : `&after=${encodeURIComponent(after)}`}`));
      put(body, labelled(COLUMNS, page.items.map(row)));
      cursors.push(page.next);
      later.disabled = page.next === null;
      earlier.disabled = cursors.length <= 2;
      status.textContent = `${plural(state.about.items, "item")}; page ${cursors.length - 1}`;
    });
  }

  function row(item) {
    const remove = async () => {
      if (!(await confirmed("Delete this item?", `${item.id} and its vector are deleted. Judgements about it stay and count again if it returns.`, "Delete"))) return;
      await told(async () => { await call("DELETE", itemPath(item.id)); await fresh(); });
    };
    return h("tr", {}, h("td", { class: "id" }, item.id), h("td", {}, content(item)), h("td", {}, metadata(item.metadata)),
      h("td", {}, button("Open", () => details(item, { remove, like: (which) => { location.hash = `#/${encodeURIComponent(state.name)}/search?like=${encodeURIComponent(which.id)}`; } }), { kind: "small", label: `Open ${item.id}` })));
  }

  await load();
}
