// What the page knows: vehicles, commands, alerts, decisions, and how each reads in words. No elements here.

/** Older than this and a signal is shown as stale; the card guard calls a car stale at the same age. */
export const STALE_MS = 5 * 60_000;
const MOST_COMMANDS = 2_000;
const MOST_ALERTS = 1_000;
const MOST_DECISIONS = 500;

export const PATH = {
  latitude: "Vehicle.CurrentLocation.Latitude",
  longitude: "Vehicle.CurrentLocation.Longitude",
  speed: "Vehicle.Speed",
  voltage: "Vehicle.LowVoltageSystemState",
  fuel: "Vehicle.Powertrain.FuelSystem.RelativeLevel",
  locked: "Vehicle.Cabin.Door.Row1.DriverSide.IsLocked",
};

const UNITS = {
  "Vehicle.CurrentLocation.Latitude": "°",
  "Vehicle.CurrentLocation.Longitude": "°",
  "Vehicle.CurrentLocation.HorizontalAccuracy": " m",
  "Vehicle.Speed": " km/h",
  "Vehicle.Powertrain.FuelSystem.RelativeLevel": " %",
  "Vehicle.TraveledDistance": " km",
};

const FINAL = new Set(["succeeded", "failed", "rejected", "expired", "cancelled", "superseded", "unknown"]);
const OPEN_ALERT = (alert) => !["resolved", "withdrawn", "closed"].includes(alert.state);

export class Fleet {
  constructor() {
    this.vehicles = new Map();
    this.commands = new Map();
    this.alerts = new Map();
    this.decisions = new Map();
  }

  snapshot(frame) {
    // What was said of decisions, commands and closed alerts stays true.
    this.vehicles.clear();
    for (const alert of this.openAlerts()) this.alerts.delete(alert.alert_id);
    this.add(frame);
  }

  /** Adds a frame; returns the ids of the vehicles that changed. */
  add(frame) {
    for (const vehicle of frame.vehicles ?? []) {
      this.vehicles.set(vehicle.vehicle_id, read(vehicle));
    }
    for (const command of frame.commands ?? []) this.keepCommand(command);
    for (const alert of frame.alerts ?? []) keep(this.alerts, alert.alert_id, alert, MOST_ALERTS);
    for (const decision of frame.decisions ?? []) keep(this.decisions, decision.decision_id, decision, MOST_DECISIONS);
    return (frame.vehicles ?? []).map((vehicle) => vehicle.vehicle_id);
  }

  /** After a resumed connection an older state may be told again: the longer history is the newer one. */
  keepCommand(command) {
    const known = this.commands.get(command.command_id);
    if (known && (known.history?.length ?? 0) > (command.history?.length ?? 0)) return;
    keep(this.commands, command.command_id, command, MOST_COMMANDS);
  }

  /** Newest first: those that were open when the page opened, and every one since. */
  commandsOf(id) {
    const own = [...this.commands.values()].filter((command) => command.vehicle_id === id);
    return own.sort((a, b) => (a.created_at < b.created_at ? 1 : -1));
  }

  openAlerts() {
    return [...this.alerts.values()].filter(OPEN_ALERT);
  }

  summary(now) {
    const sum = { vehicles: 0, online: 0, moving: 0, rented: 0, immobilised: 0, stale: 0, alerts: this.openAlerts().length };
    for (const vehicle of this.vehicles.values()) {
      sum.vehicles += 1;
      sum.online += vehicle.online ? 1 : 0;
      sum.moving += isMoving(vehicle, now) ? 1 : 0;
      sum.rented += vehicle.usage === "rented" ? 1 : 0;
      sum.immobilised += vehicle.drive === false ? 1 : 0;
      sum.stale += isStale(vehicle, now) ? 1 : 0;
    }
    return sum;
  }
}

function keep(map, key, value, most) {
  map.delete(key);
  map.set(key, value);
  if (map.size > most) map.delete(map.keys().next().value);
}

/** One vehicle with what the table and the map need at hand. */
function read(json) {
  const signals = json.signals ?? {};
  const value = (path) => signals[path]?.value ?? null;
  // RFC 3339 in UTC with milliseconds sorts as text; one parse is enough.
  let latest = "";
  for (const path in signals) if (signals[path].at > latest) latest = signals[path].at;
  const newest = latest ? Date.parse(latest) : null;
  const [latitude, longitude] = [value(PATH.latitude), value(PATH.longitude)];
  const located = Number.isFinite(latitude) && Number.isFinite(longitude);
  const usage = typeof json.usage === "string" ? json.usage : (json.usage?.state ?? "free");
  const vehicle = {
    json,
    id: json.vehicle_id,
    name: json.name ?? "",
    online: json.link?.state === "online",
    since: json.link?.since,
    usage,
    renter: json.usage?.renter ?? "",
    until: json.usage?.until ?? null,
    latitude: located ? latitude : null,
    longitude: located ? longitude : null,
    speed: value(PATH.speed),
    fuel: value(PATH.fuel),
    locked: value(PATH.locked),
    drive: json.drive_enabled ?? null,
    pending: json.pending_commands ?? 0,
    newest,
    /** When each signal of the table was measured. */
    at: Object.fromEntries(Object.entries(PATH).map(([name, path]) => [name, signals[path] ? Date.parse(signals[path].at) : null])),
    /** When this page heard of it, for the brief highlight. */
    heard: performance.now(),
  };
  vehicle.words = [vehicle.id, vehicle.name, vehicle.renter, usage, vehicle.online ? "online" : "offline",
    doors(vehicle).toLowerCase(), vehicle.drive === false ? "disabled" : ""].join(" ").toLowerCase();
  return vehicle;
}

export const isStale = (vehicle, now) => vehicle.newest === null || now - vehicle.newest > STALE_MS;
export const isMoving = (vehicle, now) => (vehicle.speed ?? 0) > 1 && !isStale(vehicle, now);
export const isFinal = (command) => FINAL.has(command.state);
export const doors = (vehicle) => (vehicle.locked === null ? "–" : vehicle.locked ? "Locked" : "Unlocked");
export const words = (name) => String(name).replaceAll("_", " ");
export const sentence = (name) => words(name).replace(/^./, (first) => first.toUpperCase());

/** How a command's state is to be felt; the word itself is always shown. */
export function tone(state) {
  switch (state) {
    case "succeeded": return "good";
    case "failed": case "rejected": return "bad";
    case "unknown": case "expired": case "pending_safe": return "warn";
    case "cancelled": case "superseded": return "off";
    default: return "info";
  }
}

export function nameOf(command) {
  const what = command.function ? ` ${words(command.function)}` : "";
  const name = { enable_function: "Enable", disable_function: "Disable" }[command.type] ?? sentence(command.type ?? "command");
  return name + what;
}

/** An age in one unit: 4 s, 12 min, 3 h, 2 d. */
export function age(ms) {
  if (!Number.isFinite(ms)) return "–";
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 100) return `${s} s`;
  if (s < 6_000) return `${Math.round(s / 60)} min`;
  if (s < 172_800) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86_400)} d`;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

/** A time of today to the second, of another day to the minute. */
export function time(text, now) {
  const at = Date.parse(text);
  if (!Number.isFinite(at)) return "–";
  return Math.abs(now - at) < 12 * 3_600_000 ? clock.format(at) : day.format(at);
}

export function signalText(path, value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return `${Number(value.toFixed(UNITS[path] === "°" ? 6 : 2))}${UNITS[path] ?? ""}`;
  return String(value);
}

export function placeText(vehicle) {
  return vehicle.latitude === null ? "–" : `${vehicle.latitude.toFixed(4)}, ${vehicle.longitude.toFixed(4)}`;
}

export function money(minor, currency) {
  if (!Number.isFinite(minor)) return "";
  try {
    const format = new Intl.NumberFormat(undefined, { style: "currency", currency });
    return format.format(minor / 10 ** format.resolvedOptions().maximumFractionDigits);
  } catch {
    return `${minor} ${currency ?? ""}`;
  }
}
