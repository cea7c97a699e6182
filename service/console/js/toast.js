// Short messages that go away by themselves; screen readers hear them.

import { h } from "./dom.js";

let place = null;

export function toast(text, kind = "") {
  place ??= document.body.appendChild(h("div", { class: "toasts", role: "status", "aria-live": "polite" }));
  const one = h("p", { class: `toast ${kind}` }, text);
  place.append(one);
  setTimeout(() => one.remove(), kind === "bad" ? 9000 : 4500);
}

/** Run something; what goes wrong is told. Resolves with its value, or undefined. */
export async function told(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name !== "AbortError" && error.status !== 401 && error.status !== 0) toast(error.message, "bad"); // of those the frame tells
    return undefined;
  }
}
