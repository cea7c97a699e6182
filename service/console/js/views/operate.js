// For those who run it: collections, jobs, keys, health.

import { at, call, text } from "../api.js";
import { chart, metrics, quantile } from "../chart.js";
import { ago, bytes, button, confirmed, dialog, field, h, number, plural, put, select } from "../dom.js";
import { report } from "../report.js";
import { bringSample } from "../samples.js";
import { loadCollections, state } from "../state.js";
import { table } from "../table.js";
import { toast, told } from "../toast.js";

// Routes that are not what a service is for, this page's own questions among them.
const ASIDE = /^(unknown|\/(metrics|healthz|readyz|docs|openapi\.json|console)?(\/.*)?)$/;
const PAGES = { collections, jobs, keys, health };
const EVERY = 2000; // ms between looks

export default async function view(main, params, page = "collections") {
  const chosen = PAGES[page] ? page : "collections";
  const body = h("div", { class: "operate" });
  const tabs = Object.keys(PAGES).map((name) => h("a", { href: `#/-/operate/${name}`, "aria-current": name === chosen ? "page" : null }, name));
  put(main, h("h1", {}, "Operate"), h("nav", { class: "tabs", "aria-label": "Operate" }, tabs), body);
  return PAGES[chosen](body);
}

/** Call something every two seconds while the view is there. */
function watched(look) {
  let over = false;
  const again = async () => { if (over) return; if (!document.hidden) await told(look); setTimeout(again, EVERY); };
  again();
  return () => { over = true; };
}

async function collections(body) {
  const draw = () => told(async () => {
    await loadCollections();
    const all = await Promise.all(state.collections.map((name) => call("GET", at(name)).catch((error) => ({ name, error: error.message }))));
    put(body, h("div", { class: "row" }, button("New collection", make, { kind: "primary", icon: "plus" }), button("Sample data", () => bringSample(), { icon: "spark" })),
      all.length ? table(["Name", "Encoder", "Items", "Live", ""], all.map((one) => h("tr", {}, h("td", {}, h("a", { href: `#/${encodeURIComponent(one.name)}/search` }, one.name)),
        one.error ? h("td", { colspan: "3", class: "bad" }, one.error) : [h("td", { class: "small" }, `${one.encoder} (${one.dim})`), h("td", {}, number(one.items)), h("td", {}, one.live)],
        h("td", {}, h("div", { class: "row" }, one.error ? null : button("Policy", () => policy(one.name), { kind: "small", label: `Policy of ${one.name}` }), button("Drop", () => drop(one.name), { kind: "small danger", label: `Drop ${one.name}` })))))) : h("p", { class: "hint" }, "There is no collection yet."));
  });
  async function make() {
    await dialog("New collection", (close) => {
      const name = h("input", { type: "text", required: true, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]{0,62}", title: "letters, digits, . _ -" });
      const dim = h("input", { type: "number", min: "1", max: "16384", value: "384" });
      const dimField = field("Dimension", dim);
      dimField.hidden = true;
      const encoder = select([["text", "text"], ["text:int8", "text, int8"], ["image", "pictures"], ["resnet50", "pictures, ResNet-50"], ["vectors", "own vectors"]], "text", (value) => { dimField.hidden = value !== "vectors"; });
      const said = h("p", { role: "alert", class: "bad" });
      return h("form", { on: { submit: async (event) => {
        event.preventDefault();
        try {
          await call("POST", "/v1/collections", { name: name.value, encoder: encoder.value, ...(encoder.value === "vectors" ? { dim: Number(dim.value) } : {}) });
          close();
          draw();
        } catch (error) { said.textContent = error.message; }
      } } }, field("Name", name), field("What it holds", encoder), dimField, said, h("div", { class: "row end" }, button("Cancel", () => close()), h("button", { class: "button primary", type: "submit" }, "Make it")));
    });
  }
  async function policy(name) {
    const now = await told(() => call("GET", at(name, "/policy")));
    if (!now) return;
    await dialog(`When ${name} adapts by itself`, (close) => {
      const count = h("input", { type: "number", min: "1", max: "1000000", placeholder: "never", value: now.auto_adapt ?? "" });
      const quiet = h("input", { type: "number", min: "0", max: "86400", step: "any", value: now.debounce });
      return h("form", { on: { submit: (event) => { event.preventDefault(); told(async () => { await call("PUT", at(name, "/policy"), { auto_adapt: count.value ? Number(count.value) : null, debounce: Number(quiet.value) }); toast("Saved."); close(); }); } } },
        field("After so many new judgements", count, "Empty: never"), field("Once none came for so many seconds", quiet), h("div", { class: "row end" }, button("Cancel", () => close()), h("button", { class: "button primary", type: "submit" }, "Save")));
    });
  }
  async function drop(name) {
    if (await confirmed(`Drop ${name}?`, "Its items, judgements and versions are deleted for good.", "Drop it")) await told(async () => { await call("DELETE", at(name)); await draw(); });
  }
  await draw();
}

async function jobs(body) {
  const open = new Set();
  return watched(async () => {
    const found = (await call("GET", "/v1/jobs?limit=50")).jobs;
    if (body.contains(document.activeElement) && document.activeElement.matches("summary")) return;
    put(body, found.length ? table(["Job", "Collection", "State", "Progress", "Made", ""], found.map((one) => {
      const more = one.report ? report(one.report) : one.error ? h("p", { class: "failed" }, `${one.error.error}: ${one.error.detail}`) : null;
      const about = more && h("details", { open: open.has(one.id), on: { toggle: (event) => (event.target.open ? open.add(one.id) : open.delete(one.id)) } }, h("summary", {}, one.error ? "Why" : "Report"), more);
      return h("tr", { data: { job: one.id } }, h("td", { class: "id" }, one.kind, " ", one.id.slice(0, 8)), h("td", {}, one.collection), h("td", {}, h("span", { class: `chip ${one.state === "live" ? "good" : one.state === "failed" ? "bad" : ""}` }, one.state)),
        h("td", {}, one.finished ? about : h("progress", { "aria-label": "Progress", ...(one.total ? { max: one.total, value: one.done } : {}) })), h("td", { class: "small" }, ago(one.created)),
        h("td", {}, one.finished ? null : button("Cancel", () => told(() => call("POST", `/v1/jobs/${one.id}/cancel`)), { kind: "small" })));
    })) : h("p", { class: "hint" }, "No job has been started yet."));
  });
}

async function keys(body) {
  const draw = () => told(async () => {
    const found = (await call("GET", "/v1/keys")).keys;
    put(body, h("div", { class: "row" }, button("New key", make, { kind: "primary", icon: "key" })), found.length ? table(["Name", "Scopes", "Collections", "Used", "State", ""], found.map((one) => h("tr", {},
      h("td", {}, one.name, h("div", { class: "id" }, one.id)), h("td", {}, one.scopes.join(", ")), h("td", {}, one.collections?.join(", ") ?? "all"), h("td", { class: "small" }, one.used ? ago(one.used) : "never"),
      h("td", {}, one.revoked ? "revoked" : one.expires && new Date(one.expires) < new Date() ? "expired" : one.expires ? `until ${new Date(one.expires).toLocaleDateString()}` : "good"),
      h("td", {}, one.revoked ? null : button("Revoke", async () => { if (await confirmed(`Revoke ${one.name}?`, "Whoever uses this key is refused within two seconds, for good.", "Revoke it")) await told(async () => { await call("DELETE", `/v1/keys/${one.id}`); await draw(); }); }, { kind: "small danger", label: `Revoke ${one.name}` }))))) : h("p", { class: "hint" }, "There are no keys."));
  });
  async function make() {
    await dialog("New key", (close) => {
      const name = h("input", { type: "text", required: true, maxlength: "255" });
      const scopes = ["read", "feedback", "write", "admin"].map((scope) => { const box = h("input", { type: "checkbox", value: scope }); box.checked = scope === "read"; return box; });
      const days = h("input", { type: "number", min: "1", max: "3650", placeholder: "for ever" });
      const said = h("div", { role: "alert" });
      return h("form", { on: { submit: async (event) => {
        event.preventDefault();
        try {
          const made = await call("POST", "/v1/keys", { name: name.value, scopes: scopes.filter((box) => box.checked).map((box) => box.value), ...(days.value ? { expires: new Date(Date.now() + days.value * 864e5).toISOString() } : {}) });
          put(event.target, h("p", {}, "This is the only time that the key is shown:"), h("p", {}, h("code", { class: "secret" }, made.secret)), h("div", { class: "row end" }, button("Done", () => { close(); draw(); }, { kind: "primary" })));
        } catch (error) { put(said, h("p", { class: "bad" }, error.message)); }
      } } }, field("Who it is for", name), h("fieldset", {}, h("legend", {}, "What it may"), scopes.map((box) => h("label", { class: "check" }, box, box.value))), field("Days that it is good for", days), said, h("div", { class: "row end" }, button("Cancel", () => close()), h("button", { class: "button primary", type: "submit" }, "Make it")));
    });
  }
  await draw();
}

async function health(body) {
  const [rates, middle, slow] = [[], [], []];
  let before = null;
  const keep = (list, value) => { list.push(value); if (list.length > 60) list.shift(); };
  return watched(async () => {
    const [ready, all] = await Promise.all([fetch("/readyz").then((answer) => answer.json()), text("/metrics").then(metrics)]);
    const buckets = new Map();
    for (const one of all) if (one.name === "vecmeta_request_seconds_bucket" && !ASIDE.test(one.labels.route)) { const end = one.labels.le === "+Inf" ? Infinity : Number(one.labels.le); buckets.set(end, (buckets.get(end) ?? 0) + one.value); }
    const sorted = [...buckets].sort(([a], [b]) => a - b);
    const now = performance.now();
    if (before) {
      const added = sorted.map(([end, count]) => [end, count - (before.buckets.get(end) ?? 0)]);
      keep(rates, (added.at(-1)?.[1] ?? 0) / ((now - before.at) / 1000));
      for (const [list, q] of [[middle, 0.5], [slow, 0.95]]) { const value = quantile(added, q); keep(list, value === null ? null : value * 1000); }
    }
    before = { at: now, buckets };
    const sum = (name, labels = {}) => all.filter((one) => one.name === name && Object.entries(labels).every(([key, value]) => one.labels[key] === value)).reduce((total, one) => total + one.value, 0);
    const per = (work) => { const batches = sum("vecmeta_batched", { work, what: "batches" }); return batches ? number(sum("vecmeta_batched", { work, what: "requests" }) / batches, 2) : "–"; };
    const sizes = all.filter((one) => one.name === "vecmeta_items");
    put(body, h("p", {}, h("span", { class: `chip ${ready.ready ? "good" : "bad"}` }, ready.ready ? "ready" : `waiting for ${ready.waiting_for.join(", ")}`), ` ${plural(sum("vecmeta_request_seconds_count"), "request")} since it started`),
      h("div", { class: "charts" }, chart("Requests a second", rates, { digits: 1 }), chart("Half are answered within", middle, { unit: " ms", digits: 1 }), chart("95 % within", slow, { unit: " ms", digits: 1 })),
      h("div", { class: "charts" }, h("section", { class: "panel" }, h("h2", {}, "Collections"), table(["Name", "Items", "Vectors"], sizes.map((one) => h("tr", {}, h("td", {}, one.labels.collection), h("td", {}, number(one.value)), h("td", {}, bytes(sum("vecmeta_index_bytes", one.labels))))))),
        h("section", { class: "panel" }, h("h2", {}, "Jobs by outcome"), table(["Kind", "State", "Number"], all.filter((one) => one.name === "vecmeta_jobs").map((one) => h("tr", {}, h("td", {}, one.labels.kind), h("td", {}, one.labels.state), h("td", {}, number(one.value)))))),
        h("section", { class: "panel" }, h("h2", {}, "Answered together"), table(["Work", "Requests a batch"], ["search", "encode", "write"].map((work) => h("tr", {}, h("td", {}, work), h("td", {}, per(work))))))));
  });
}
