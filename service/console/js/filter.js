// A filter from the metadata's own fields: conditions that all have to hold, in the language that `where` has.

import { add, button, h, put, select } from "./dom.js";

const OPS = {
  number: [["$eq", "="], ["$ne", "≠"], ["$gt", ">"], ["$gte", "≥"], ["$lt", "<"], ["$lte", "≤"], ["$exists", "is there"]],
  text: [["$eq", "is"], ["$ne", "is not"], ["$in", "is one of"], ["$nin", "is none of"], ["$exists", "is there"]],
  boolean: [["$eq", "is"], ["$exists", "is there"]],
};

const kindOf = (field) => (field.kinds.includes("number") ? "number" : field.kinds.includes("boolean") && !field.kinds.includes("text") ? "boolean" : "text");

/** A builder in a container; `onchange` is called when the filter becomes another. */
export class Filter {
  constructor(fields, onchange) {
    this.fields = fields;
    this.onchange = onchange;
    this.conditions = [];
    this.element = h("div", { class: "filter", role: "group", "aria-label": "Filter" });
    this.draw();
  }

  /** As the service takes it; null: everything. */
  where() {
    const parts = this.conditions.map(({ field, op, value }) => ({ [field.name]: { [op]: this.typed(field, op, value) } }));
    return parts.length === 0 ? null : parts.length === 1 ? parts[0] : { $and: parts };
  }

  typed(field, op, value) {
    if (op === "$exists") return true;
    const one = (text) => (kindOf(field) === "number" ? Number(text) : kindOf(field) === "boolean" ? String(text) === "true" : String(text));
    return op === "$in" || op === "$nin" ? String(value).split(",").map((part) => part.trim()).filter(Boolean) : one(value);
  }

  draw() {
    put(this.element, this.conditions.map((condition, place) => this.row(condition, place)));
    if (this.fields.length) add(this.element, button("Filter", () => this.more(), { kind: "quiet small", icon: "plus" }));
  }

  more() {
    const field = this.fields[0];
    this.conditions.push({ field, op: "$eq", value: field.values[0]?.value ?? "" });
    this.draw();
    this.element.querySelector(".condition:last-of-type select")?.focus();
    this.onchange();
  }

  row(condition, place) {
    const { field, op, value } = condition;
    const set = (change) => { Object.assign(condition, change); this.draw(); this.onchange(); };
    const names = select(this.fields.map((one) => [one.name, one.name]), field.name,
      (name) => { const other = this.fields.find((one) => one.name === name); set({ field: other, op: "$eq", value: other.values[0]?.value ?? "" }); }, { "aria-label": "Field" });
    const ops = select(OPS[kindOf(field)], op, (chosen) => set({ op: chosen }), { "aria-label": "Comparison" });
    return h("div", { class: "condition" }, names, ops, op === "$exists" ? null : this.value(field, op, value, set),
      button("", () => { this.conditions.splice(place, 1); this.draw(); this.onchange(); }, { kind: "quiet small", icon: "close", label: `Remove the condition on ${field.name}` }));
  }

  value(field, op, value, set) {
    const label = { "aria-label": `Value of ${field.name}` };
    if (kindOf(field) === "boolean") return select([["true", "true"], ["false", "false"]], value, (chosen) => set({ value: chosen }), label);
    const few = field.distinct <= field.values.length && (op === "$eq" || op === "$ne");
    if (few && kindOf(field) === "text") return select(field.values.map((one) => [one.value, `${one.value} (${one.count})`]), value, (chosen) => set({ value: chosen }), label);
    const numeric = kindOf(field) === "number" ? { type: "number", step: "any" } : { type: "text" };
    return h("input", { ...numeric, ...label, value, size: "14", on: { change: (event) => set({ value: event.target.value }) } });
  }
}
