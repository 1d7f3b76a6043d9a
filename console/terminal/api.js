// The wire to the gateway: one attempt a request, within a time, and what is known of the connection and its clock.
//
// Nothing is repeated here. Whoever asked decides, with the renter, whether to ask again.

const PATIENCE_MS = 15_000;
/** Whole seconds come in the Date header, so a smaller difference says nothing. */
const CLOCK_NOISE_MS = 2_000;

/** Why something is not done: the gateway's slug, or `unreachable`, `timeout`, `storage` of this page. */
export class Problem extends Error {
  constructor(slug, { status = 0, detail = "" } = {}) {
    super(detail || slug);
    Object.assign(this, { slug, status, detail });
  }

  /** It may have happened: only the same Idempotency-Key makes asking again safe. */
  get isUnsure() {
    return ["unreachable", "timeout", "outcome-unknown"].includes(this.slug);
  }
}

/** Is the gateway heard? Sends `change` when that changes and `ended` when it does not know us any more. */
class Link extends EventTarget {
  constructor() {
    super();
    this.isLost = false;
    addEventListener("offline", () => this.set(true));
  }

  set(isLost) {
    if (this.isLost === isLost) return;
    this.isLost = isLost;
    this.dispatchEvent(new Event("change"));
  }
}

export const link = new Link();

let offset_ms = 0;

/** The gateway's time: keys begin and end by it, and a phone's own clock may be wrong. */
export const now = () => Date.now() + offset_ms;

function hearTime(answer, asked) {
  const said = Date.parse(answer.headers.get("date") ?? "");
  if (!Number.isFinite(said)) return;
  const difference = said + 500 - (asked + Date.now()) / 2;
  offset_ms = Math.abs(difference) > CLOCK_NOISE_MS ? difference : 0;
}

/** Asks once. `key` is the Idempotency-Key of what changes something. Throws a [`Problem`]. */
export async function ask(method, path, { body, key } = {}) {
  const headers = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (key) headers["idempotency-key"] = key;
  const asked = Date.now();
  let answer;
  let content;
  try {
    const signal = AbortSignal.timeout(PATIENCE_MS);
    answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), cache: "no-store", signal });
    content = parse(await answer.text());
  } catch (error) {
    link.set(true);
    throw new Problem(error.name === "TimeoutError" ? "timeout" : "unreachable");
  }
  const slug = String(content?.type ?? "").replace("urn:cardea:problem:", "");
  if (answer.ok) {
    hearTime(answer, asked);
    link.set(false);
    return content;
  }
  const { status } = answer;
  if (!slug && status >= 502) {
    // Something before the gateway speaks for it: it cannot be reached.
    link.set(true);
    throw new Problem("unreachable", { status });
  }
  link.set(false);
  if (status === 401) link.dispatchEvent(new Event("ended"));
  throw new Problem(slug || "internal", { status, detail: content?.detail });
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

const PAGE = 50;
const MAX_PAGES = 5;

/** The newest of a list. The gateway looks through everybody's rows for ours, so that a page may come half empty. */
export async function newest(path) {
  const items = [];
  let after = null;
  for (let page = 0; page < MAX_PAGES && items.length < PAGE; page += 1) {
    const answer = await ask("GET", `${path}?limit=${PAGE}${after ? `&after=${encodeURIComponent(after)}` : ""}`);
    items.push(...answer.items);
    after = answer.next;
    if (!after) break;
  }
  return items;
}

export const freshKey = () => crypto.randomUUID();
