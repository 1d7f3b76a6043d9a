// How commands read and feel; the word itself is always shown, the colour only helps.

import type { Command } from "../../lib/frames";
import { t, wire } from "../../lib/language.svelte";

export const FUNCTIONS = ["unlock_doors", "lock_doors", "enter_cabin", "open_trunk", "drive", "accessory_power", "climate", "infotainment", "windows",
  "open_glovebox", "open_fuel_flap", "open_charge_port", "locate"];

export function tone(state: string): string {
  switch (state) {
    case "succeeded": return "good";
    case "failed": case "rejected": return "bad";
    case "unknown": case "expired": case "pending_safe": return "warn";
    case "cancelled": case "superseded": return "off";
    default: return "info";
  }
}

export function nameOf(command: Command): string {
  switch (command.type) {
    case "enable_function": return `${t("enable_it")} ${wire("fn", command.function)}`;
    case "disable_function": return `${t("disable_it")} ${wire("fn", command.function)}`;
    default: return wire("type", command.type);
  }
}
