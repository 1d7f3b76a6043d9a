// Every view by its name in the address, read when it is first looked at: the fleet is on the screen before the rest is there.
import type { Component } from "svelte";
import type { View } from "../lib/route.svelte";

type Part = Promise<{ default: Component }>;
export const SCREENS: Record<View, () => Part> = {
  fleet: () => import("./fleet/Fleet.svelte"), alerts: () => import("./alerts/Alerts.svelte"), decisions: () => import("./decisions/Decisions.svelte"),
  rentals: () => import("./admin/Rentals.svelte"), cards: () => import("./admin/Cards.svelte"), stations: () => import("./admin/Stations.svelte"),
  rules: () => import("./admin/Rules.svelte"), vehicles: () => import("./admin/Vehicles.svelte"), users: () => import("./admin/Users.svelte"),
  api_keys: () => import("./admin/ApiKeys.svelte"), notifications: () => import("./admin/Notifications.svelte"), audit: () => import("./admin/Audit.svelte"),
  system: () => import("./admin/System.svelte"), account: () => import("./admin/Account.svelte"),
};
