// What the gateway tells of itself, and how soon a certificate's end is worth a word.

export interface SystemBody {
  version: string; started_at: string; at: string; ready: boolean; problems: string[];
  journal: { records: number; behind: number; bytes: number }; disk: { free_bytes?: number; low: boolean };
  vehicles: { registered: number; online: number }; queues: { name: string; depth: number; bound: number }[];
  notifier: { pending: number; dead: number; targets: number }; consoles: { open: number; most: number };
  certificates: { name: string; expires_at: string }[];
}

const DAY_MS = 86_400_000;
/** A renewal needs a person, who may be on holiday. */
const SOON_MS = 30 * DAY_MS;
const NOW_MS = 7 * DAY_MS;

export function certificateTone(expiresAt: string, now: number): "good" | "warn" | "bad" {
  const left = Date.parse(expiresAt) - now;
  return left < NOW_MS ? "bad" : left < SOON_MS ? "warn" : "good";
}
