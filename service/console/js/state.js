// What the views share: the collection in use, its versions, what was marked. Changes are told by events.

import { at, call } from "./api.js";

export const changed = new EventTarget(); // "collections", "collection", "marks", "versions"
const tell = (name) => changed.dispatchEvent(new Event(name));

export const state = {
  collections: [],
  name: null,
  about: null, // the collection, as the service describes it
  versions: [],
  fields: [],
  marks: [], // {item, concept | query, score}, what was said last about each
  total: 0, // judgements in the log
  contradictions: [],
  target: { concept: null }, // what thumbs are about: a concept's name, or null: the query that was asked
  query: null, // the query of the last search, as the service takes it
  ticked: new Set(),
};

export async function loadCollections() {
  state.collections = (await call("GET", "/v1/collections")).collections;
  tell("collections");
}

export async function open(name) {
  if (state.name !== name) Object.assign(state, { about: null, versions: [], fields: [], marks: [], contradictions: [], query: null, target: { concept: null }, ticked: new Set() });
  state.name = name;
  if (name) localStorage.setItem("vecmeta-collection", name);
  if (name) await Promise.all([loadAbout(), loadMarks(), loadFields()]);
  tell("collection");
}

export async function loadAbout() {
  const [about, versions] = await Promise.all([call("GET", at(state.name)), call("GET", at(state.name, "/versions"))]);
  state.about = about;
  state.versions = versions.versions;
  tell("versions");
}

export async function loadFields() {
  state.fields = (await call("GET", at(state.name, "/fields"))).fields;
}

const MOST = 5000; // judgements read: the last ones

export async function loadMarks() {
  const last = new Map();
  const { total } = await call("GET", at(state.name, "/judgements?limit=1"));
  for (let offset = Math.max(0, total - MOST); offset < total; offset += 1000)
    for (const one of (await call("GET", at(state.name, `/judgements?limit=1000&offset=${offset}`))).judgements)
      last.set(JSON.stringify([one.item, one.concept, one.query]), one);
  state.marks = [...last.values()].filter((one) => one.score !== 0);
  state.total = total;
  state.contradictions = total ? (await call("GET", at(state.name, "/contradictions?limit=20"))).contradictions : [];
  tell("marks");
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** What was said about an item under the target: -1, 0, 1. */
export function score(item) {
  const { concept } = state.target;
  const mark = state.marks.find((one) => one.item === item && (concept === null ? same(one.query, state.query) : one.concept === concept));
  return mark ? Math.sign(mark.score) : 0;
}

export const conceptsOf = (item) => state.marks.filter((one) => one.item === item && one.concept && one.score > 0).map((one) => one.concept);

export function concepts() {
  const found = new Map();
  for (const one of state.marks) if (one.concept) found.set(one.concept, (found.get(one.concept) ?? 0) + (one.score > 0 ? 1 : 0));
  return [...found].sort(([a], [b]) => a.localeCompare(b));
}

/** Say something about items under a target; 0 takes it back. */
export async function mark(items, value, target = state.target) {
  const about = target.concept === null ? { query: state.query } : { concept: target.concept };
  if (target.concept === null && !state.query) throw new Error("Search for something first, or choose a concept: a mark is about one of them.");
  const judgements = items.map((item) => ({ item, ...about, score: value }));
  const answer = await call("POST", at(state.name, "/feedback"), { judgements });
  await loadMarks();
  return answer;
}

export function setTarget(concept) {
  state.target = { concept };
  tell("marks");
}

export const itemPath = (id) => at(state.name, `/items/${encodeURIComponent(id)}`);

/** Recent queries of a collection: {text} or {id}. */
export function recent() {
  try { return JSON.parse(localStorage.getItem(`vecmeta-recent-${state.name}`)) ?? []; } catch { return []; }
}

export function remember(query) {
  if (!query || (!query.text && !query.id)) return;
  const others = recent().filter((one) => !same(one, query));
  localStorage.setItem(`vecmeta-recent-${state.name}`, JSON.stringify([query, ...others].slice(0, 12)));
}

export const described = (query) => (query?.text ? `“${query.text}”` : query?.id ? `more like ${query.id}` : query?.image ? "a picture" : "a vector");
