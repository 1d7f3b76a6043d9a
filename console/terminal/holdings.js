// What the renter has: rentals, keys and requests as the gateway told them last, and the cars' names. Kept on the
// phone after each reading, so that the page shows them without a connection too.

import { ask, newest, now } from "./api.js";
import { forget, keep, recall } from "./kept.js";
import { isHolder } from "./holder.js";

const LISTS = { rentals: "/v1/rentals", keys: "/v1/keys", requests: "/v1/usage-requests" };
const EMPTY = { rentals: [], keys: [], requests: [], cars: {}, made: [], heard_at: null };
/** Requests of this browser that are remembered, and cars whose names are. */
const MAX_MADE = 100;

export class Holdings {
  constructor(subject) {
    this.subject = subject;
    Object.assign(this, structuredClone(EMPTY));
  }

  static nameOf(subject) {
    return `holdings/${subject}`;
  }

  async restore() {
    Object.assign(this, await recall(Holdings.nameOf(this.subject)));
  }

  async save() {
    const { rentals, keys, requests, cars, made, heard_at } = this;
    // A browser that keeps nothing still shows what it hears.
    await keep(Holdings.nameOf(this.subject), { rentals, keys, requests, cars, made, heard_at }).catch(() => null);
  }

  async refresh() {
    const lists = await Promise.all(Object.entries(LISTS).map(async ([name, path]) => [name, await newest(path)]));
    Object.assign(this, Object.fromEntries(lists), { heard_at: now() });
    await this.save();
  }

  /** One key with its rental: what the key's page follows. */
  async refreshKey(keyId) {
    const key = await ask("GET", `/v1/keys/${encodeURIComponent(keyId)}`);
    const rental = await ask("GET", `/v1/rentals/${encodeURIComponent(key.rental_id)}`);
    this.heard_at = now();
    await this.take({ keys: key, rentals: rental });
  }

  /** Takes single ones in, newest first, in place of what was known of them. */
  async take(items) {
    const id = { rentals: "rental_id", keys: "key_id", requests: "request_id" };
    for (const [list, item] of Object.entries(items)) {
      const at = this[list].findIndex((known) => known[id[list]] === item[id[list]]);
      if (at < 0) this[list].unshift(item);
      else this[list][at] = { ...this[list][at], ...item };
    }
    await this.save();
  }

  /** The answer to a request that this browser made, with the car as the list showed it. */
  async takeRequest({ key, ...request }, car) {
    this.made = [request.request_id, ...this.made].slice(0, MAX_MADE);
    const { vehicle_id, name, position, position_at } = car;
    this.cars = { ...this.cars, [vehicle_id]: { name, position, position_at } };
    await this.take({ requests: request, ...(key && { keys: key }) });
    if (key) await this.refreshKey(key.key_id).catch(() => null);
  }

  key(keyId) {
    return this.keys.find((key) => key.key_id === keyId);
  }

  rentalOf(key) {
    return this.rentals.find((rental) => rental.rental_id === key.rental_id);
  }

  /** A renter is not told a car's name but in the list of free cars, so it is remembered from there. */
  nameOf(vehicleId) {
    return this.cars[vehicleId]?.name ?? vehicleId;
  }

  isMadeHere(rental) {
    return this.made.includes(rental?.request_id);
  }
}

/** What is kept of everybody else goes, and with no subject everybody's. Key pairs stay: without a key they open nothing. */
export function forgetHoldings(butOf) {
  return forget((name) => !isHolder(name) && name !== (butOf && Holdings.nameOf(butOf)));
}
