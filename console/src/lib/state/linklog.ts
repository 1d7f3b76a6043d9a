// When a car was connected, out of the gateway's notes. Pure.

export interface LinkEvent { at: string; event: "connected" | "disconnected" | "refused" | "unproved"; epoch?: number; address?: string; reason?: string; times?: number }
export interface LinkLog { items: LinkEvent[]; since: string }
export interface Span { from: number; until: number; isOnline: boolean }

/** Online and away between two moments, oldest first. What lies before the first note that was read is left out: it is not
 * known. `isWhole` = nothing older was noted, so the first note says how it was before it. */
export function spans({ items, since }: LinkLog, isWhole: boolean, from: number, until: number): Span[] {
  // A refused try changes nothing about the connection that is there.
  const turns = items.filter(({ event }) => event === "connected" || event === "disconnected").map(({ at, event }) => ({ at: Date.parse(at), isOnline: event === "connected" }))
    .filter(({ at }) => Number.isFinite(at)).sort((a, b) => a.at - b.at);
  const [first] = turns;
  if (!first) return [];
  const beginning = Date.parse(since);
  if (isWhole && beginning < first.at) turns.unshift({ at: beginning, isOnline: !first.isOnline });
  const found: Span[] = [];
  for (const [index, { at, isOnline }] of turns.entries()) {
    const span = { from: Math.max(from, at), until: Math.min(until, turns[index + 1]?.at ?? until), isOnline };
    const last = found.at(-1);
    if (span.until <= span.from) continue;
    // A session that took the place of another is no gap.
    if (last && last.isOnline === isOnline && last.until === span.from) last.until = span.until;
    else found.push(span);
  }
  return found;
}

/** The share of the known time that it was online; null = nothing is known. */
export function onlineShare(found: readonly Span[]): number | null {
  const sum = (wanted: readonly Span[]) => wanted.reduce((ms, span) => ms + span.until - span.from, 0);
  const known = sum(found);
  return known === 0 ? null : sum(found.filter((span) => span.isOnline)) / known;
}
