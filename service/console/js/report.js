// What an adaptation found, in words and as intervals.

import { bytes, h, number, s } from "./dom.js";

const DECISIONS = { promoted: "It measures better", kept: "Kept back", insufficient: "Not enough to tell" };

/** A gain in halvings of the rank, with its interval, on a line with zero in the middle. */
function interval(label, metrics, part) {
  const gain = metrics[`${part}_gain`];
  if (gain === undefined) return null;
  const [low, high] = [metrics[`${part}_gain_low`] ?? gain, metrics[`${part}_gain_high`] ?? gain];
  const reach = Math.max(0.5, Math.abs(low), Math.abs(high)) * 1.15;
  const x = (value) => 110 + (value / reach) * 100;
  const kind = low > 0 ? "good" : high < 0 ? "bad" : "unsure";
  const times = (halvings) => `${number(2 ** halvings, 2)}×`;
  const words = `${label}: ${times(gain)} as near to the top, interval ${times(low)} to ${times(high)}`;
  return h("figure", { class: "interval" },
    h("figcaption", {}, label, h("b", { class: kind }, times(gain)), h("small", {}, `90 %: ${times(low)} to ${times(high)}`)),
    s("svg", { viewBox: "0 0 220 22", preserveAspectRatio: "xMinYMid", role: "img", "aria-label": words, class: kind },
      s("line", { class: "axis", x1: 0, x2: 220, y1: 11, y2: 11 }), s("line", { class: "zero", x1: 110, x2: 110, y1: 2, y2: 20 }),
      s("line", { class: "range", x1: x(low), x2: x(high), y1: 11, y2: 11 }), s("circle", { cx: x(gain), cy: 11, r: 4.5 })));
}

/** A share of `count` tests with its 90 % interval (Wilson 1927). */
function share(value, count) {
  const z2 = 1.645 ** 2 / count;
  const [middle, half] = [(value + z2 / 2) / (1 + z2), (Math.sqrt(z2 * value * (1 - value) + z2 ** 2 / 4)) / (1 + z2)];
  return `${number(value * 100)} % (${number((middle - half) * 100)} to ${number((middle + half) * 100)} %)`;
}

const facts = (pairs) => h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));

/** A report as the service gives it. */
export function report(told, { short = false, reason = true } = {}) {
  const m = told.metrics;
  const rank = (part) => (m[`${part}_rank`] === undefined ? null : `${number(m[`${part}_rank_base`], 1)} → ${number(m[`${part}_rank`], 1)}`);
  const worse = (part) => (m[`${part}_tests`] ? share(m[`${part}_worse`], m[`${part}_tests`]) : null);
  const head = told.dry_run ? `Preview: ${DECISIONS[told.decision].toLowerCase()}` : DECISIONS[told.decision];
  const parts = [
    h("p", { class: `decision ${told.decision}` }, h("b", {}, head)), reason ? h("p", {}, told.reason) : null,
    interval("What you taught", m, "fed"), interval("What you did not speak of", m, "unfed"),
  ];
  if (told.dry_run && Object.keys(told.cost).length)
    parts.push(facts([["Re-embed", `${number(told.cost.rows ?? 0)} items`], ["Takes about", told.cost.seconds < 0.1 ? "under 0.1 s" : `${number(told.cost.seconds, 1)} s`], ["Index", bytes(told.cost.bytes ?? 0)]]));
  if (!short) {
    parts.push(facts([
      ["Mean rank of what you taught", rank("fed")], ["Mean rank of the rest", rank("unfed")],
      ["Worse, of what you taught", worse("fed")], ["Worse, of the rest", worse("unfed")],
      ["Neighbours kept", m.neighbours_kept === undefined ? null : `${number(m.neighbours_kept * 100)} %`], ["Torn neighbourhoods", `${number(told.harmed * 100, 1)} %`],
      ["Unlike the training", m.shift === undefined ? null : `${number(m.shift, 2)} (limit 1)`], ["Took", told.seconds.total === undefined ? null : `${number(told.seconds.total, 1)} s`],
    ]));
    if (told.changed.length)
      parts.push(h("details", {}, h("summary", {}, "Lists that moved most"), h("ul", { class: "moved" }, told.changed.map((change) =>
        h("li", {}, h("b", {}, change.query), h("p", {}, h("span", { class: "good" }, `+ ${change.entered.join(", ")}`)), h("p", {}, h("span", { class: "bad" }, `− ${change.left.join(", ")}`)))))));
  }
  const said = [...told.notes, ...told.contradictions];
  if (said.length) parts.push(h("ul", { class: "notes" }, said.map((note) => h("li", {}, note))));
  return h("div", { class: "report" }, parts);
}
