// What of a decision can be drawn: where the car was, where the station is, and what distance was allowed. Pure.

import type { Feature, FeatureCollection } from "geojson";
import type { Check, Decision, Place } from "../frames";
import { circle } from "./track";

export interface Scene { car: Place | null; station: Place | null; allowed_m: number | null; distance_m: number | null }

function place(value: unknown): Place | null {
  if (typeof value !== "object" || value === null || !("latitude" in value) || !("longitude" in value)) return null;
  const { latitude, longitude } = value;
  return typeof latitude === "number" && typeof longitude === "number" ? { latitude, longitude } : null;
}
const number = (value: unknown) => (typeof value === "number" ? value : null);

/** By the first check that looked at places; null = none did. */
export function sceneOf(decision: Decision): Scene | null {
  const checks: Check[] = [...decision.checks, ...(decision.reconciliation?.checks ?? [])];
  for (const { evidence } of checks) {
    if (typeof evidence !== "object" || evidence === null) continue;
    const said = evidence as Record<string, unknown>;
    const [car, station] = [place(said.vehicle_position), place(said.station_position)];
    if (car || station) return { car, station, allowed_m: number(said.allowed_m), distance_m: number(said.distance_m) };
  }
  return null;
}

/** The station with the circle of what is allowed around it, and the line from the car to it. */
export function shapesOf({ car, station, allowed_m }: Scene): FeatureCollection {
  const features: Feature[] = [];
  if (station && allowed_m !== null) features.push({ type: "Feature", properties: {}, geometry: { type: "Polygon", coordinates: [circle(station, allowed_m)] } });
  if (car && station) {
    features.push({ type: "Feature", properties: {}, geometry: { type: "LineString", coordinates: [[car.longitude, car.latitude], [station.longitude, station.latitude]] } });
  }
  if (station) features.push({ type: "Feature", properties: {}, geometry: { type: "Point", coordinates: [station.longitude, station.latitude] } });
  return { type: "FeatureCollection", features };
}

export function boundsOf(scene: Scene): [[number, number], [number, number]] | null {
  const ring = scene.station && scene.allowed_m !== null ? circle(scene.station, scene.allowed_m) : [];
  const places = [scene.car, scene.station].filter((one) => one !== null).map((one): [number, number] => [one.longitude, one.latitude]);
  const all = [...ring, ...places];
  if (all.length === 0) return null;
  const [xs, ys] = [all.map(([x]) => x), all.map(([, y]) => y)];
  return [[Math.min(...xs), Math.min(...ys)], [Math.max(...xs), Math.max(...ys)]];
}

/** Evidence as a line: names and values, places left to the map. */
export function evidenceText(evidence: unknown): string {
  if (evidence === null || evidence === undefined) return "";
  if (typeof evidence !== "object") return String(evidence);
  const show = (value: unknown): string => {
    const where = place(value);
    if (where) return `${where.latitude.toFixed(5)}, ${where.longitude.toFixed(5)}`;
    return value !== null && typeof value === "object" ? JSON.stringify(value) : String(value);
  };
  return Object.entries(evidence).map(([name, value]) => `${name.replaceAll("_", " ")} ${show(value)}`).join(" · ");
}
