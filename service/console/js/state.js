// What the views share: the collection in use, its versions, what was marked. Changes are told by events.

import { at, call } from "./api.js";

export const changed = new EventTarget(); // "collections", "marks", "versions", "job"
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
  job: null, // the newest one of the collection
  target: { concept: null }, // what thumbs are about: a concept's name, or null: the query that was asked
  query: null, // the query of the last search, as the service takes it
  ticked: new Set(),
};

let opening = 0;

/** The collections and one of them, in one request; null: the first, if there is any. */
export async function open(name) {
  const mine = (opening += 1);
  const names = name ? null : (await call("GET", "/v1/collections")).collections;
  const chosen = name ?? names[0] ?? null;
  const told = chosen ? await call("GET", at(chosen, "/overview")) : { collection: null, collections: names, versions: [], fields: [], job: null, judgements: [], total: 0, contradictions: [] };
  if (mine !== opening) return; // somebody went on to another one
  const { collection, collections, versions, fields, job, judgements, total, contradictions } = told;
  if (state.name !== chosen) Object.assign(state, { query: null, target: { concept: null }, ticked: new Set() });
  Object.assign(state, { name: chosen, about: collection, collections, versions, fields, job, marks: latest(judgements), total, contradictions });
  if (chosen) localStorage.setItem("vecmeta-collection", chosen);
  tell("marks");
  if (total > judgements.length) loadMarks(judgements); // not waited for
}

export async function loadCollections() {
  state.collections = (await call("GET", "/v1/collections")).collections;
  if (state.name && !state.collections.includes(state.name)) Object.assign(state, { name: null, about: null });
  tell("collections");
}

export async function loadAbout() {
  const { name } = state;
  const [about, versions] = await Promise.all([call("GET", at(name)), call("GET", at(name, "/versions"))]);
  if (state.name !== name) return;
  Object.assign(state, { about, versions: versions.versions });
  tell("versions");
}

export async function loadFields() {
  state.fields = (await call("GET", at(state.name, "/fields"))).fields;
}

const MOST = 5000; // judgements read: the last ones

const about = (one) => JSON.stringify([one.item, one.concept ?? null, one.query ?? null]);

/** What was said last about each item and concept or query; what was taken back is left out. */
function latest(judgements) {
  const last = new Map();
  for (const one of judgements) {
    last.delete(about(one));
    last.set(about(one), one);
  }
  return [...last.values()].filter((one) => one.score !== 0);
}

/** Earlier judgements than an overview tells. */
async function loadMarks(judgements) {
  const { name, total } = state;
  const earlier = [];
  const end = total - judgements.length;
  for (let offset = Math.max(0, total - MOST); offset < end; offset += 1000)
    earlier.push(...(await call("GET", at(name, `/judgements?limit=${Math.min(1000, end - offset)}&offset=${offset}`))).judgements);
  if (state.name !== name || state.total !== total) return;
  state.marks = latest([...earlier, ...judgements]);
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
  const subject = target.concept === null ? { query: state.query } : { concept: target.concept };
  if (target.concept === null && !state.query) throw new Error("Search for something first, or choose a concept: a mark is about one of them.");
  return judge(items.map((item) => ({ item, ...subject, score: value })));
}

/** Store judgements; the views see them at once. A job that they start, as the collection's policy may want, is told too. */
export async function judge(judgements) {
  const { name } = state;
  const answer = await call("POST", at(name, "/feedback"), { judgements });
  const { contradictions } = await call("GET", at(name, "/contradictions?limit=20"));
  if (state.name !== name) return answer;
  state.marks = latest([...state.marks, ...judgements]);
  state.total += answer.new + answer.contradicting;
  state.contradictions = contradictions;
  tell("marks");
  if (answer.job) {
    state.job = await call("GET", `/v1/jobs/${answer.job}`);
    tell("job");
  }
  return answer;
}

export function setTarget(concept) {
  state.target = { concept };
  tell("marks");
}

export const itemPath = (id) => at(state.name, `/items/${encodeURIComponent(id)}`);

/** What is kept of a collection in this browser: recent queries, what a sample brought along. */
export function kept(what, name = state.name) {
  try { return JSON.parse(localStorage.getItem(`vecmeta-${what}-${name}`)) ?? []; } catch { return []; }
}

export const keep = (what, value, name = state.name) => localStorage.setItem(`vecmeta-${what}-${name}`, JSON.stringify(value));

/** Recent queries of a collection: {text} or {id}. */
export const recent = () => kept("recent");

export function remember(query) {
  if (!query || (!query.text && !query.id)) return;
  const others = recent().filter((one) => !same(one, query));
  keep("recent", [query, ...others].slice(0, 12));
}

export const described = (query) => (query?.text ? `“${query.text}”` : query?.id ? `more like ${query.id}` : query?.image ? "a picture" : "a vector");
