// Elements from calls. Data only ever becomes text nodes, attributes and properties: nothing here parses markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element. Props: `class`, `style` (an object), `on` (listeners), `data` (an object), anything else is an attribute; null leaves it out. */
export function h(tag, props = {}, ...children) {
  return filled(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function s(tag, props = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), props, children);
}

function filled(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  add(element, children);
  return element;
}

/** Append texts and elements; lists are flattened, null and false are left out. */
export function add(element, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** Put other children in place of those that are there. */
export function put(element, ...children) {
  element.replaceChildren();
  return add(element, children);
}

const PATHS = {
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14Zm5 12 4.5 4.5",
  changes: "M8 4v15m0 0-4-4m4 4 4-4M16 20V5m0 0-4 4m4-4 4 4",
  map: "M5 7a1.500 1.500 0 1 0 3 0 1.500 1.500 0 1 0-3 0M15 6a1.500 1.500 0 1 0 3 0 1.500 1.500 0 1 0-3 0M9 13a1.500 1.500 0 1 0 3 0 1.500 1.500 0 1 0-3 0M16 17a1.500 1.500 0 1 0 3 0 1.500 1.500 0 1 0-3 0M5 19h.01",
  versions: "M6 4v16M6 6h4m-4 6h8m-8 6h12",
  items: "M4 6h16M4 12h16M4 18h16",
  operate: "M4 18V9m5 9V5m5 13v-7m5 7V8",
  up: "M7 11v9H4v-9h3Zm0 0 4-7a2.2 2.2 0 0 1 2 2.6L12.500 10H18a2 2 0 0 1 2 2.300l-1 6A2 2 0 0 1 17 20H7",
  down: "M17 13V4h3v9h-3Zm0 0-4 7a2.200 2.200 0 0 1-2-2.600l.5-3.400H6a2 2 0 0 1-2-2.300l1-6A2 2 0 0 1 7 4h10",
  like: "M9 9h11v11H9zM4 15V4h11",
  close: "M6 6l12 12M18 6 6 18",
  plus: "M12 5v14M5 12h14",
  image: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M9 9h.01",
  moon: "M20 14A8 8 0 0 1 10 4a8 8 0 1 0 10 10Z",
  key: "M8 8.500a3.800 3.800 0 1 0 0 7.600 3.800 3.800 0 1 0 0-7.600M11.800 12.300H21v3.200m-4-3.200v2.400",
  spark: "M12 3v5m0 8v5M3 12h5m8 0h5M6 6l3 3m6 6 3 3M18 6l-3 3m-6 6-3 3",
  check: "M5 12.500 10 17l9-10",
  back: "M9 7 4 12l5 5M4 12h11a5 5 0 0 1 0 10",
};

/** A line icon, hidden from screen readers: the button that has it has a name. */
export function icon(name) {
  return s("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, s("path", { d: PATHS[name] }));
}

/** A button; with `icon` alone it needs `label`. */
export function button(text, onclick, { kind = "", icon: name = null, label = null, ...more } = {}) {
  const props = { type: "button", class: `button ${kind}`, "aria-label": label, title: label, on: { click: onclick }, ...more };
  return h("button", props, name ? icon(name) : null, text ? h("span", {}, text) : null);
}

/** A labelled field around a control. */
export function field(label, control, hint = null) {
  return h("label", { class: "field" }, h("span", { class: "field-name" }, label), control, hint ? h("small", {}, hint) : null);
}

/** A select of [value, text] pairs. */
export function select(pairs, chosen, onchange, props = {}) {
  const options = pairs.map(([value, text]) => h("option", { value, selected: String(value) === String(chosen) }, text));
  return h("select", { ...props, on: { change: (event) => onchange?.(event.target.value) } }, options);
}

export const number = (value, digits = 0) => Number(value).toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
export const plural = (count, one, many = one + "s") => `${number(count)} ${count === 1 ? one : many}`;

/** How long ago, in words. */
export function ago(time) {
  const seconds = (Date.now() - new Date(time).getTime()) / 1000;
  for (const [size, name] of [[86400, "day"], [3600, "hour"], [60, "minute"]])
    if (seconds >= size) return `${plural(Math.floor(seconds / size), name)} ago`;
  return "just now";
}

export function bytes(count) {
  for (const [size, name] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) if (count >= size) return `${number(count / size, 1)} ${name}`;
  return `${number(count)} B`;
}

/** A dialog that is modal, closes with Escape, and gives focus back; resolves with what `close(value)` was called with. */
export function dialog(title, build) {
  return new Promise((resolve) => {
    const before = document.activeElement;
    let answer;
    const close = (value) => { answer = value; box.close(); };
    const head = h("h2", { id: "dialog-title" }, title);
    const box = h("dialog", { class: "dialog", "aria-labelledby": "dialog-title" }, head);
    add(box, build(close));
    box.addEventListener("close", () => { box.remove(); before?.focus?.(); resolve(answer); });
    document.body.append(box);
    box.showModal();
  });
}

/** Ask before something that cannot be taken back. */
export function confirmed(title, text, yes) {
  return dialog(title, (close) => [
    h("p", {}, text),
    h("div", { class: "row end" }, button("Cancel", () => close(false)), button(yes, () => close(true), { kind: "danger" })),
  ]);
}
