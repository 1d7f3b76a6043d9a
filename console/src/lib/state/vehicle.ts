// One vehicle as list and map need it: what is asked ten thousand times a second is read once, when the car tells it.

import type { Summary, Twin, Usage } from "../frames";

/** Older than this and a signal is shown as stale; the card guard calls a car stale at the same age. */
export const STALE_MS = 5 * 60_000;
/** Below this a tank is low. */
export const LOW_FUEL_PERCENT = 15;
const MOVING_KMH = 1;

export const PATH = {
  latitude: "Vehicle.CurrentLocation.Latitude",
  longitude: "Vehicle.CurrentLocation.Longitude",
  accuracy: "Vehicle.CurrentLocation.HorizontalAccuracy",
  speed: "Vehicle.Speed",
  fuel: "Vehicle.Powertrain.FuelSystem.RelativeLevel",
  locked: "Vehicle.Cabin.Door.Row1.DriverSide.IsLocked",
  odometer: "Vehicle.TraveledDistance",
} as const;

export interface Vehicle {
  /** All that the gateway knows of it; null = it was told in short, and nothing but what is below is known. */
  readonly twin: Twin | null;
  readonly id: string;
  readonly name: string;
  readonly online: boolean;
  readonly usage: Usage["state"];
  readonly renter: string;
  readonly latitude: number | null;
  readonly longitude: number | null;
  readonly speed: number | null;
  readonly fuel: number | null;
  readonly locked: boolean | null;
  readonly drive: boolean;
  readonly pending: number;
  /** When its newest signal was measured, by the car's clock in server time; null = never told anything. */
  readonly newest: number | null;
  readonly at: { place: number | null; speed: number | null; fuel: number | null; locked: number | null };
  /** What the search looks at, in lower case. */
  readonly words: string;
}

/** One that is told with all that belongs to it. */
export type Whole = Vehicle & { readonly twin: Twin };
export const isWhole = (vehicle: Vehicle | undefined): vehicle is Whole => vehicle !== undefined && vehicle.twin !== null;

export function readVehicle(twin: Twin): Vehicle {
  const signals = twin.signals ?? {};
  const number = (path: string) => {
    const value = signals[path]?.value;
    return typeof value === "number" ? finite(value) : null;
  };
  const time = (path: string) => {
    const at = signals[path]?.at;
    return at === undefined ? null : Date.parse(at);
  };
  // RFC 3339 in UTC with milliseconds sorts as text; one parse is enough.
  let latest = "";
  for (const path in signals) {
    const at = signals[path]?.at ?? "";
    if (at > latest) latest = at;
  }
  const locked = signals[PATH.locked]?.value;
  const { usage } = twin;
  const online = twin.link.state === "online";
  return {
    twin,
    id: twin.vehicle_id,
    name: twin.name ?? "",
    online,
    usage: usage.state,
    renter: usage.renter ?? "",
    ...onGlobe(number(PATH.latitude), number(PATH.longitude)),
    speed: number(PATH.speed),
    fuel: number(PATH.fuel),
    locked: typeof locked === "boolean" ? locked : null,
    drive: twin.drive_enabled,
    pending: twin.pending_commands,
    newest: latest === "" ? null : Date.parse(latest),
    at: { place: time(PATH.latitude), speed: time(PATH.speed), fuel: time(PATH.fuel), locked: time(PATH.locked) },
    words: wordsOf(twin, usage.state, usage.renter, online),
  };
}

/** `twin` is what was known of it as a whole: in short, a vehicle that is looked at must not lose it. */
export function readSummary(told: Summary, twin: Twin | null): Vehicle {
  const newest = told.at === undefined ? null : Date.parse(told.at);
  const time = (part: { at?: string } | undefined) => (part === undefined ? null : part.at === undefined ? newest : Date.parse(part.at));
  return {
    twin,
    id: told.vehicle_id,
    name: told.name ?? "",
    online: told.online,
    usage: told.usage,
    renter: told.renter ?? "",
    ...onGlobe(told.place?.latitude ?? null, told.place?.longitude ?? null),
    speed: finite(told.speed?.kmh),
    fuel: finite(told.fuel?.percent),
    locked: told.doors?.locked ?? null,
    drive: told.drive_enabled,
    pending: told.pending_commands,
    newest,
    at: { place: time(told.place), speed: time(told.speed), fuel: time(told.fuel), locked: time(told.doors) },
    words: wordsOf(told, told.usage, told.renter, told.online),
  };
}

const finite = (value: number | undefined) => (value !== undefined && Number.isFinite(value) ? value : null);

function onGlobe(latitude: number | null, longitude: number | null): Pick<Vehicle, "latitude" | "longitude"> {
  const isPlaced = latitude !== null && longitude !== null && Math.abs(latitude) <= 90 && Math.abs(longitude) <= 180;
  return isPlaced ? { latitude, longitude } : { latitude: null, longitude: null };
}

const wordsOf = (of: { vehicle_id: string; name?: string; class?: string; drive_enabled: boolean }, usage: string, renter: string | undefined, isOnline: boolean) =>
  [of.vehicle_id, of.name, renter, usage, of.class, isOnline ? "online" : "offline", of.drive_enabled ? "" : "disabled"].filter(Boolean).join(" ").toLowerCase();

/** When a state was measured does not matter to a wish like "moving" only while it is fresh. */
export const isOld = (at: number | null, now: number) => at === null || now - at > STALE_MS;
export const isStale = (vehicle: Vehicle, now: number) => isOld(vehicle.newest, now);
export const isMoving = (vehicle: Vehicle, now: number) => (vehicle.speed ?? 0) > MOVING_KMH && !isOld(vehicle.at.speed, now);
export const isLowOnFuel = (vehicle: Vehicle) => vehicle.fuel !== null && vehicle.fuel < LOW_FUEL_PERCENT;

/** How it looks on the map, the first that holds; also the legend's order. */
export const LOOKS = ["alert", "disabled", "offline", "stale", "moving", "online"] as const;
export type Look = (typeof LOOKS)[number];

export function look(vehicle: Vehicle, hasAlert: boolean, now: number): Look {
  if (hasAlert) return "alert";
  if (!vehicle.online) return "offline";
  if (!vehicle.drive) return "disabled";
  if (isStale(vehicle, now)) return "stale";
  return isMoving(vehicle, now) ? "moving" : "online";
}
