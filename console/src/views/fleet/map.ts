// The fleet on MapLibre GL without a server for tiles: coastlines and borders come from the program itself.

import { Map as GlMap, ScaleControl, type ExpressionSpecification, type GeoJSONSource, type StyleSpecification, setWorkerUrl } from "maplibre-gl";
import workerUrl from "maplibre-gl/dist/maplibre-gl-worker.mjs?worker&url";
import "maplibre-gl/dist/maplibre-gl.css";
import type { FeatureCollection } from "geojson";
import coarseUrl from "../../made/world-110m.json?url";
import fineUrl from "../../made/world-50m.json?url";
import type { Cars } from "../../lib/state/clusters";
import { appearance } from "../../lib/theme.svelte";
import { LOOKS, look, type Look, type Vehicle } from "../../lib/state/vehicle";

import { STREETS, streetLayers, type StreetColours } from "./streets";

setWorkerUrl(workerUrl);

export type Colours = Record<Look | "sea" | "land" | "border" | "ink" | "surface" | "accent", string> & { streets: StreetColours };
export type { Cars };
const NOTHING: FeatureCollection = { type: "FeatureCollection", features: [] };

/** From the design tokens, so that map and page agree in both themes. */
export function coloursOf(element: Element): Colours {
  const style = getComputedStyle(element);
  const token = (name: string) => style.getPropertyValue(`--${name}`).trim();
  return {
    alert: token("bad"), disabled: token("warn"), offline: token("off"), stale: token("off"), moving: token("info"), online: token("good"),
    sea: token("sea"), land: token("land"), border: token("border"), ink: token("ink"), surface: token("surface"), accent: token("accent"),
    streets: { water: token("sea"), green: token("map-green"), built: token("map-built"), building: token("map-building"), road: token("map-road"), roadMajor: token("map-road-major"),
      land: token("map-earth"), border: token("border"), ink: token("ink"), muted: token("muted"), isDark: appearance.isDark },
  };
}

export function cars(rows: readonly Vehicle[], alerts: ReadonlyMap<string, number>, chosen: string | null, now: number): Cars {
  const features: Cars["features"] = [];
  for (const vehicle of rows) {
    if (vehicle.latitude === null || vehicle.longitude === null) continue;
    features.push({
      type: "Feature",
      geometry: { type: "Point", coordinates: [vehicle.longitude, vehicle.latitude] },
      properties: { id: vehicle.id, look: look(vehicle, alerts.has(vehicle.id), now), chosen: vehicle.id === chosen },
    });
  }
  return { type: "FeatureCollection", features };
}

/** South-west and north-east of what is shown; null = nothing is. */
export function bounds(rows: readonly Vehicle[]): [[number, number], [number, number]] | null {
  let [west, south, east, north] = [180, 90, -180, -90];
  for (const { latitude, longitude } of rows) {
    if (latitude === null || longitude === null) continue;
    [west, east] = [Math.min(west, longitude), Math.max(east, longitude)];
    [south, north] = [Math.min(south, latitude), Math.max(north, latitude)];
  }
  return west > east ? null : [[west, south], [east, north]];
}

/** The worker knows no page to resolve an address against. */
const address = (path: string) => new URL(path, location.href).href;

const byLook = (of: (look: Look) => string | number): ExpressionSpecification =>
  ["match", ["get", "look"], ...LOOKS.flatMap((one) => [one, of(one)]), of("online")] as unknown as ExpressionSpecification;
/** Hollow = what it shows may not be so any more. */
const isHollow = (one: Look) => one === "offline" || one === "stale";

export function styleOf(colours: Colours): StyleSpecification {
  return {
    version: 8,
    sources: {
      world: { type: "geojson", data: address(coarseUrl) },
      grid: { type: "geojson", data: NOTHING },
      cars: { type: "geojson", data: NOTHING },
      chosen: { type: "geojson", data: NOTHING },
      extra: { type: "geojson", data: NOTHING },
    },
    layers: [
      { id: "sea", type: "background", paint: { "background-color": colours.sea } },
      { id: "land", type: "fill", source: "world", filter: ["==", ["geometry-type"], "Polygon"], layout: { visibility: "none" }, paint: { "fill-color": colours.land } },
      { id: "borders", type: "line", source: "world", layout: { visibility: "none" }, paint: { "line-color": colours.border, "line-width": 1 } },
      { id: "grid", type: "line", source: "grid", paint: { "line-color": colours.border, "line-width": 1, "line-opacity": 0.35 } },
      { id: "extra-area", type: "fill", source: "extra", filter: ["==", ["geometry-type"], "Polygon"],
        paint: { "fill-color": colours.accent, "fill-opacity": 0.14, "fill-outline-color": colours.accent } },
      { id: "extra-line", type: "line", source: "extra", filter: ["==", ["geometry-type"], "LineString"],
        paint: { "line-color": colours.accent, "line-width": 3, "line-opacity": 0.85 } },
      { id: "extra-point", type: "circle", source: "extra", filter: ["==", ["geometry-type"], "Point"],
        paint: { "circle-color": colours.accent, "circle-radius": 6, "circle-stroke-color": colours.surface, "circle-stroke-width": 2 } },
      { id: "clusters", type: "circle", source: "cars", filter: ["has", "point_count"], paint: {
        "circle-color": colours.surface, "circle-stroke-width": 2,
        "circle-stroke-color": ["case", [">", ["get", "alerts"], 0], colours.alert, colours.accent],
        "circle-radius": ["interpolate", ["linear"], ["log10", ["get", "point_count"]], 0, 11, 2, 18, 4, 28],
      } },
      { id: "counts", type: "symbol", source: "cars", filter: ["has", "point_count"],
        layout: { "icon-image": ["concat", "count-", ["get", "point_count_abbreviated"]], "icon-allow-overlap": true } },
      { id: "cars", type: "circle", source: "cars", filter: ["!", ["has", "point_count"]], paint: {
        "circle-color": byLook((one) => (isHollow(one) ? colours.surface : colours[one])),
        "circle-radius": byLook((one) => (one === "alert" ? 8 : isHollow(one) ? 5 : 6)),
        "circle-stroke-color": byLook((one) => (isHollow(one) ? colours[one] : colours.surface)),
        "circle-stroke-width": byLook((one) => (isHollow(one) ? 2 : 1.5)),
        "circle-opacity": byLook((one) => (one === "offline" ? 0.6 : 1)),
      } },
      { id: "chosen", type: "circle", source: "chosen", paint: {
        "circle-color": "rgba(0,0,0,0)", "circle-radius": 13, "circle-stroke-color": colours.accent, "circle-stroke-width": 3 } },
    ],
  };
}

/** Puts other colours on a map that is shown already. */
export function paint(map: GlMap, colours: Colours) {
  const streets = map.getSource(STREETS)?.type;
  for (const layer of [...styleOf(colours).layers, ...(streets === "raster" || streets === "vector" ? streetLayers(streets, colours.streets) : [])]) {
    const properties = Object.entries(layer.paint ?? {}) as Parameters<GlMap["setPaintProperty"]> extends [string, infer Name, infer Value, ...unknown[]] ? [Name, Value][] : never;
    for (const [name, value] of properties) map.setPaintProperty(layer.id, name, value);
  }
}

/** A map in the box; throws where the browser has no WebGL. */
export function makeMap(container: HTMLElement, colours: Colours, onFault: () => void): GlMap {
  const map = new GlMap({
    container, style: styleOf(colours), center: [9, 47], zoom: 3, attributionControl: false, dragRotate: false, pitchWithRotate: false,
    maxPitch: 0, fadeDuration: 0, renderWorldCopies: true,
  });
  map.touchZoomRotate.disableRotation();
  map.setMissingStyleImageResolver((id) => {
    if (id.startsWith("count-") && !map.hasImage(id)) map.addImage(id, drawCount(id.slice(6), coloursOf(container).ink), { pixelRatio: 2 });
  });
  map.addControl(new ScaleControl({ maxWidth: 110 }), "top-left");
  const drawGrid = () => { source(map, "grid")?.setData(grid(map)); };
  map.on("moveend", drawGrid);
  map.on("load", drawGrid);
  map.on("error", (event) => {
    // The streets have their own listener.
    if ("sourceId" in event && event.sourceId === STREETS) return;
    const { error } = event;
    if (error.message.includes("world-")) onFault();
    else console.warn("map:", error.message);
  });
  return map;
}

/** Puts the world under what is shown, once the view is right: every picture before that costs a slow machine a tenth of a
 * second for nothing. The worker has read the coarse one by then, and reads the fine one when nothing else is to do. */
export function showWorld(map: GlMap) {
  for (const layer of ["land", "borders"]) map.setLayoutProperty(layer, "visibility", "visible");
  map.once("idle", () => { source(map, "world")?.setData(address(fineUrl)); });
}

export const source = (map: GlMap, name: string) => map.getSource<GeoJSONSource>(name);

/** Lines of whole, tenth, hundredth … degrees: where there is no street, they show that the map moved, and how far. */
function grid(map: GlMap): FeatureCollection {
  const view = map.getBounds();
  const [west, south, east, north] = [view.getWest(), Math.max(-85, view.getSouth()), view.getEast(), Math.min(85, view.getNorth())];
  const rough = Math.max(east - west, 1e-4) / 6;
  const base = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * base).find((one) => one >= rough) ?? 10 * base;
  const lines: [number, number][][] = [];
  for (let x = Math.ceil(west / step) * step; x <= east; x += step) lines.push([[x, south], [x, north]]);
  for (let y = Math.ceil(south / step) * step; y <= north; y += step) lines.push([[west, y], [east, y]]);
  return { type: "FeatureCollection", features: [{ type: "Feature", properties: {}, geometry: { type: "MultiLineString", coordinates: lines } }] };
}

/** MapLibre's own texts need glyph files from a server; a number is drawn soon enough here. */
function drawCount(text: string, ink: string): ImageData {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.max(1, text.length) * 18 + 8, 32];
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  if (!pen) throw new Error("no 2d canvas");
  pen.font = "600 24px system-ui, sans-serif";
  [pen.textAlign, pen.textBaseline, pen.fillStyle] = ["center", "middle", ink];
  pen.fillText(text, canvas.width / 2, canvas.height / 2 + 1);
  return pen.getImageData(0, 0, canvas.width, canvas.height);
}
