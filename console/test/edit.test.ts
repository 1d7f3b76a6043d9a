import { describe, expect, it } from "vitest";
import { formOf, isSame, lendingOf } from "../src/lib/state/lending";
import { majorText, minorOf } from "../src/lib/state/money";

describe("an amount", () => {
  it("is read with either mark, and by its currency's decimals", () => {
    expect([minorOf("150", "EUR"), minorOf("150.5", "EUR"), minorOf(" 0,99 ", "EUR"), minorOf("1500", "JPY")]).toEqual([15_000, 15_050, 99, 1_500]);
  });
  it("is refused when it is finer than the currency, nothing, or no number", () => {
    for (const text of ["1.005", "0", "-3", "1.000,00", "ten", ""]) expect(minorOf(text, "EUR")).toBeNull();
    expect(minorOf("1.5", "JPY")).toBeNull();
  });
  it("comes back as it was typed", () => expect(minorOf(majorText(15_005, "EUR"), "EUR")).toBe(15_005));
});

describe("the terms of lending", () => {
  const terms = { profiles: ["cabin", "drive"], approval: "owner" as const, max_minutes: 60, no_show_minutes: null, lease_minutes: 10,
    return_area: { latitude: 45, longitude: 7, radius_m: 300 }, windows: [{ days: ["mon"], from: "08:00", until: "20:00", time_zone: "Europe/Rome" }] };
  it("come out of the form as they went in", () => expect(lendingOf(formOf(terms))).toEqual(terms));
  it("are the same when only what was never there is left out", () => {
    expect(isSame(undefined, lendingOf(formOf(undefined)))).toBe(true);
    expect(isSame(terms, { ...terms, max_minutes: 61 })).toBe(false);
  });
});
