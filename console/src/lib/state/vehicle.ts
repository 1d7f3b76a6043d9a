// One vehicle as list and map need it: what is asked ten thousand times a second is read once, when the car tells it.

import type { Twin } from "../frames";

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
  readonly twin: Twin;
  readonly id: string;
  readonly name: string;
  readonly online: boolean;
  readonly usage: Twin["usage"]["state"];
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

export function readVehicle(twin: Twin): Vehicle {
  const signals = twin.signals ?? {};
  const number = (path: string) => {
    const value = signals[path]?.value;
    return typeof value === "number" && Number.isFinite(value) ? value : null;
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
  const [latitude, longitude] = [number(PATH.latitude), number(PATH.longitude)];
  const isPlaced = latitude !== null && longitude !== null && Math.abs(latitude) <= 90 && Math.abs(longitude) <= 180;
  const locked = signals[PATH.locked]?.value;
  const { usage } = twin;
  return {
    twin,
    id: twin.vehicle_id,
    name: twin.name ?? "",
    online: twin.link.state === "online",
    usage: usage.state,
    renter: usage.renter ?? "",
    latitude: isPlaced ? latitude : null,
    longitude: isPlaced ? longitude : null,
    speed: number(PATH.speed),
    fuel: number(PATH.fuel),
    locked: typeof locked === "boolean" ? locked : null,
    drive: twin.drive_enabled,
    pending: twin.pending_commands,
    newest: latest === "" ? null : Date.parse(latest),
    at: { place: time(PATH.latitude), speed: time(PATH.speed), fuel: time(PATH.fuel), locked: time(PATH.locked) },
    words: [twin.vehicle_id, twin.name, usage.renter, usage.state, twin.class, twin.link.state, twin.drive_enabled ? "" : "disabled"]
      .filter(Boolean).join(" ").toLowerCase(),
  };
}

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
