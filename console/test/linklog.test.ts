import { describe, expect, it } from "vitest";
import { onlineShare, spans, type LinkEvent } from "../src/lib/state/linklog";
import { at, NOW } from "./fixtures";

const note = (ageS: number, event: LinkEvent["event"]): LinkEvent => ({ at: at(ageS), event });
const ago = (s: number) => NOW - s * 1000;
const log = (...items: LinkEvent[]) => ({ items, since: at(1_000) });

describe("the notes of a car's connections", () => {
  it("become spans, newest note first or not", () => {
    const items = log(note(100, "disconnected"), note(300, "connected"));
    expect(spans(items, true, ago(500), NOW)).toEqual([
      { from: ago(500), until: ago(300), isOnline: false }, { from: ago(300), until: ago(100), isOnline: true }, { from: ago(100), until: NOW, isOnline: false }]);
  });
  it("say nothing of the time before the first that was read, where older ones exist", () => {
    expect(spans(log(note(300, "connected")), false, ago(500), NOW)).toEqual([{ from: ago(300), until: NOW, isOnline: true }]);
  });
  it("do not count a session that took the place of another as a gap, nor a refused try", () => {
    expect(spans(log(note(200, "connected"), note(250, "refused"), note(300, "connected")), false, ago(500), NOW)).toHaveLength(1);
  });
  it("give the share of the time that is known", () => {
    expect(onlineShare(spans(log(note(100, "disconnected"), note(200, "connected")), false, ago(500), NOW))).toBeCloseTo(0.5);
    expect(onlineShare([])).toBeNull();
  });
});
