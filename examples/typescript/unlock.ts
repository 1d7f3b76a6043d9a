// Asks for a vehicle that is free, unlocks it, and follows the command until the car has said what became of it.
//
// usage: CARDEA_URL=https://… CARDEA_API_KEY=ck_… npm start [VEHICLE]
// Node.js takes the fleet's own CA from NODE_EXTRA_CA_CERTS. The types are made from the gateway's document:
//   curl --cacert ca.pem "$CARDEA_URL/openapi.json" > openapi.json && npm run types && npm run check

import { randomUUID } from "node:crypto";

import type { components, paths } from "./cardea.js";

type Command = components["schemas"]["CommandBody"];
type ProblemBody = components["schemas"]["ProblemBody"];
type Available = paths["/v1/vehicles/available"]["get"]["responses"][200]["content"]["application/json"];
type NewCommand = components["schemas"]["NewCommand"];

const FINAL = new Set(["succeeded", "failed", "rejected", "expired", "cancelled", "superseded", "unknown"]);

/** What the gateway says when it does not do what it was asked (RFC 9457). */
class Problem extends Error {
  constructor(readonly body: ProblemBody, readonly retryAfterS: number | null) {
    super(`${body.title} (${body.status}): ${body.detail}`);
  }
}

class Cardea {
  constructor(readonly url: string, readonly apiKey: string) {}

  async call<Answer>(method: "GET" | "POST", path: keyof paths | `/v1/${string}`, body?: object, idempotencyKey?: string): Promise<Answer> {
    const answer = await fetch(this.url + path, {
      method,
      headers: {
        authorization: `Bearer ${this.apiKey}`,
        ...(body && { "content-type": "application/json" }),
        ...(idempotencyKey && { "idempotency-key": idempotencyKey }),
      },
      ...(body && { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(40_000),
    });
    if (!answer.ok) {
      const retryAfter = answer.headers.get("retry-after");
      throw new Problem((await answer.json()) as ProblemBody, retryAfter ? Number(retryAfter) : null);
    }
    return (await answer.json()) as Answer;
  }

  async freeVehicle(): Promise<string | undefined> {
    const { items } = await this.call<Available>("GET", "/v1/vehicles/available?limit=1");
    return items[0]?.vehicle_id;
  }

  /** The command when it is final. `succeeded` means that the car said so; `unknown`, that no word came. */
  async unlock(vehicle: string): Promise<Command> {
    const order: NewCommand = { type: "unlock", ttl_s: 60 };
    const path = `/v1/vehicles/${encodeURIComponent(vehicle)}/commands?wait_ms=10000` as const;
    // Sent again with the same key, the request is answered from the record and nothing happens twice.
    let command = await this.call<Command>("POST", path, order, randomUUID());
    while (!FINAL.has(command.state)) {
      console.log(`${vehicle}: ${command.state}`);
      command = await this.call<Command>("GET", `/v1/commands/${command.command_id}?wait_ms=10000`);
    }
    return command;
  }
}

const { CARDEA_URL: url, CARDEA_API_KEY: apiKey } = process.env;
if (!url || !apiKey) throw new Error("CARDEA_URL and CARDEA_API_KEY are needed");
const cardea = new Cardea(url, apiKey);
try {
  const vehicle = process.argv[2] ?? (await cardea.freeVehicle());
  if (!vehicle) throw new Error("no vehicle is free");
  const { state } = await cardea.unlock(vehicle);
  console.log(`${vehicle}: ${state}`);
  process.exitCode = state === "succeeded" ? 0 : 1;
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
