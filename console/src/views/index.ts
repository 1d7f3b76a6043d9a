// Every view by its name in the address.
import type { Component } from "svelte";
import type { View } from "../lib/route.svelte";
import Account from "./admin/Account.svelte";
import ApiKeys from "./admin/ApiKeys.svelte";
import Audit from "./admin/Audit.svelte";
import Cards from "./admin/Cards.svelte";
import Notifications from "./admin/Notifications.svelte";
import Rentals from "./admin/Rentals.svelte";
import Rules from "./admin/Rules.svelte";
import Stations from "./admin/Stations.svelte";
import System from "./admin/System.svelte";
import Users from "./admin/Users.svelte";
import Vehicles from "./admin/Vehicles.svelte";
import Alerts from "./alerts/Alerts.svelte";
import Decisions from "./decisions/Decisions.svelte";
import Fleet from "./fleet/Fleet.svelte";

export const SCREENS: Record<View, Component> = {
  fleet: Fleet, alerts: Alerts, decisions: Decisions, rentals: Rentals, cards: Cards, stations: Stations, rules: Rules, vehicles: Vehicles,
  users: Users, api_keys: ApiKeys, notifications: Notifications, audit: Audit, system: System, account: Account,
};
