// Sample data in one click, for whoever has none at hand yet.

import { at, call, write } from "./api.js";
import { button, dialog, field, h, number, put, select } from "./dom.js";
import { loadCollections } from "./state.js";

const KINDS = {
  "python-docs": ["Texts: Python's documentation", "Functions and classes of the Python on the service's machine. Teach it what belongs to one module."],
  openmoji: ["Pictures: OpenMoji", "Emoji, drawn by OpenMoji (CC BY-SA 4.0). Teach it what they show: food, animals, faces, or a notion of your own."],
};

/** Fetch a sample and write it into a collection of its own; resolves with its name. */
async function write_sample(kind, limit, said, bar) {
  said.textContent = "Gathering …";
  const sample = await call("GET", `/v1/samples/${kind}?limit=${limit}`);
  const there = (await call("GET", "/v1/collections")).collections;
  if (!there.includes(sample.name)) await call("POST", "/v1/collections", { name: sample.name, encoder: sample.encoder });
  bar.max = sample.items.length;
  const refused = await write(sample.name, sample.items.map(({ id, text, image, metadata }) => ({ id, ...(text ? { text } : { image }), metadata })),
    (done) => { bar.value = done; said.textContent = `Encoding: ${number(done)} of ${number(sample.items.length)}`; }, 48);
  if (refused.length) throw new Error(`${refused.length} items were refused: ${refused[0].detail}`);
  localStorage.setItem(`vecmeta-examples-${sample.name}`, JSON.stringify(sample.queries));
  return sample.name;
}

/** Ask which sample, and bring it; goes to its search view. */
export function bringSample() {
  return dialog("Sample data", (close) => {
    let limit = 600;
    const said = h("p", { role: "status", "aria-live": "polite" });
    const bar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "Progress" });
    const choices = Object.entries(KINDS).map(([kind, [name, text]]) =>
      h("button", { type: "button", class: "choice", data: { sample: kind }, on: { click: () => start(kind) } }, h("b", {}, name), h("span", {}, text)));
    async function start(kind) {
      choices.forEach((choice) => { choice.disabled = true; });
      bar.hidden = false;
      try {
        const name = await write_sample(kind, limit, said, bar);
        await loadCollections();
        close();
        location.hash = `#/${encodeURIComponent(name)}/search`;
      } catch (error) {
        put(said, h("span", { class: "bad", role: "alert" }, error.message));
        bar.hidden = true;
        choices.forEach((choice) => { choice.disabled = false; });
      }
    }
    return [...choices, field("How many items", select([[200, "200, a few seconds"], [600, "600"], [1500, "1,500"], [3000, "3,000, a minute"]], limit, (value) => { limit = Number(value); }, { id: "sample-size" })),
      said, bar, h("div", { class: "row end" }, button("Close", () => close()))];
  });
}
