// The teaching panel: what thumbs are about, concepts, contradictions, what to label next, and the Adapt button.

import { at, call, follow } from "./api.js";
import { add, ago, button, field, h, number, plural, put, select } from "./dom.js";
import { changed, concepts, described, judge, kept, loadAbout, mark, setTarget, state } from "./state.js";
import { toast, told } from "./toast.js";

const STAGES = { queued: "Waiting for a worker", encoding: "Encoding", adapting: "Learning", evaluating: "Measuring on what was held out", building: "Re-embedding and indexing", ready: "About to go live" };

/** The panel; `suggest` shows suggestions in the view beside it. */
export class Teach {
  constructor({ suggest }) {
    this.suggest = suggest;
    this.job = null; // the one that is followed
    this.result = h("div", { class: "result", role: "status", "aria-live": "polite" });
    this.body = h("div", { class: "teach-body" });
    this.element = h("aside", { class: "teach", id: "teach", "aria-label": "Teach" }, h("h2", {}, "Teach"), this.body, this.result);
    this.redraw = () => this.draw();
    this.begun = () => this.watch(state.job);
    changed.addEventListener("marks", this.redraw);
    changed.addEventListener("job", this.begun);
    this.draw();
    if (state.job && !state.job.finished) this.begun();
    else if (state.job?.state === "failed") this.failed(`The last ${state.job.kind === "adapt" ? "adaptation" : "fine-tuning"} failed, ${ago(state.job.finished)}: ${state.job.error.detail}`);
  }

  close() {
    changed.removeEventListener("marks", this.redraw);
    changed.removeEventListener("job", this.begun);
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
      this.lessons(),
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
    return `${plural(up, "item that fits", "items that fit")}, ${number(state.marks.length - up)} that do not: ${plural(concepts().length, "concept")}, ${plural(queries, "search", "searches")}.`;
  }

  /** What a sample can be taught, one notion at a time. */
  lessons() {
    const all = kept("lessons");
    if (!all.length) return null;
    const given = new Set(state.marks.map((one) => one.concept));
    const on = (lesson) => Object.keys(lesson.concepts).every((name) => given.has(name));
    return h("div", { class: "lessons", role: "group", "aria-label": "A notion to teach" }, h("p", { class: "field-name" }, "Teach this sample"),
      h("div", { class: "row" }, all.map((lesson) => button(`by ${lesson.name}`, () => this.lesson(lesson, all), { kind: `small ${on(lesson) ? "on" : ""}`, "aria-pressed": String(on(lesson)), "data-lesson": lesson.name }))));
  }

  /** Marks of one notion in place of those of the others, so that each can be seen by itself. */
  async lesson(lesson, all) {
    const others = new Set(all.filter((one) => one !== lesson).flatMap((one) => Object.keys(one.concepts)));
    const back = state.marks.filter((one) => others.has(one.concept)).map(({ item, concept }) => ({ item, concept, score: 0 }));
    const marks = Object.entries(lesson.concepts).flatMap(([concept, items]) => items.map((item) => ({ item, concept, score: 1 })));
    await told(async () => {
      await judge([...back, ...marks]);
      toast(`${plural(marks.length, "mark")} for ${plural(Object.keys(lesson.concepts).length, "concept")}. Now adapt.`);
    });
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
    await told(async () => {
      const said = await mark(ids, 1, { concept });
      toast(`${plural(said.new, "new mark")} for ${concept}${said.duplicate ? `, ${said.duplicate} known` : ""}`);
    });
  }

  async adapt(dry) {
    this.job = {};
    this.draw();
    put(this.result, h("p", {}, "Starting …"));
    try {
      await this.watch(await call("POST", at(state.name, "/adapt"), dry ? { dry_run: true } : {}));
    } catch (error) {
      this.job = null;
      this.draw();
      this.failed(error.message);
    }
  }

  /** Show how a job comes along, and in the end what came of it. */
  async watch(job) {
    if (this.job?.id === job.id) return;
    this.aborter?.abort();
    const mine = (this.aborter = new AbortController());
    this.job = job;
    this.draw();
    const bar = h("progress", { max: 1, "aria-label": "Progress" });
    const stage = h("p", {}, STAGES[job.state] ?? job.state);
    const stop = button("Cancel", () => told(() => call("POST", `/v1/jobs/${job.id}/cancel`)), { kind: "small" });
    put(this.result, h("div", { class: "progress" }, stage, bar, stop));
    this.result.scrollIntoView({ block: "nearest" });
    let ended;
    try {
      ended = await follow(job.id, (seen) => {
        stage.textContent = `${STAGES[seen.state] ?? seen.state}${seen.eta ? `, about ${number(seen.eta)} s` : ""}`;
        if (seen.total) bar.value = seen.done / seen.total; else bar.removeAttribute("value");
      }, mine.signal);
      await this.ended(ended);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.failed(error.message);
    }
    if (this.aborter !== mine) return;
    state.job = ended ?? null;
    this.job = null;
    this.draw();
  }

  failed(why) {
    put(this.result, h("p", { class: "failed", role: "alert" }, why));
  }

  async ended(job) {
    if (job === null) return this.failed("The job is gone: its collection was dropped.");
    if (job.state === "cancelled") return put(this.result, h("p", {}, "Cancelled: nothing changed."));
    if (job.state === "failed") return this.failed(`The job failed: ${job.error.detail}`);
    const { report } = await import("./report.js");
    const said = job.report;
    put(this.result, report(said, { short: true }));
    this.result.scrollIntoView({ block: "nearest" });
    if (said.dry_run || said.version === null) return undefined;
    await loadAbout();
    return add(this.result, h("div", { class: "row" },
      h("a", { class: "button primary", href: `#/${encodeURIComponent(state.name)}/changes` }, "See what changed"),
      said.decision === "promoted" ? button("Roll back", () => this.back(), { icon: "back", id: "rollback" }) : button("Make it live all the same", () => this.activate(said.version))));
  }

  async back() {
    await told(async () => {
      const { live } = await call("POST", at(state.name, "/rollback"));
      put(this.result, h("p", { class: "decision" }, `Version ${live} is live again.`));
      await loadAbout();
    });
  }

  async activate(number) {
    await told(async () => {
      await call("POST", at(state.name, `/versions/${number}/activate`));
      await loadAbout();
      toast(`Version ${number} is live.`);
    });
  }
}
