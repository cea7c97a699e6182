// The teaching panel: what thumbs are about, concepts, contradictions, what to label next, and the Adapt button.

import { at, call, follow } from "./api.js";
import { add, button, field, h, number, plural, put, select } from "./dom.js";
import { report } from "./report.js";
import { changed, concepts, described, loadAbout, loadMarks, mark, setTarget, state } from "./state.js";
import { toast } from "./toast.js";

const STAGES = { queued: "Waiting for a worker", encoding: "Encoding", adapting: "Learning", evaluating: "Measuring on what was held out", building: "Re-embedding and indexing", ready: "About to go live" };

/** The panel; `suggest` shows suggestions in the view beside it. */
export class Teach {
  constructor({ suggest }) {
    this.suggest = suggest;
    this.job = null;
    this.outcome = null;
    this.result = h("div", { class: "result", role: "status", "aria-live": "polite" });
    this.body = h("div", { class: "teach-body" });
    this.element = h("aside", { class: "teach", id: "teach", "aria-label": "Teach" }, h("h2", {}, "Teach"), this.body, this.result);
    this.redraw = () => this.draw();
    changed.addEventListener("marks", this.redraw);
    this.draw();
  }

  close() {
    changed.removeEventListener("marks", this.redraw);
    this.aborter?.abort();
  }

  draw() {
    const named = concepts();
    const about = state.target.concept;
    const pairs = [["", state.query ? `the search ${described(state.query)}` : "the search"], ...named.map(([name]) => [`=${name}`, `the concept ${name}`])];
    if (about !== null && !named.some(([name]) => name === about)) pairs.push([`=${about}`, `the concept ${about} (new)`]);
    const input = h("input", { type: "text", maxlength: "200", placeholder: "refunds, cheerful, …", "aria-label": "A new concept's name" });
    const make = () => { const name = input.value.trim(); if (name) setTarget(name); };
    const form = h("form", { class: "row", on: { submit: (event) => { event.preventDefault(); make(); } } }, input, h("button", { class: "button", type: "submit" }, "New"));
    const ready = state.marks.length > 0;
    put(this.body,
      field("Thumbs say what fits", select(pairs, about === null ? "" : `=${about}`, (value) => setTarget(value ? value.slice(1) : null), { id: "target" })),
      h("details", { class: "concepts", open: true }, h("summary", {}, plural(named.length, "concept")), form,
        named.length ? h("ul", { class: "concept-list" }, named.map(([name, count]) => this.concept(name, count))) : null,
        h("p", { class: "hint" }, "Drag cards onto a concept, or tick them and add them.")),
      state.contradictions.length ? h("details", { class: "contradictions" }, h("summary", {}, plural(state.contradictions.length, "contradiction")),
        h("ul", {}, state.contradictions.map((said) => h("li", {}, said)))) : null,
      button("What should I label next?", () => this.suggest(), { kind: "wide", icon: "spark" }),
      h("p", { class: "understood", id: "understood" }, ready ? this.understood() : "Mark about five items that fit, for one concept or more."),
      h("div", { class: "adapt" },
        button("Adapt", () => this.adapt(false), { kind: "primary big wide", disabled: !ready || this.job !== null, id: "adapt" }),
        button("Preview the cost", () => this.adapt(true), { kind: "wide", disabled: !ready || this.job !== null, id: "preview" })));
  }

  understood() {
    const up = state.marks.filter((one) => one.score > 0).length;
    const queries = new Set(state.marks.filter((one) => one.query).map((one) => JSON.stringify(one.query))).size;
    return `${plural(up, "item")} that fit, ${number(state.marks.length - up)} that do not: ${plural(concepts().length, "concept")}, ${plural(queries, "search", "searches")}.`;
  }

  concept(name, count) {
    const give = async (ids) => {
      if (!ids.length) return toast("Tick some cards first.");
      return this.tell(ids, name);
    };
    const row = h("li", { class: `concept-row ${state.target.concept === name ? "chosen" : ""}`, data: { concept: name } },
      h("button", { type: "button", class: "concept-name", "aria-pressed": String(state.target.concept === name), on: { click: () => setTarget(name) } }, name),
      h("span", { class: "count", title: `${count} marked` }, count),
      button("", () => give([...state.ticked]), { kind: "quiet small", icon: "plus", label: `Add the ticked cards to ${name}` }));
    row.addEventListener("dragover", (event) => { event.preventDefault(); row.classList.add("over"); });
    row.addEventListener("dragleave", () => row.classList.remove("over"));
    row.addEventListener("drop", (event) => {
      event.preventDefault();
      row.classList.remove("over");
      const ids = event.dataTransfer.getData("application/x-vecmeta-ids");
      if (ids) give(JSON.parse(ids));
    });
    return row;
  }

  async tell(ids, concept) {
    try {
      const said = await mark(ids, 1, { concept });
      toast(`${plural(said.new, "new mark")} for ${concept}${said.duplicate ? `, ${said.duplicate} known` : ""}`);
    } catch (error) {
      toast(error.message, "bad");
    }
  }

  async adapt(dry) {
    this.aborter = new AbortController();
    const bar = h("progress", { max: 1, "aria-label": "Progress" });
    const stage = h("p", {}, "Starting …");
    const stop = button("Cancel", () => this.job?.id && call("POST", `/v1/jobs/${this.job.id}/cancel`).catch((error) => toast(error.message, "bad")), { kind: "small" });
    put(this.result, h("div", { class: "progress" }, stage, bar, stop));
    this.job = {};
    this.draw();
    try {
      this.job = await call("POST", at(state.name, "/adapt"), dry ? { dry_run: true } : {});
      const job = await follow(this.job.id, (seen) => {
        stage.textContent = `${STAGES[seen.state] ?? seen.state}${seen.eta ? `, about ${number(seen.eta, 0)} s` : ""}`;
        if (seen.total) bar.value = seen.done / seen.total; else bar.removeAttribute("value");
      }, this.aborter.signal);
      this.ended(job);
    } catch (error) {
      if (error.name !== "AbortError") put(this.result, h("p", { class: "failed", role: "alert" }, error.message));
    } finally {
      this.job = null;
      this.draw();
    }
  }

  async ended(job) {
    if (!job || job.state === "cancelled") return put(this.result, h("p", {}, "Cancelled: nothing changed."));
    if (job.state === "failed") return put(this.result, h("p", { class: "failed", role: "alert" }, `The job failed: ${job.error?.detail ?? "nobody said why"}`));
    const told = job.report;
    put(this.result, report(told, { short: true }));
    const number = told.version;
    if (!told.dry_run && number !== null) {
      await loadAbout();
      const live = told.decision === "promoted";
      add(this.result, h("div", { class: "row" },
        h("a", { class: "button primary", href: `#/${encodeURIComponent(state.name)}/changes` }, "See what changed"),
        live ? button("Roll back", () => this.back(), { icon: "back", id: "rollback" }) : button("Make it live all the same", () => this.activate(number))));
    }
    return loadMarks();
  }

  async back() {
    try {
      const { live } = await call("POST", at(state.name, "/rollback"));
      put(this.result, h("p", { class: "decision" }, `Version ${live} is live again.`));
      await loadAbout();
    } catch (error) { toast(error.message, "bad"); }
  }

  async activate(number) {
    try {
      await call("POST", at(state.name, `/versions/${number}/activate`));
      await loadAbout();
      toast(`Version ${number} is live.`);
    } catch (error) { toast(error.message, "bad"); }
  }
}
