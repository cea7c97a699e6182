// The HTTP API, as the README tells it. Everything the console knows comes through here.

const KEY = "vecmeta-key";

/** What an answer that is an error says; status 0: the service is not there. */
export class ApiError extends Error {
  constructor(status, error, detail) {
    super(detail);
    Object.assign(this, { status, error });
  }
}

export const events = new EventTarget(); // "unauthorized", "gone", "back"
let gone = false;

export function key() {
  return sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY);
}

export function setKey(secret, remember) {
  sessionStorage.removeItem(KEY);
  localStorage.removeItem(KEY);
  if (secret) (remember ? localStorage : sessionStorage).setItem(KEY, secret);
}

const headers = (more) => ({ ...(key() ? { Authorization: `Bearer ${key()}` } : {}), ...more });

async function asked(method, path, { body, type = "application/json", signal, headers: more = {} } = {}) {
  const sent = body === undefined ? {} : { body, headers: headers({ "Content-Type": type, ...more }) };
  let answer;
  try {
    answer = await fetch(path, { method, signal, headers: headers(more), ...sent });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    lost();
    throw new ApiError(0, "unreachable", "The service does not answer. Is it running?");
  }
  if (gone) { gone = false; events.dispatchEvent(new Event("back")); }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({ error: "http_error", detail: `status ${answer.status}` }));
  if (answer.status === 401) events.dispatchEvent(new Event("unauthorized"));
  throw new ApiError(answer.status, told.error, told.detail);
}

function lost() {
  if (gone) return;
  gone = true;
  events.dispatchEvent(new Event("gone"));
  const again = setInterval(async () => {
    if (gone) await fetch("/healthz").then((answer) => { if (answer.ok) { gone = false; events.dispatchEvent(new Event("back")); } }, () => {});
    if (!gone) clearInterval(again);
  }, 2000);
}

/** JSON in, JSON out; null where an answer has no content. */
export async function call(method, path, body, options = {}) {
  const answer = await asked(method, path, { ...options, ...(body === undefined ? {} : { body: JSON.stringify(body) }) });
  return answer.status === 204 ? null : answer.json();
}

export const text = async (path) => (await asked("GET", path)).text();

/** The address of a collection, or of something in it. */
export const at = (name, rest = "") => `/v1/collections/${encodeURIComponent(name)}${rest}`;

/** Write items as lines; calls `told(done, refused)` after each batch. Resolves with the refused lines. */
export async function write(name, items, told = () => {}, size = 64) {
  const refused = [];
  for (let start = 0; start < items.length; start += size) {
    const lines = items.slice(start, start + size).map((item) => JSON.stringify(item)).join("\n");
    const answer = await asked("POST", at(name, "/items/stream"), { body: lines, type: "application/x-ndjson" });
    const results = (await answer.text()).trim().split("\n").filter(Boolean).map((line) => JSON.parse(line));
    refused.push(...results.filter((one) => one.status === "refused").map((one) => ({ ...one, line: one.line + start })));
    told(Math.min(start + size, items.length), refused);
  }
  return refused;
}

/**
 * Follow a job by server-sent events until it ends; resolves with the job, or null if it is gone with its collection. A stream that breaks
 * is taken up again, also after the service was away.
 */
export async function follow(id, onjob, signal) {
  for (;;) {
    try {
      const answer = await asked("GET", `/v1/jobs/${id}/events`, { signal, headers: { Accept: "text/event-stream" } });
      const job = await heard(answer.body.pipeThrough(new TextDecoderStream()).getReader(), onjob);
      if (job?.finished) return job;
    } catch (error) {
      if (error.status === 404) return null;
      if (error.status !== 0) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, AGAIN));
  }
}

const AGAIN = 1000; // ms until a stream that broke is asked for again

/** The jobs of a stream of events; resolves with the last one. */
async function heard(reader, onjob) {
  let job = null;
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => { if (error.name === "AbortError") throw error; return { done: true }; });
    if (done) return job;
    const parts = (rest + value).split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      if (data) onjob((job = JSON.parse(data)));
    }
  }
}
