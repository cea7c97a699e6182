// Tables that become a list of cards on a phone: each cell knows its column's name, and roles keep them tables to screen readers.

import { h } from "./dom.js";

/** Name the cells of rows after their columns. */
export function labelled(names, rows) {
  for (const row of rows) {
    row.setAttribute("role", "row");
    [...row.children].forEach((cell, place) => { cell.dataset.label = names[place]; cell.setAttribute("role", "cell"); });
  }
  return rows;
}

/** A table with these columns; `body`: a <tbody> that is filled later. */
export function table(names, rows, body = h("tbody")) {
  body.setAttribute("role", "rowgroup");
  body.append(...labelled(names, rows));
  const head = names.map((name) => h("th", { scope: "col", role: "columnheader" }, name || h("span", { class: "unseen" }, "Actions")));
  return h("div", { class: "table" }, h("table", { role: "table" }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)), body));
}
