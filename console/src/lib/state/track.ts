// A vehicle's day out of the gateway's history: where it was, how fast, how much fuel. Pure.

import type { Signal } from "../frames";
import { PATH } from "./vehicle";

export interface HistoryPoint { at: string; signals: Record<string, Signal> }
export interface TrackPoint { at: number; latitude: number; longitude: number; speed: number | null }
/** Seconds and values, as uPlot wants them. */
export type Series = [at: number[], value: (number | null)[]];
export interface Track { points: TrackPoint[]; speed: Series; fuel: Series; distance_km: number }

/** A silence longer than this is a gap, not a line. */
const GAP_MS = 10 * 60_000;

export function readTrack(history: readonly HistoryPoint[]): Track {
  const track: Track = { points: [], speed: [[], []], fuel: [[], []], distance_km: 0 };
  // Each point tells only what changed; the rest is as before.
  let [latitude, longitude, speed] = [null, null, null] as (number | null)[];
  for (const { at, signals } of history) {
    const time = Date.parse(at);
    if (!Number.isFinite(time)) continue;
    const told = (path: string) => {
      const value = signals[path]?.value;
      return typeof value === "number" && Number.isFinite(value) ? value : undefined;
    };
    const [newSpeed, newFuel] = [told(PATH.speed), told(PATH.fuel)];
    if (newSpeed !== undefined) add(track.speed, time, speed = newSpeed);
    if (newFuel !== undefined) add(track.fuel, time, newFuel);
    latitude = told(PATH.latitude) ?? latitude ?? null;
    longitude = told(PATH.longitude) ?? longitude ?? null;
    if (latitude === null || longitude === null) continue;
    const last = track.points.at(-1);
    if (last && last.latitude === latitude && last.longitude === longitude && last.speed === (speed ?? null)) continue;
    if (last) track.distance_km += distanceM(last, { latitude, longitude }) / 1000;
    track.points.push({ at: time, latitude, longitude, speed: speed ?? null });
  }
  return track;
}

function add(series: Series, at: number, value: number) {
  const last = series[0].at(-1);
  if (last !== undefined && at - last * 1000 > GAP_MS) {
    series[0].push(last + 1);
    series[1].push(null);
  }
  series[0].push(at / 1000);
  series[1].push(value);
}

/** Where it was at a moment: the last point before it; null before the first. */
export function pointAt(points: readonly TrackPoint[], at: number): TrackPoint | null {
  let [low, high] = [0, points.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((points[middle]?.at ?? Infinity) <= at) low = middle + 1;
    else high = middle;
  }
  return points[low - 1] ?? null;
}

const EARTH_M = 6_371_000;
const radians = (degrees: number) => (degrees * Math.PI) / 180;

export function distanceM(a: { latitude: number; longitude: number }, b: { latitude: number; longitude: number }): number {
  const [up, across] = [radians(b.latitude - a.latitude), radians(b.longitude - a.longitude)];
  const h = Math.sin(up / 2) ** 2 + Math.cos(radians(a.latitude)) * Math.cos(radians(b.latitude)) * Math.sin(across / 2) ** 2;
  return 2 * EARTH_M * Math.asin(Math.min(1, Math.sqrt(h)));
}

/** A circle as a ring of positions, good to well below a percent at the radii used here. */
export function circle(centre: { latitude: number; longitude: number }, radiusM: number): [number, number][] {
  const up = (radiusM / EARTH_M) * (180 / Math.PI);
  const across = up / Math.max(0.01, Math.cos(radians(centre.latitude)));
  return Array.from({ length: 65 }, (_, n) => {
    const angle = (n / 64) * 2 * Math.PI;
    return [centre.longitude + across * Math.cos(angle), centre.latitude + up * Math.sin(angle)];
  });
}
