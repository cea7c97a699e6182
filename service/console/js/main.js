// The frame around the views: navigation, the collection in use, the key, and what is told when the service is gone.

import { events, key, setKey } from "./api.js";
import { empty } from "./cards.js";
import { button, dialog, field, h, icon, put, select } from "./dom.js";
import { bringSample } from "./samples.js";
import { changed, loadCollections, open, state } from "./state.js";
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

function drawFrame(view) {
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

async function route() {
  const mine = (turn += 1);
  const asked = place();
  leave?.();
  leave = null;
  main.setAttribute("aria-busy", "true");
  try {
    if (!state.collections.length || (asked.name && !state.collections.includes(asked.name))) await loadCollections();
    const last = localStorage.getItem("vecmeta-collection");
    const name = asked.name ?? state.name ?? (state.collections.includes(last) ? last : state.collections[0]) ?? null;
    if (asked.view !== "operate" && name) await open(name);
    if (mine !== turn) return;
    drawFrame(asked.view);
    document.title = `${VIEWS[asked.view][0]} · vecmeta`;
    const view = (await VIEWS[asked.view][1]()).default;
    if (mine !== turn) return;
    if (asked.view !== "operate" && !state.name) welcome();
    else { const end = await view(main, asked.params, asked.page); if (mine === turn) leave = end ?? null; else end?.(); }
  } catch (error) {
    if (mine === turn && error.status !== 401) put(main, empty(error.status === 404 ? "Not there" : "That did not work", error.message, button("Try again", route)));
    if (mine === turn && error.status === 401) put(main, empty("A key is needed", "This service asks for an API key. One is made by `vecmeta keys create NAME --scope admin`.", button("Enter a key", enterKey, { kind: "primary", icon: "key" })));
    drawFrame(asked.view);
  } finally {
    main.removeAttribute("aria-busy");
  }
}

function welcome() {
  put(main, h("div", { class: "welcome" }, h("h1", {}, "Teach it what you mean by similar"),
    h("ol", { class: "steps" }, h("li", {}, h("b", {}, "Search"), " and see what comes up."), h("li", {}, h("b", {}, "Mark"), " about five items that fit."), h("li", {}, h("b", {}, "Adapt"), ": seconds later everything is found under your notion, if that measures better.")),
    h("div", { class: "row" }, button("Try sample data", () => bringSample(), { kind: "primary big", icon: "spark", id: "sample" }), h("a", { class: "button big", href: "#/-/operate/collections" }, "Make a collection")),
    h("p", { class: "hint" }, "Everything the console does goes over the HTTP API: ", h("a", { href: "/docs" }, "its manual"), ".")));
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
addEventListener("hashchange", route);
addEventListener("unhandledrejection", (event) => { if (event.reason?.status !== 401 && event.reason?.name !== "AbortError") toast(event.reason?.message ?? "Something went wrong.", "bad"); });
route();
