// Cars close to each other as one mark. Reckoned here and not in the map's worker: handing 10 000 cars over to it takes half
// a second each time, reckoning them 25 ms, and the map then gets the few hundred marks that can be seen.

import type { BBox, Feature, FeatureCollection, Point } from "geojson";
import Supercluster from "supercluster";

export interface CarProperties { id: string; look: string; chosen: boolean }
export type Cars = FeatureCollection<Point, CarProperties>;
interface Sum { alerts: number }
interface View { west: number; south: number; east: number; north: number; zoom: number }

const RADIUS_PX = 42;
/** Further in every car stands for itself. */
const SINGLE_FROM_ZOOM = 14;
/** So much more than what is seen is reckoned, so that a small move needs nothing new. */
const MARGIN = 0.5;

export class Clusters {
  private readonly index = new Supercluster<CarProperties, Sum>({
    radius: RADIUS_PX, extent: 512, maxZoom: SINGLE_FROM_ZOOM - 1,
    map: ({ look }) => ({ alerts: look === "alert" ? 1 : 0 }),
    reduce: (sum, { alerts }) => { sum.alerts += alerts; },
  });
  private shown: View | null = null;

  constructor() {
    // Asked before the first cars came, it has an answer too.
    this.index.load([]);
  }

  load(cars: Cars) {
    this.index.load(cars.features);
    this.shown = null;
  }

  /** What is to be drawn; null = what is drawn already covers it. */
  within(view: View): FeatureCollection<Point> | null {
    const zoom = Math.floor(view.zoom);
    const { shown } = this;
    if (shown && shown.zoom === zoom && shown.west <= view.west && shown.south <= view.south && shown.east >= view.east && shown.north >= view.north) return null;
    const [across, up] = [(view.east - view.west) * MARGIN, (view.north - view.south) * MARGIN];
    const wide = { west: view.west - across, south: Math.max(-90, view.south - up), east: view.east + across, north: Math.min(90, view.north + up), zoom };
    this.shown = wide;
    const box: BBox = wide.east - wide.west >= 360 ? [-180, wide.south, 180, wide.north] : [wide.west, wide.south, wide.east, wide.north];
    return { type: "FeatureCollection", features: this.index.getClusters(box, zoom) as Feature<Point>[] };
  }

  /** From which zoom on a cluster falls apart; null = it is gone since. */
  fallsApartAt(cluster: number): number | null {
    try {
      return this.index.getClusterExpansionZoom(cluster);
    } catch {
      return null;
    }
  }
}
