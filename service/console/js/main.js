// The frame around the views: navigation, the collection in use, the key, and what is told when the service is gone.

import { call, events, key, setKey } from "./api.js";
import { empty } from "./cards.js";
import { button, dialog, field, h, icon, put, select } from "./dom.js";
import { changed, open, state } from "./state.js";
import { toast } from "./toast.js";

const VIEWS = {
  search: ["Search", () => import("./views/search.js")],
  changes: ["Changes", () => import("./views/changes.js")],
  map: ["Map", () => import("./views/map.js")],
  versions: ["Versions", () => import("./views/versions.js")],
  items: ["Items", () => import("./views/items.js")],
  operate: ["Operate", () => import("./views/operate.js")],
};

const main = h("main", { id: "main", tabindex: "-1" });
const nav = h("nav", { class: "nav", "aria-label": "Views" });
const chooser = h("div", { class: "chooser" });
const live = h("a", { class: "chip", id: "live" });
const banner = h("div", { class: "banner", role: "alert" });
let leave = null;
let turn = 0;
let shown = "search"; // the view

function theme() {
  const now = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  localStorage.setItem("vecmeta-theme", document.documentElement.dataset.theme);
}

function frame() {
  const chosen = localStorage.getItem("vecmeta-theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
  put(document.body,
    h("a", { class: "skip", href: "#main", on: { click: (event) => { event.preventDefault(); main.focus(); } } }, "To the content"), banner,
    h("header", { class: "top" }, h("a", { class: "brand", href: "#/" }, h("img", { src: "/console/icon.svg", alt: "", width: "26", height: "26" }), h("span", {}, "vecmeta")), chooser, live,
      h("div", { class: "row end" }, button("", enterKey, { icon: "key", kind: "quiet", label: "API key" }), button("", theme, { icon: "moon", kind: "quiet", label: "Light or dark" }))),
    nav, main);
}

function drawFrame(view = shown) {
  shown = view;
  const name = state.name ? encodeURIComponent(state.name) : "-";
  put(nav, Object.entries(VIEWS).map(([id, [text]]) => h("a", { href: `#/${id === "operate" ? "-" : name}/${id}`, "aria-current": id === view ? "page" : null }, icon(id), h("span", {}, text))));
  put(chooser, state.collections.length ? select(state.collections.map((one) => [one, one]), state.name, (one) => { location.hash = `#/${encodeURIComponent(one)}/search`; }, { "aria-label": "Collection", id: "collection" }) : null);
  drawLive();
}

function drawLive() {
  live.hidden = !state.about;
  if (!state.about) return;
  live.href = `#/${encodeURIComponent(state.name)}/versions`;
  live.textContent = state.about.live ? `version ${state.about.live} is live` : "untouched encoder";
  live.classList.toggle("good", state.about.live > 0);
}

/** What the address says: #/collection/view/page?params. */
function place() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, view, page] = path.split("/").map(decodeURIComponent);
  return { name: name && name !== "-" ? name : null, view: VIEWS[view] ? view : "search", page, params: new URLSearchParams(query) };
}

/** The collection that the address names; else the one in use, the one that was used last, or any. */
async function arrive(name) {
  const wish = name ?? state.name ?? localStorage.getItem("vecmeta-collection");
  try {
    await open(wish);
  } catch (error) {
    if (!name && wish && error.status === 404) return open(null); // it was dropped since
    if (error.status >= 404) Object.assign(state, { name: null, about: null, collections: (await call("GET", "/v1/collections")).collections }); // another can be chosen
    throw error;
  }
}

async function route() {
  const mine = (turn += 1);
  const asked = place();
  leave?.();
  leave = null;
  main.setAttribute("aria-busy", "true");
  try {
    const code = VIEWS[asked.view][1]();
    await arrive(asked.name).catch((error) => { if (asked.view !== "operate" || error.status !== 409) throw error; }); // one that cannot be used can still be dropped
    const view = (await code).default;
    if (mine !== turn) return;
    drawFrame(asked.view);
    document.title = `${VIEWS[asked.view][0]} · vecmeta`;
    if (asked.view !== "operate" && !state.name) (await import("./samples.js")).welcome(main);
    else { const end = await view(main, asked.params, asked.page); if (mine === turn) leave = end ?? null; else end?.(); }
  } catch (error) {
    if (mine !== turn) return;
    drawFrame(asked.view);
    if (error.status === 401) put(main, empty("A key is needed", ["This service asks for an API key. One is made by ", h("code", {}, "vecmeta keys create NAME --scope admin"), "."], button("Enter a key", enterKey, { kind: "primary", icon: "key" })));
    else put(main, empty(error.status === 404 ? "Not there" : "That did not work", error.message, button("Try again", route)));
  } finally {
    if (mine === turn) main.removeAttribute("aria-busy");
  }
  performance.mark("vecmeta-view"); // what the time until a view stands is measured by
}

let asking = false;
async function enterKey() {
  if (asking) return;
  asking = true;
  await dialog("API key", (close) => {
    const input = h("input", { type: "password", autocomplete: "off", spellcheck: "false", placeholder: "vm_…", value: key() ?? "", id: "key" });
    const box = h("input", { type: "checkbox" });
    return h("form", { on: { submit: (event) => { event.preventDefault(); setKey(input.value.trim(), box.checked); close(); route(); } } },
      h("p", {}, "Made by ", h("code", {}, "vecmeta keys create NAME --scope admin"), ". It is kept in this browser and sent to this service alone."),
      field("Key", input), h("label", { class: "check" }, box, "Remember it on this device"),
      h("div", { class: "row end" }, key() ? button("Forget it", () => { setKey(null); close(); route(); }) : null, button("Cancel", () => close()), h("button", { class: "button primary", type: "submit" }, "Use it")));
  });
  asking = false;
}

frame();
events.addEventListener("unauthorized", () => { if (key()) toast("This key is unknown, expired or revoked.", "bad"); enterKey(); });
events.addEventListener("gone", () => put(banner, h("p", {}, "The service does not answer. Trying again …")));
events.addEventListener("back", () => { put(banner); toast("The service is back."); if (!state.about) route(); });
changed.addEventListener("versions", drawLive);
changed.addEventListener("collections", () => drawFrame());
addEventListener("hashchange", route);
addEventListener("unhandledrejection", (event) => { if (event.reason?.status !== 401 && event.reason?.name !== "AbortError") toast(event.reason?.message ?? "Something went wrong.", "bad"); });
route();
