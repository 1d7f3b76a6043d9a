import { describe, expect, it } from "vitest";
import { Clusters, type Cars } from "../src/lib/state/clusters";

const cars = (...places: [number, number, string?][]): Cars => ({ type: "FeatureCollection", features: places.map(([longitude, latitude, look = "online"], n) => (
  { type: "Feature", geometry: { type: "Point", coordinates: [longitude, latitude] }, properties: { id: `CAR-${n}`, look, chosen: false } })) });
const view = (zoom: number, half = 5) => ({ west: 9 - half, south: 45 - half, east: 9 + half, north: 45 + half, zoom });

describe("cars on the map", () => {
  it("are one mark from afar, which counts its alerts, and their own from near", () => {
    const clusters = new Clusters();
    clusters.load(cars([9, 45], [9.0001, 45], [9.0002, 45, "alert"]));
    const [mark] = clusters.within(view(5))?.features ?? [];
    expect(mark?.properties).toMatchObject({ point_count: 3, alerts: 1 });
    expect(clusters.within(view(15))?.features).toHaveLength(3);
    expect(clusters.fallsApartAt(Number(mark?.properties?.cluster_id))).toBe(14);
  });
  it("are not reckoned anew for a small move, but for another zoom, a long way and new cars", () => {
    const clusters = new Clusters();
    clusters.load(cars([9, 45]));
    expect(clusters.within(view(5))).not.toBeNull();
    expect(clusters.within({ ...view(5.4), east: 15 })).toBeNull();
    expect(clusters.within(view(6))).not.toBeNull();
    expect(clusters.within({ ...view(6), east: 40 })).not.toBeNull();
    clusters.load(cars([9, 45]));
    expect(clusters.within(view(6))).not.toBeNull();
  });
  it("are found when the whole world is seen more than once", () => {
    const clusters = new Clusters();
    clusters.load(cars([9, 45], [-170, -40]));
    expect(clusters.within({ west: -300, south: -85, east: 300, north: 85, zoom: 0 })?.features.length).toBeGreaterThan(0);
  });
  it("are none before the first came", () => expect(new Clusters().within(view(5))?.features).toEqual([]));
  it("do not fail over a cluster that is gone", () => {
    const clusters = new Clusters();
    clusters.load(cars([9, 45]));
    expect(() => clusters.fallsApartAt(123)).not.toThrow();
  });
});
