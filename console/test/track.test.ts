import { describe, expect, it } from "vitest";
import type { Decision } from "../src/lib/frames";
import { boundsOf, evidenceText, sceneOf, shapesOf } from "../src/lib/state/explain";
import { circle, distanceM, pointAt, readTrack } from "../src/lib/state/track";
import { at } from "./fixtures";

const LAT = "Vehicle.CurrentLocation.Latitude", LON = "Vehicle.CurrentLocation.Longitude", SPEED = "Vehicle.Speed", FUEL = "Vehicle.Powertrain.FuelSystem.RelativeLevel";
const point = (ageS: number, told: Record<string, number>) =>
  ({ at: at(ageS), signals: Object.fromEntries(Object.entries(told).map(([path, value]) => [path, { value, at: at(ageS) }])) });

describe("a track", () => {
  it("carries what did not change from point to point", () => {
    const track = readTrack([point(30, { [LAT]: 45, [LON]: 7 }), point(20, { [SPEED]: 36 }), point(10, { [LAT]: 45.001 })]);
    expect(track.points.map(({ latitude, longitude, speed }) => [latitude, longitude, speed])).toEqual([[45, 7, null], [45, 7, 36], [45.001, 7, 36]]);
    expect(track.distance_km).toBeCloseTo(0.111, 2);
  });
  it("shows a long silence as a gap and not as a line", () => {
    const { fuel } = readTrack([point(3_000, { [FUEL]: 50 }), point(10, { [FUEL]: 40 })]);
    expect(fuel[1]).toEqual([50, null, 40]);
  });
  it("has no place before both coordinates are known", () => expect(readTrack([point(9, { [LAT]: 45 })]).points).toEqual([]));
  it("is found at a moment", () => {
    const { points } = readTrack([point(30, { [LAT]: 45, [LON]: 7 }), point(10, { [LAT]: 46 })]);
    expect(pointAt(points, Date.parse(at(31)))).toBeNull();
    expect(pointAt(points, Date.parse(at(11)))?.latitude).toBe(45);
    expect(pointAt(points, Date.parse(at(1)))?.latitude).toBe(46);
  });
});

describe("a decision on the map", () => {
  const check = (evidence: unknown) => ({ check: "location", mode: "on" as const, verdict: "fail" as const, detail: "", evidence });
  const decision = (evidence: unknown): Decision => ({
    decision_id: "d", at: at(1), outcome: "decline", settlement: "disabled", reasons: [], rule_version: "1", checks: [check({ day_count: 1 }), check(evidence)],
    purchase: { authorization_id: "a", source: "stripe", at: at(1), amount: { amount_minor: 1, currency: "EUR" }, merchant: {} },
  });
  const [car, station] = [{ latitude: 45, longitude: 7 }, { latitude: 45.1, longitude: 7 }];

  it("draws the circle of what is allowed and the line to the car", () => {
    const scene = sceneOf(decision({ vehicle_position: car, station_position: station, allowed_m: 500, distance_m: 11_119 }));
    expect(scene).toEqual({ car, station, allowed_m: 500, distance_m: 11_119 });
    expect(scene && shapesOf(scene).features.map(({ geometry }) => geometry.type)).toEqual(["Polygon", "LineString", "Point"]);
    expect(scene && boundsOf(scene)?.[0][1]).toBe(45);
  });
  it("draws nothing where no place was known, whatever the evidence is", () => {
    for (const evidence of [null, "text", { vehicle_position: { latitude: "45" } }]) expect(sceneOf(decision(evidence))).toBeNull();
  });
  it("has a circle of the right size", () => {
    for (const [longitude, latitude] of circle(car, 500)) expect(distanceM(car, { latitude, longitude })).toBeCloseTo(500, -1);
  });
  it("reads as text", () => expect(evidenceText({ max_age_s: 5, vehicle_position: car, list: [1] })).toBe("max age s 5 · vehicle position 45.00000, 7.00000 · list [1]"));
});
