// Sample data in one click, for whoever has none at hand yet.

import { at, call, write } from "./api.js";
import { button, dialog, field, h, icon, number, put, select } from "./dom.js";
import { keep } from "./state.js";

const KINDS = {
  openmoji: ["Pictures", "Emoji by OpenMoji (CC BY-SA 4.0). Teach it moods, then colours: the same pictures, two notions of similar.", "image"],
  "python-docs": ["Texts", "The documentation of this Python. Teach it what belongs to one module.", "items"],
};
const SIZES = [[100, "100 items, a few seconds"], [600, "600 items, half a minute"], [1500, "1,500 items"], [3000, "3,000 items, a minute or more"]];

/** Fetch a sample and write it into a collection of its own; resolves with its name. */
async function bring(kind, limit, said, bar) {
  said.textContent = "Gathering …";
  const sample = await call("GET", `/v1/samples/${kind}?limit=${limit}`);
  const there = (await call("GET", "/v1/collections")).collections;
  if (!there.includes(sample.name)) await call("POST", "/v1/collections", { name: sample.name, encoder: sample.encoder });
  bar.max = sample.items.length;
  const refused = await write(sample.name, sample.items.map(({ id, text, image, metadata }) => ({ id, ...(text ? { text } : { image }), metadata })),
    (done) => { bar.value = done; said.textContent = `Encoding: ${number(done)} of ${number(sample.items.length)}`; }, 48);
  if (refused.length) throw new Error(`${refused.length} items were refused: ${refused[0].detail}`);
  keep("examples", sample.queries, sample.name);
  keep("lessons", sample.lessons, sample.name);
  return sample.name;
}

/** One button for each sample; goes to its search view. `done` is called before. */
function choices(done = () => {}) {
  let limit = 600;
  const said = h("p", { role: "status", "aria-live": "polite" });
  const bar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "Progress" });
  const size = select(SIZES, limit, (value) => { limit = Number(value); }, { id: "sample-size" });
  const buttons = Object.entries(KINDS).map(([kind, [name, text, picture]]) =>
    h("button", { type: "button", class: "choice", data: { sample: kind }, on: { click: () => start(kind) } }, icon(picture), h("b", {}, name), h("span", {}, text)));
  async function start(kind) {
    for (const one of [...buttons, size]) one.disabled = true;
    bar.hidden = false;
    try {
      const name = await bring(kind, limit, said, bar);
      done();
      location.hash = `#/${encodeURIComponent(name)}/search`;
    } catch (error) {
      put(said, h("span", { class: "failed", role: "alert" }, error.message));
      bar.hidden = true;
      for (const one of [...buttons, size]) one.disabled = false;
    }
  }
  return [h("div", { class: "choices" }, buttons), field("How many", size), said, bar];
}

/** Ask which sample, and bring it. */
export function bringSample() {
  return dialog("Sample data", (close) => [...choices(close), h("div", { class: "row end" }, button("Close", () => close()))]);
}

/** What is shown while there is no collection. */
export function welcome(main) {
  put(main, h("div", { class: "welcome" }, h("h1", {}, "Teach it what you mean by similar"),
    h("ol", { class: "steps" }, h("li", {}, h("b", {}, "Search"), " and see what comes up."), h("li", {}, h("b", {}, "Mark"), " about five items that fit."), h("li", {}, h("b", {}, "Adapt"), ": seconds later everything is found under your notion, if that measures better.")),
    h("section", { class: "panel", "aria-label": "Sample data" }, h("h2", {}, "Try it with sample data"), choices()),
    h("p", {}, "Or ", h("a", { href: "#/-/operate/collections" }, "make a collection of your own"), "."),
    h("p", { class: "hint" }, "Everything the console does goes over the HTTP API: ", h("a", { href: "/docs" }, "its manual"), ".")));
}
