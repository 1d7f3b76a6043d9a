// The gateway's HTTP interface. Every failure says what happened and whether a retry is worth it.

import type { ProblemBody } from "./frames";

const PATIENCE_MS = 30_000;
const RETRYABLE = new Set([408, 429, 502, 503, 504]);

export class Failure extends Error {
  constructor(
    message: string,
    /** 0 = there was no answer. */
    readonly status: number,
    readonly isRetryWorthIt: boolean,
    /** Nothing was heard of a request that changes something: it may have been carried out. */
    readonly mayHaveHappened: boolean,
    /** When the gateway says that a retry is worth it; null = it did not say. */
    readonly retryAfterS: number | null = null,
  ) {
    super(message);
  }
}

export interface Page<T> { items: T[]; next: string | null }
type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";

interface Asked { body?: unknown; raw?: Blob | string; kind?: string; patience_ms?: number; signal?: AbortSignal }

async function ask(method: Method, path: string, asked: Asked): Promise<Response> {
  const headers: Record<string, string> = {};
  if (asked.body !== undefined) headers["content-type"] = "application/json";
  if (asked.kind) headers["content-type"] = asked.kind;
  // The same promise is not made twice, whoever repeats the request on the way.
  if (method === "POST") headers["idempotency-key"] = newId();
  const body = asked.raw ?? (asked.body === undefined ? undefined : JSON.stringify(asked.body));
  const late = AbortSignal.timeout(asked.patience_ms ?? PATIENCE_MS);
  const signal = asked.signal ? AbortSignal.any([late, asked.signal]) : late;
  try {
    return await fetch(path, { method, headers, body, signal, credentials: "same-origin" });
  } catch (error) {
    if (asked.signal?.aborted) throw error;
    throw new Failure("no-answer", 0, true, method !== "GET");
  }
}

async function failure(answer: Response, method: Method): Promise<Failure> {
  const problem = await answer.json().catch(() => null) as Partial<ProblemBody> | null;
  const text = problem?.detail ?? problem?.title ?? `${answer.status} ${answer.statusText}`;
  const wait = Number(answer.headers.get("retry-after") ?? problem?.retry_after ?? NaN);
  return new Failure(text, answer.status, RETRYABLE.has(answer.status), method !== "GET" && answer.status >= 500, Number.isFinite(wait) ? wait : null);
}

/** The answer as JSON; null for one without content. */
export async function call<T>(method: Method, path: string, asked: Asked = {}): Promise<T> {
  const answer = await ask(method, path, asked);
  if (!answer.ok) throw await failure(answer, method);
  const text = await answer.text();
  return (text === "" ? null : JSON.parse(text)) as T;
}

/** A text that is no JSON, answered by a text. */
export async function sendText(path: string, raw: string, kind: string): Promise<string> {
  const answer = await ask("POST", path, { raw, kind });
  if (!answer.ok) throw await failure(answer, "POST");
  return answer.text();
}

/** A text, and where it goes on: `Link: </path>; rel="next"`. */
export async function readText(path: string): Promise<{ text: string; next: string | null }> {
  const answer = await ask("GET", path, {});
  if (!answer.ok) throw await failure(answer, "GET");
  return { text: await answer.text(), next: /<([^>]+)>;\s*rel="next"/.exec(answer.headers.get("link") ?? "")?.[1] ?? null };
}

export const get = <T>(path: string, signal?: AbortSignal) => call<T>("GET", path, { signal });
export const post = <T>(path: string, body?: unknown) => call<T>("POST", path, { body });
export const put = <T>(path: string, body: unknown) => call<T>("PUT", path, { body });
export const patch = <T>(path: string, body: unknown) => call<T>("PATCH", path, { body });
export const remove = <T>(path: string) => call<T>("DELETE", path);
export const part = (text: string) => encodeURIComponent(text);

export function query(parts: Record<string, string | number | undefined>): string {
  const set = Object.entries(parts).filter(([, value]) => value !== undefined && value !== "");
  return set.length === 0 ? "" : `?${set.map(([name, value]) => `${name}=${part(String(value))}`).join("&")}`;
}

/** A gateway of an earlier version has no such address. */
export const isNotOffered = (error: unknown) => error instanceof Failure && error.status === 404;

export const newId = () => crypto.randomUUID();
