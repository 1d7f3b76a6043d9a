// The terms of lending between a form and the wire. Pure.

import type { Lending } from "../frames";

export const DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"] as const;

export interface LendingForm {
  profiles: string; approval: "auto" | "owner"; max: string; noShow: string; lease: string;
  area: { latitude: number; longitude: number } | null; radius: string;
  windows: { days: string[]; from: string; until: string; time_zone: string }[];
}

const text = (value: number | null | undefined) => (value == null ? "" : String(value));
const minutes = (typed: string) => (typed.trim() === "" ? null : Number(typed));

export function formOf(lending: Lending | undefined): LendingForm {
  const { profiles = [], approval, max_minutes, no_show_minutes, lease_minutes, return_area, windows = [] } = lending ?? {};
  return {
    profiles: profiles.join(", "), approval: approval ?? "auto", max: text(max_minutes), noShow: text(no_show_minutes), lease: text(lease_minutes),
    area: return_area ? { latitude: return_area.latitude, longitude: return_area.longitude } : null, radius: text(return_area?.radius_m ?? 200),
    windows: windows.map((window) => ({ ...window, days: [...window.days] })),
  };
}

export function lendingOf(form: LendingForm): Lending {
  return {
    profiles: form.profiles.split(",").map((name) => name.trim()).filter(Boolean), approval: form.approval,
    max_minutes: minutes(form.max), no_show_minutes: minutes(form.noShow), lease_minutes: minutes(form.lease),
    return_area: form.area ? { ...form.area, radius_m: Number(form.radius) } : null, windows: form.windows,
  };
}

/** The same terms, whatever was left out: nothing is sent that nobody changed. */
export const isSame = (a: Lending | undefined, b: Lending) => JSON.stringify(lendingOf(formOf(a))) === JSON.stringify(lendingOf(formOf(b)));
