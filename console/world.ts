// The offline base map as the map's worker reads it: coasts and borders out of world-atlas, made when the page is built, so
// that no browser has to unfold the topology.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { feature, mesh } from "topojson-client";
import type { GeometryCollection, Topology } from "topojson-specification";

interface World extends Topology { objects: { land: GeometryCollection; countries: GeometryCollection } }
/** A thousandth of a degree is a hundred metres, finer than the source. */
const round = (_: string, value: unknown) => (typeof value === "number" ? Math.round(value * 1000) / 1000 : value);

export function makeWorld(from: string, to: string) {
  mkdirSync(to, { recursive: true });
  for (const scale of ["110m", "50m"]) {
    const topology = JSON.parse(readFileSync(join(from, `countries-${scale}.json`), "utf8")) as World;
    const land = feature(topology, topology.objects.land);
    const borders = mesh(topology, topology.objects.countries, (a, b) => a !== b);
    const features = [...("features" in land ? land.features : [land]), { type: "Feature", properties: {}, geometry: borders }];
    writeFileSync(join(to, `world-${scale}.json`), JSON.stringify({ type: "FeatureCollection", features }, round));
  }
}
