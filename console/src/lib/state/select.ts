// Which vehicles are shown and in which order. Fast enough for 10 000 twice a second: ids are ranked once, not compared.

import type { Fleet } from "./fleet";
import { type Vehicle, isLowOnFuel, isMoving, isStale } from "./vehicle";

export const FILTERS = ["online", "offline", "rented", "moving", "low_fuel", "alert", "pending", "disabled", "stale"] as const;
export type Filter = (typeof FILTERS)[number];

export const COLUMNS = ["id", "link", "age", "usage", "pending", "doors", "drive", "speed", "fuel", "place"] as const;
export type Column = (typeof COLUMNS)[number];
export interface Wish { search: string; filters: ReadonlySet<Filter>; column: Column; isUp: boolean }

export function passes(filter: Filter, vehicle: Vehicle, fleet: Fleet, now: number): boolean {
  switch (filter) {
    case "online": return vehicle.online;
    case "offline": return !vehicle.online;
    case "rented": return vehicle.usage === "rented";
    case "moving": return isMoving(vehicle, now);
    case "low_fuel": return isLowOnFuel(vehicle);
    case "alert": return fleet.alertCount.has(vehicle.id);
    case "pending": return vehicle.pending > 0;
    case "disabled": return !vehicle.drive;
    case "stale": return isStale(vehicle, now);
  }
}

function sortKey(column: Column, vehicle: Vehicle): number | string | null {
  switch (column) {
    case "id": return null;
    case "link": return vehicle.online ? 0 : 1;
    // The youngest first; a car that never told anything comes last.
    case "age": return vehicle.newest === null ? null : -vehicle.newest;
    case "usage": return vehicle.usage + vehicle.renter;
    case "pending": return -vehicle.pending;
    case "doors": return vehicle.locked === null ? null : Number(vehicle.locked);
    case "drive": return Number(vehicle.drive);
    case "speed": return vehicle.speed;
    case "fuel": return vehicle.fuel;
    case "place": return vehicle.latitude;
  }
}

// Made once: a comparison that makes its own collator is a hundred times slower.
const collator = new Intl.Collator(undefined, { numeric: true });

export class Selector {
  private ranks = new Map<string, number>();

  /** After a car came or went. */
  rank(fleet: Fleet) {
    const ids = [...fleet.vehicles.keys()].sort(collator.compare);
    this.ranks = new Map(ids.map((id, index) => [id, index]));
  }

  select(fleet: Fleet, wish: Wish, now: number): Vehicle[] {
    if (this.ranks.size !== fleet.vehicles.size) this.rank(fleet);
    const words = wish.search.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen: Vehicle[] = [];
    for (const vehicle of fleet.vehicles.values()) {
      if (!words.every((word) => vehicle.words.includes(word))) continue;
      let isWanted = true;
      for (const filter of wish.filters) isWanted &&= passes(filter, vehicle, fleet, now);
      if (isWanted) chosen.push(vehicle);
    }
    const turn = wish.isUp ? 1 : -1;
    const rank = (vehicle: Vehicle) => this.ranks.get(vehicle.id) ?? 0;
    if (wish.column === "id") return chosen.sort((a, b) => turn * (rank(a) - rank(b)));
    const keyed = chosen.map((vehicle) => ({ vehicle, key: sortKey(wish.column, vehicle) }));
    keyed.sort((a, b) => compare(a.key, b.key, turn) || rank(a.vehicle) - rank(b.vehicle));
    return keyed.map(({ vehicle }) => vehicle);
  }
}

/** What is not known comes last, whichever way the order goes. */
function compare(a: number | string | null, b: number | string | null, turn: number): number {
  if (a === b) return 0;
  if (a === null) return 1;
  if (b === null) return -1;
  return (a < b ? -1 : 1) * turn;
}

export interface Summary { vehicles: number; online: number; moving: number; rented: number; disabled: number; stale: number }

export function summarise(fleet: Fleet, now: number): Summary {
  const sum: Summary = { vehicles: 0, online: 0, moving: 0, rented: 0, disabled: 0, stale: 0 };
  for (const vehicle of fleet.vehicles.values()) {
    sum.vehicles += 1;
    if (vehicle.online) sum.online += 1;
    if (isMoving(vehicle, now)) sum.moving += 1;
    if (vehicle.usage === "rented") sum.rented += 1;
    if (!vehicle.drive) sum.disabled += 1;
    if (isStale(vehicle, now)) sum.stale += 1;
  }
  return sum;
}
