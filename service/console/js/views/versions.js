// The versions of a collection as a timeline: what each was measured at, and which one is live.

import { at, call } from "../api.js";
import { ago, button, confirmed, h, number, plural, put } from "../dom.js";
import { report } from "../report.js";
import { loadAbout, state } from "../state.js";
import { toast, told } from "../toast.js";

const WORDS = { promoted: "measured better", kept: "kept back", insufficient: "not enough to tell" };

export default async function view(main) {
  const list = h("ol", { class: "timeline", reversed: true });
  const back = button("Roll back", () => told(async () => {
    const { live } = await call("POST", at(state.name, "/rollback"));
    toast(`Version ${live} is live again.`);
    await again();
  }), { icon: "back" });
  put(main, h("div", { class: "row spread" }, h("h1", {}, "Versions"), back),
    h("p", { class: "hint" }, "Every version is learned from all judgements of its time, from the same start: none builds on another, and any of them can be live."), list);

  async function again() {
    await loadAbout();
    put(list, [...state.versions].reverse().map(entry));
  }

  function entry(one) {
    const gain = one.metrics.fed_gain === undefined ? null : `${number(2 ** one.metrics.fed_gain, 2)}× as near to the top`;
    const more = h("details", {}, h("summary", {}, "Report"));
    more.addEventListener("toggle", () => {
      if (more.open && more.children.length === 1) told(async () => { const whole = await call("GET", at(state.name, `/versions/${one.number}`)); more.append(whole.report ? report(whole.report, { reason: false }) : h("p", {}, one.reason)); });
    });
    return h("li", { class: `version ${one.live ? "live" : ""}`, data: { version: one.number } },
      h("div", { class: "row spread" }, h("h2", {}, `Version ${one.number}`, one.live ? h("span", { class: "chip good" }, "live") : null),
        h("div", { class: "row" },
          one.live ? null : button("Activate", () => activate(one), { kind: "primary", label: `Activate version ${one.number}` }),
          one.number === state.about.live ? null : h("a", { class: "button", href: `#/${encodeURIComponent(state.name)}/changes?a=${state.about.live}&b=${one.number}` }, "Compare with live"))),
      h("p", { class: "muted" }, one.number === 0 ? `The untouched encoder, ${one.encoder}` : `${WORDS[one.decision]} · ${one.method}, strength ${number(one.strength, 2)} · ${plural(one.judgements, "judgement")} · ${ago(one.created)}`),
      one.number ? h("p", {}, one.reason) : null, gain ? h("p", {}, h("b", {}, gain)) : null, one.number ? more : null);
  }

  async function activate(one) {
    if (one.decision !== "promoted" && one.number && !(await confirmed(`Make version ${one.number} live?`, `It was ${WORDS[one.decision]}: ${one.reason}`, "Make it live"))) return;
    await told(async () => {
      await call("POST", at(state.name, `/versions/${one.number}/activate`));
      toast(`Version ${one.number} is live.`);
      await again();
    });
  }

  await told(again);
}
