// A user as the gateway tells of one.
import type { Role } from "../../lib/frames";

export interface User { user_id: string; name: string; subject: string; role: Role; disabled: boolean; created_at: string; last_log_in_at: string | null }
export const ROLES = ["operator", "auditor", "admin", "renter"] as const satisfies Role[];

const LETTERS = "abcdefghjkmnpqrstuvwxyz23456789";
/** Four groups of five letters that are not taken for each other when read aloud: 98 bits. */
export function suggestPassword(): string {
  const letters: string[] = [];
  while (letters.length < 20) {
    // What lies above the largest multiple is thrown away, so that each letter is as likely as the others.
    for (const byte of crypto.getRandomValues(new Uint8Array(32))) if (byte < 248 && letters.length < 20) letters.push(LETTERS[byte % 31] ?? "");
  }
  return letters.join("").replace(/(.{5})(?=.)/g, "$1-");
}
