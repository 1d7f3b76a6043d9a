// Streets under the cars where the gateway has them: tiles of a server it names, or one PMTiles archive that it serves. The
// offline world stays below, so that a server that is away leaves a map all the same.

import { addProtocol, type LayerSpecification, type Map as GlMap, type SourceSpecification } from "maplibre-gl";
import { get, isNotOffered } from "../../lib/api";

export type MapConfig = { kind: "offline" } | { kind: "tiles"; url: string; attribution: string; max_zoom?: number } | { kind: "pmtiles"; url: string; attribution: string };
export interface StreetColours { water: string; green: string; built: string; building: string; road: string; roadMajor: string; land: string; border: string; ink: string; muted: string; isDark: boolean }
export interface Streets { kind: "raster" | "vector"; source: SourceSpecification; attribution: string }

export const STREETS = "streets";
/** The street layers lie below everything of ours. */
const BELOW = "grid";
/** PMTiles' own numbers for what its tiles are. */
const MVT = 1;
let asked: Promise<Streets | null> | null = null;

/** Asked once, whoever shows a map; null = there are none. Throws where they were promised and cannot be had. */
export function readStreets(): Promise<Streets | null> {
  asked ??= find().catch((error: unknown) => {
    // The next map may find them.
    asked = null;
    throw error;
  });
  return asked;
}

async function find(): Promise<Streets | null> {
  let config: MapConfig;
  try {
    config = await get<MapConfig>("/v1/console/map");
  } catch (error) {
    if (isNotOffered(error)) return null;
    throw error;
  }
  if (config.kind === "tiles") {
    return { kind: "raster", attribution: config.attribution, source: { type: "raster", tiles: [config.url], tileSize: 256, ...(config.max_zoom !== undefined && { maxzoom: config.max_zoom }) } };
  }
  if (config.kind !== "pmtiles") return null;
  // Read only where there is an archive.
  const { PMTiles, Protocol } = await import("pmtiles");
  const archive = new PMTiles(new URL(config.url, location.href).href);
  const { tileType, maxZoom } = await archive.getHeader();
  const protocol = new Protocol();
  protocol.add(archive);
  addProtocol("pmtiles", protocol.tile);
  const url = `pmtiles://${archive.source.getKey()}`;
  return tileType === MVT ? { kind: "vector", attribution: config.attribution, source: { type: "vector", url } }
    : { kind: "raster", attribution: config.attribution, source: { type: "raster", url, tileSize: 256, maxzoom: maxZoom } };
}

export function streetLayers(kind: Streets["kind"], colours: StreetColours): LayerSpecification[] {
  if (kind === "raster") {
    // Foreign pictures are made for light pages; ours stay calm under the cars in both themes.
    return [{ id: "streets-raster", type: "raster", source: STREETS, paint: { "raster-saturation": -0.35, "raster-brightness-max": colours.isDark ? 0.55 : 1, "raster-fade-duration": 0 } }];
  }
  const of = (layer: string) => ({ source: STREETS, "source-layer": layer });
  const width = (thin: number, thick: number) => ["interpolate", ["exponential", 1.6], ["zoom"], 8, thin * 0.4, 13, thin, 18, thick] as const;
  const isMajor = ["in", ["get", "kind"], ["literal", ["highway", "major_road"]]] as const;
  const label = { "text-font": ["system-ui"], "text-field": ["get", "name"] as ["get", string] };
  const halo = { "text-color": colours.muted, "text-halo-color": colours.land, "text-halo-width": 1.5 };
  return [
    { id: "streets-earth", type: "fill", ...of("earth"), paint: { "fill-color": colours.land } },
    { id: "streets-green", type: "fill", ...of("landuse"), filter: ["in", ["get", "kind"], ["literal", ["park", "forest", "wood", "grass", "nature_reserve", "cemetery", "golf_course"]]], paint: { "fill-color": colours.green } },
    { id: "streets-built", type: "fill", ...of("landuse"), filter: ["in", ["get", "kind"], ["literal", ["industrial", "commercial", "hospital", "school", "university", "aerodrome"]]], paint: { "fill-color": colours.built } },
    { id: "streets-water", type: "fill", ...of("water"), filter: ["==", ["geometry-type"], "Polygon"], paint: { "fill-color": colours.water } },
    { id: "streets-buildings", type: "fill", ...of("buildings"), minzoom: 14, paint: { "fill-color": colours.building } },
    { id: "streets-minor", type: "line", ...of("roads"), minzoom: 11, filter: ["!", isMajor as never], layout: { "line-cap": "round" }, paint: { "line-color": colours.road, "line-width": width(0.8, 9) as never } },
    { id: "streets-major", type: "line", ...of("roads"), filter: isMajor as never, layout: { "line-cap": "round" }, paint: { "line-color": colours.roadMajor, "line-width": width(1.6, 14) as never } },
    { id: "streets-boundaries", type: "line", ...of("boundaries"), paint: { "line-color": colours.border, "line-width": 1, "line-dasharray": [3, 2] } },
    // Drawn from the browser's own fonts: no file of letters is asked of anybody.
    { id: "streets-names", type: "symbol", ...of("roads"), minzoom: 14, filter: ["has", "name"], layout: { ...label, "symbol-placement": "line", "text-size": 11 }, paint: halo },
    { id: "streets-places", type: "symbol", ...of("places"), filter: ["has", "name"], layout: { ...label, "text-size": 12, "symbol-sort-key": ["coalesce", ["get", "min_zoom"], 20] }, paint: { ...halo, "text-color": colours.ink } },
  ];
}

/** Lays them under the cars. `onTrouble` is called once when they cannot be read. */
export function showStreets(map: GlMap, colours: StreetColours, onShown: (attribution: string) => void, onTrouble: () => void) {
  let isGone = false;
  map.once("remove", () => { isGone = true; });
  const trouble = () => {
    if (!isGone) onTrouble();
  };
  map.on("error", (event) => { if ("sourceId" in event && event.sourceId === STREETS) trouble(); });
  void readStreets().then((streets) => {
    if (isGone || streets === null) return;
    map.addSource(STREETS, streets.source);
    for (const layer of streetLayers(streets.kind, colours)) map.addLayer(layer, BELOW);
    // The lines of degrees stood in for streets.
    map.setLayoutProperty(BELOW, "visibility", "none");
    onShown(streets.attribution);
  }).catch((error: unknown) => {
    console.warn("streets:", error);
    trouble();
  });
}
