import { beforeEach, describe, expect, it } from "vitest";
import { Link, type LinkState, type Socket, type World } from "../src/lib/link";

class Wire implements Socket {
  readyState = 0;
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: (() => void) | null = null;
  sent: Record<string, unknown>[] = [];
  send(text: string) { this.sent.push(JSON.parse(text) as Record<string, unknown>); }
  close() { this.readyState = 3; this.onclose?.(); }
  accept() { this.readyState = 1; this.onopen?.(); }
  say(frame: object) { this.onmessage?.({ data: JSON.stringify(frame) }); }
}

/** Time that moves when the test says so. */
class Stage implements World {
  time = 0;
  wall = 1_000_000;
  admitted: boolean | null = true;
  wires: Wire[] = [];
  private timers = new Set<{ due: number; every: number | null; call: () => void }>();
  open() { const wire = new Wire(); this.wires.push(wire); return wire; }
  elapsed() { return this.time; }
  wallClock() { return this.wall + this.time; }
  after(ms: number, call: () => void) { return this.add({ due: this.time + ms, every: null, call }); }
  every(ms: number, call: () => void) { return this.add({ due: this.time + ms, every: ms, call }); }
  private add(timer: { due: number; every: number | null; call: () => void }) { this.timers.add(timer); return () => void this.timers.delete(timer); }
  isAdmitted() { return Promise.resolve(this.admitted); }
  random() { return 0.5; }
  async pass(ms: number) {
    const end = this.time + ms;
    for (;;) {
      const next = [...this.timers].sort((a, b) => a.due - b.due)[0];
      if (!next || next.due > end) break;
      this.time = next.due;
      if (next.every === null) this.timers.delete(next);
      else next.due += next.every;
      next.call();
      await Promise.resolve();
      await Promise.resolve();
    }
    this.time = end;
  }
  get wire() { const wire = this.wires.at(-1); if (!wire) throw new Error("no wire"); return wire; }
}

describe("the link", () => {
  let stage: Stage, link: Link, states: LinkState[], frames: number[], faults: string[], skew: number, ended: number, mayFail: boolean, detailed: string[];
  beforeEach(() => {
    [stage, states, frames, faults, skew, ended, mayFail, detailed] = [new Stage(), [], [], [], 0, 0, false, []];
    link = new Link(stage, {
      frame: (frame) => { if (mayFail) throw new Error("not readable"); frames.push(frame.seq); },
      state: (state) => states.push(state), clock: (ms) => { skew = ms; }, ended: () => { ended += 1; }, fault: (text) => faults.push(text),
      detailed: (vehicles) => detailed.push(...vehicles),
    });
    link.start();
    stage.wire.accept();
  });
  const live = () => stage.wire.say({ type: "snapshot", seq: 7, stream: "s", vehicles: [], alerts: [] });

  it("acknowledges a batch after it was taken", () => {
    live();
    expect(frames).toEqual([7]);
    expect(stage.wire.sent.at(-1)).toEqual({ type: "ack", seq: 7 });
  });

  it("says within 5 s that nothing comes any more, and takes it back with the next word", async () => {
    live();
    await stage.pass(4_900);
    expect(states.at(-1)).toBe("silent");
    stage.wire.say({ type: "reply", id: 0, ok: true });
    expect(states.at(-1)).toBe("live");
  });

  it("is not silent while beats are answered", async () => {
    live();
    for (let n = 0; n < 20; n++) {
      await stage.pass(1_000);
      stage.wire.say({ type: "reply", id: 0, ok: true });
    }
    expect(states).not.toContain("silent");
  });

  it("does not take a long sleep of the page's timers for a silence of the gateway", () => {
    live();
    stage.time += 60_000;
    (link as unknown as { watch(): void }).watch();
    expect(states.at(-1)).toBe("live");
  });

  it("gives a dead connection up and resumes where it stood, without asking for a snapshot", async () => {
    live();
    stage.wire.say({ type: "changes", seq: 9 });
    await stage.pass(14_000);
    expect(states).toContain("lost");
    expect(stage.wires.length).toBeGreaterThan(1);
    stage.wire.accept();
    expect(stage.wire.sent[0]).toEqual({ type: "resume", after: 9, stream: "s", form: "summary" });
  });

  it("asks for the short form before all else", () => {
    expect(stage.wire.sent[0]).toEqual({ type: "subscribe", form: "summary" });
  });

  /** What the page said of details on this connection, and the gateway's answer to the last of it. */
  const details = () => stage.wire.sent.filter(({ type }) => type === "detail");
  const answer = (ok: boolean) => stage.wire.say({ type: "reply", id: details().at(-1)?.id, ok });

  it("has a vehicle told whole from the gateway's answer on, and no longer when nobody looks", () => {
    live();
    link.detail(["CAR"]);
    expect(details().at(-1)?.vehicles).toEqual(["CAR"]);
    expect(detailed).toEqual([]);
    answer(true);
    expect(detailed).toEqual(["CAR"]);
    link.detail([]);
    answer(true);
    expect([details().at(-1)?.vehicles, detailed]).toEqual([[], ["CAR"]]);
  });

  it("does not take the answer for one vehicle as that for the next", () => {
    live();
    link.detail(["CAR"]);
    const first = details().at(-1)?.id;
    link.detail(["VAN"]);
    stage.wire.say({ type: "reply", id: first, ok: true });
    expect(detailed).toEqual([]);
    answer(true);
    expect(detailed).toEqual(["VAN"]);
  });

  it("asks for the details again on a new connection, after it has resumed", async () => {
    live();
    link.detail(["CAR"]);
    answer(true);
    stage.wire.close();
    link.detail(["VAN"]);
    await stage.pass(1_000);
    stage.wire.accept();
    expect(stage.wire.sent.slice(0, 2).map(({ type }) => type)).toEqual(["resume", "detail"]);
    answer(true);
    expect(detailed).toEqual(["CAR", "VAN"]);
  });

  it("asks a gateway that knows no details once, and reads the vehicle all the same", () => {
    live();
    link.detail(["CAR"]);
    answer(false);
    expect(detailed).toEqual(["CAR"]);
    link.detail(["VAN"]);
    expect(details()).toHaveLength(1);
    expect(faults).toEqual([]);
  });

  it("answers orders under way with 'not known' when the connection breaks", async () => {
    live();
    const answer = link.command("CAR", { type: "lock" });
    stage.wire.close();
    expect(await answer).toBeNull();
    expect(await link.command("CAR", { type: "lock" })).toBeNull();
  });

  it("gives an order's reply to whoever ordered", async () => {
    live();
    const answer = link.command("CAR", { type: "lock" });
    stage.wire.say({ type: "reply", id: stage.wire.sent.at(-1)?.id as number, ok: true });
    expect((await answer)?.ok).toBe(true);
  });

  it("begins anew with a snapshot after a batch that it cannot take, and does not acknowledge it", async () => {
    live();
    mayFail = true;
    stage.wire.say({ type: "changes", seq: 9 });
    expect(faults).toEqual(["not readable"]);
    expect(stage.wire.sent.at(-1)).not.toEqual({ type: "ack", seq: 9 });
    mayFail = false;
    await stage.pass(1_000);
    stage.wire.accept();
    expect(stage.wire.sent.map((frame) => frame.type)).not.toContain("resume");
  });

  it("ignores a kind of frame that it does not know", () => {
    stage.wire.say({ type: "weather" });
    expect(faults).toEqual([]);
  });

  it("measures the gateway's clock, and not by an answer that travelled long", async () => {
    const replied = (at: number) => stage.wire.say({ type: "reply", id: 0, ok: true, at: new Date(at).toISOString() });
    replied(stage.wallClock() + 60_000);
    expect(skew).toBe(60_000);
    expect(link.now()).toBe(stage.wallClock() + 60_000);
    stage.time += 5_000;
    replied(0);
    expect(skew).toBe(60_000);
  });

  it("asks for the log-in when the session is over, and not while the gateway is away", async () => {
    live();
    stage.admitted = null;
    stage.wire.close();
    await stage.pass(30_000);
    expect(ended).toBe(0);
    stage.admitted = false;
    await stage.pass(30_000);
    expect(ended).toBe(1);
  });

  it("is quiet after it was stopped", async () => {
    live();
    link.stop();
    await stage.pass(60_000);
    expect(stage.wires).toHaveLength(1);
  });
});
