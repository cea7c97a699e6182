// A small line chart of what changes over time.

import { h, number, s } from "./dom.js";

const [W, H] = [300, 90];

/** `values`: numbers, oldest first; null where there was none. */
export function chart(title, values, { unit = "", digits = 0 } = {}) {
  const real = values.filter((value) => value !== null);
  const most = Math.max(1e-9, ...real);
  const now = real.length ? `${number(real.at(-1), digits)}${unit}` : "–";
  const x = (place) => (values.length < 2 ? W : (place / (values.length - 1)) * W);
  let path = "";
  values.forEach((value, place) => { if (value !== null) path += `${path && values[place - 1] !== null ? "L" : "M"}${x(place).toFixed(1)} ${(H - 4 - (value / most) * (H - 12)).toFixed(1)}`; });
  return h("figure", { class: "panel chart" }, h("figcaption", {}, title, h("b", {}, now)),
    s("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title}: now ${now}, at most ${number(most, digits)}${unit}`, preserveAspectRatio: "none" }, s("path", { d: `M0 ${H - 4}H${W}`, class: "axis" }), s("path", { d: path || "M0 0", class: "line" })),
    h("small", {}, real.length ? `at most ${number(most, digits)}${unit}` : "nothing yet"));
}

/** Prometheus's text as [{name, labels, value}]. */
export function metrics(text) {
  const found = [];
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name, value.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c))]));
    found.push({ name: match[1], labels, value: Number(match[3]) });
  }
  return found;
}

/** The q-quantile of what was added between two readings of a histogram; null when nothing was. */
export function quantile(buckets, q) {
  const total = buckets.at(-1)?.[1] ?? 0;
  if (!total) return null;
  let [low, before] = [0, 0];
  for (const [end, count] of buckets) {
    if (count >= q * total) return end === Infinity ? low : low + ((end - low) * (q * total - before)) / Math.max(1, count - before);
    [low, before] = [end, count];
  }
  return low;
}
