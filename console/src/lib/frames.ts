// What the gateway says, as far as the console reads it. Fields are named as on the wire.

export type Role = "admin" | "operator" | "renter" | "auditor";
export interface SessionBody { subject: string; role: Role; method: "api_key" | "password" | "oidc"; expires_at: string }

export type SignalValue = boolean | number | string;
export interface Signal { value: SignalValue; at: string }
export interface Usage { state: "free" | "reserved" | "rented" | "ending"; rental_id?: string; renter?: string; from?: string; until?: string; since?: string }
export interface Key {
  key_id: string; vehicle_id: string; rental_id: string; holder: string; profile: string; state: "pending" | "delivered" | "revoked" | "expired";
  permits: string[]; prohibits: string[]; not_before: string; not_after: string; leased_until?: string; max_speed_kmh?: number;
}
/** The terms a vehicle is lent on. */
export interface Lending {
  profiles: string[]; windows: { days: string[]; from: string; until: string; time_zone: string }[]; max_minutes?: number | null; approval?: "auto" | "owner" | null;
  return_area?: { latitude: number; longitude: number; radius_m: number } | null; no_show_minutes?: number | null; lease_minutes?: number | null;
}
export interface Twin {
  vehicle_id: string; name?: string; fuel_type?: string; tank_litres?: number; class?: string; capabilities: string[]; lending?: Lending; firmware?: string;
  link: { state: "online" | "offline"; since: string; epoch: number };
  signals: Record<string, Signal>; usage: Usage; drive_enabled: boolean; keys: Key[]; pending_commands: number;
}
/** A vehicle in short, for those that nobody looks at closely. What is not known is absent; a part without a time is as new
 * as the vehicle's own `at`. */
export interface Summary {
  vehicle_id: string; summary: true; name?: string; class?: string; online: boolean; usage: Usage["state"]; renter?: string; drive_enabled: boolean;
  pending_commands: number; at?: string; place?: { latitude: number; longitude: number; at?: string }; speed?: { kmh: number; at?: string };
  fuel?: { percent: number; at?: string }; doors?: { locked: boolean; at?: string };
}
export const isSummary = (told: Twin | Summary): told is Summary => "summary" in told;
export interface Passage { state: string; at: string }
export interface Command {
  command_id: string; vehicle_id: string; type: string; function?: string; key_id?: string; effect?: string; state: string; reason?: string;
  created_at: string; expires_at: string; history: Passage[];
}
export interface Alert {
  alert_id: string; kind: string; severity: "info" | "warning" | "critical"; vehicle_id?: string; card_id?: string; decision_id?: string; rental_id?: string;
  state: "open" | "acknowledged" | "confirmed" | "resolved" | "withdrawn"; text: string; opened_at: string;
  history: (Passage & { by?: { role: string; subject: string }; note?: string })[];
}
export interface Check {
  check: string; mode: "on" | "shadow"; fail?: string; verdict: "pass" | "fail" | "unknown"; cap_minor?: number; detail: string;
  evidence: unknown; age_s?: number;
}
export interface Place { latitude: number; longitude: number }
export interface Decision {
  decision_id: string; at: string; card_id?: string; vehicle_id?: string; station_id?: string; outcome: "approve" | "approve_capped" | "step_up" | "decline";
  settlement: string; cap_minor?: number; reasons: string[]; warnings?: string[]; checks: Check[]; rule_version: string; alert_id?: string;
  purchase: {
    authorization_id: string; source: string; at: string; amount: { amount_minor: number; currency: string };
    merchant: { name?: string; city?: string; country?: string; network_id?: string; terminal_id?: string; mcc?: string; position?: Place };
  };
  inputs?: unknown;
  reconciliation?: { state: string; checks: Check[]; review_at?: string; postings: unknown[] };
}
export interface ProblemBody { type: string; title: string; status: number; detail?: string; retry_after?: number }

export interface Snapshot { type: "snapshot"; seq: number; stream?: string; more?: boolean; vehicles: (Twin | Summary)[]; alerts: Alert[]; commands?: Command[] }
export interface Changes {
  type: "changes"; seq: number; more?: boolean; missed_commands?: boolean; vehicles?: (Twin | Summary)[]; commands?: Command[]; alerts?: Alert[]; decisions?: Decision[];
}
export interface Reply { type: "reply"; id: number | string | null; ok: boolean; problem?: ProblemBody; command?: Command; at?: string }
export type Frame = Snapshot | Changes | Reply;

export interface Order { type: "lock" | "unlock" | "locate" | "enable_function" | "disable_function" | "report_state"; function?: string; ttl_s?: number }

/** A frame out of a message; null = not one of ours, which a newer gateway may send. Throws where it is no JSON object. */
export function readFrame(text: string): Frame | null {
  const frame: unknown = JSON.parse(text);
  if (typeof frame !== "object" || frame === null || !("type" in frame)) throw new Error("a frame is one JSON object with a type");
  switch (frame.type) {
    case "snapshot": case "changes":
      if (!("seq" in frame) || typeof frame.seq !== "number") throw new Error("a batch has a seq");
      return frame as Snapshot | Changes;
    case "reply": return frame as Reply;
    default: return null;
  }
}
