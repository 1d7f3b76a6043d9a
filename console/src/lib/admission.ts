// The ways into this gateway, and why the way through another log-in failed.

import { get, isNotOffered } from "./api";

export interface Methods { password: boolean; oidc: { name: string; start: string } | null }
export type Way = "password" | "key";
const KEPT = "cardea-log-in";

/** A gateway that does not know the question knows only keys. */
export async function readMethods(): Promise<Methods> {
  try {
    return await get<Methods>("/v1/session/methods");
  } catch (error) {
    if (isNotOffered(error)) return { password: false, oidc: null };
    throw error;
  }
}

/** Which way somebody took in this browser the last time; never what they typed. */
export const lastWay = (): Way => (localStorage.getItem(KEPT) === "key" ? "key" : "password");

export function keepWay(way: Way) {
  if (way === "key") localStorage.setItem(KEPT, way);
  else localStorage.removeItem(KEPT);
}

/** The problem another log-in came back with, once: it leaves the address, so that a reload does not say it again. */
export function takeProblem(): string | null {
  const address = new URL(location.href);
  const slug = address.searchParams.get("log_in");
  if (slug === null) return null;
  address.searchParams.delete("log_in");
  history.replaceState(null, "", address);
  // Somebody may have written the address: a slug and nothing else.
  return /^[a-z0-9-]{1,64}$/.test(slug) ? slug : "failed";
}
