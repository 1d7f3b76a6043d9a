import { describe, expect, it } from "vitest";
import { Fleet } from "../src/lib/state/fleet";
import { Selector, summarise, type Filter, type Wish } from "../src/lib/state/select";
import { isMoving, isOld, look, readSummary, readVehicle } from "../src/lib/state/vehicle";
import { NOW, alert, at, command, summary, twin } from "./fixtures";

const snapshot = (ids: string[], over = {}) => ({ type: "snapshot" as const, seq: 1, vehicles: ids.map((id) => twin(id)), alerts: [], ...over });
const wish = (over: Partial<Wish> = {}): Wish => ({ search: "", filters: new Set<Filter>(), column: "id", isUp: true, ...over });

describe("the fleet", () => {
  it("forgets a car that a whole snapshot does not name, but not in the middle of one", () => {
    const fleet = new Fleet();
    fleet.apply(snapshot(["A", "B"]));
    fleet.apply(snapshot(["A"], { seq: 2, more: true }));
    expect([...fleet.vehicles.keys()].sort()).toEqual(["A", "B"]);
    const touched = fleet.apply({ type: "changes", seq: 3, vehicles: [twin("C")] });
    expect([...fleet.vehicles.keys()].sort()).toEqual(["A", "C"]);
    expect(touched.isMembershipNew).toBe(true);
  });

  it("does not go back to an older state of a command told again", () => {
    const fleet = new Fleet();
    fleet.apply({ type: "changes", seq: 1, commands: [command("1", ["accepted", "sent", "succeeded"])] });
    fleet.apply({ type: "changes", seq: 2, commands: [command("1", ["accepted"])] });
    expect(fleet.commands.get("1")?.state).toBe("succeeded");
  });

  it("drops an open alert that a snapshot no longer names, and keeps the closed", () => {
    const fleet = new Fleet();
    fleet.apply({ type: "changes", seq: 1, alerts: [alert("gone"), alert("stays"), alert("closed", "resolved", 2)] });
    fleet.apply({ type: "snapshot", seq: 2, vehicles: [], alerts: [alert("stays")] });
    expect([...fleet.alerts.keys()].sort()).toEqual(["closed", "stays"]);
    expect(fleet.alertCount.get("CAR")).toBe(1);
  });

  it("never drops an open alert or a pending command while a closed one can go", () => {
    const fleet = new Fleet();
    fleet.apply({ type: "changes", seq: 1, alerts: [alert("open")], commands: [command("open", ["accepted"])] });
    for (let n = 0; n < 5_000; n++) {
      fleet.keepAlert(alert(`a${n}`, "resolved", 2));
      fleet.keepCommand(command(`c${n}`, ["accepted", "succeeded"]));
    }
    expect(fleet.alerts.has("open")).toBe(true);
    expect(fleet.commands.has("open")).toBe(true);
    expect(fleet.alerts.size).toBe(2_000);
    expect(fleet.commands.size).toBe(4_000);
  });

  it("tells of an alert once, and again when it comes into a new state", () => {
    const fleet = new Fleet();
    expect(fleet.apply({ type: "changes", seq: 1, alerts: [alert("1")] }).alerts).toHaveLength(1);
    expect(fleet.apply({ type: "changes", seq: 1, alerts: [alert("1")] }).alerts).toHaveLength(0);
    expect(fleet.apply({ type: "changes", seq: 2, alerts: [alert("1", "acknowledged", 2)] }).alerts).toHaveLength(1);
  });
});

describe("a vehicle told in short", () => {
  it("is read as it is when it is told whole", () => {
    expect(readSummary(summary("A"), null)).toEqual({ ...readVehicle(twin("A")), twin: null });
    const over = { name: "Blue van", class: "van", usage: "rented", renter: "anna", online: false, drive_enabled: false, pending_commands: 2, doors: { locked: true, at: at(9) } } as const;
    const { signals } = twin("A");
    const whole = twin("A", {
      name: "Blue van", class: "van", usage: { state: "rented", renter: "anna" }, link: { state: "offline", since: at(5), epoch: 1 }, drive_enabled: false,
      pending_commands: 2, signals: { ...signals, "Vehicle.Cabin.Door.Row1.DriverSide.IsLocked": { value: true, at: at(9) } },
    });
    expect(readSummary(summary("A", over), null)).toEqual({ ...readVehicle(whole), twin: null });
  });

  it("has parts as new as itself unless they say otherwise, and knows nothing of those that are absent", () => {
    const { at: times, newest, locked } = readSummary(summary("A"), null);
    expect([times.speed, times.place, times.locked]).toEqual([newest, NOW - 4_000, null]);
    expect([newest, locked]).toEqual([NOW - 2_000, null]);
    const silent = readSummary({ vehicle_id: "A", summary: true, online: false, usage: "free", drive_enabled: true, pending_commands: 0 }, null);
    expect([silent.newest, silent.latitude, silent.speed, silent.fuel, silent.at.place]).toEqual([null, null, null, null, null]);
  });

  it("keeps its twin while somebody looks at it, and loses it after", () => {
    const fleet = new Fleet();
    const tell = (vehicles: (ReturnType<typeof twin> | ReturnType<typeof summary>)[]) => fleet.apply({ type: "changes", seq: 1, vehicles });
    tell([summary("A")]);
    expect(fleet.vehicles.get("A")?.twin).toBeNull();
    fleet.detail(["A"]);
    expect(fleet.keepTwin(twin("A", { firmware: "2" }), null)).toBe(true);
    tell([summary("A", { speed: { kmh: 50 } })]);
    expect([fleet.vehicles.get("A")?.twin?.firmware, fleet.vehicles.get("A")?.speed]).toEqual(["2", 50]);
    fleet.detail([]);
    tell([summary("A")]);
    expect(fleet.vehicles.get("A")?.twin).toBeNull();
  });

  it("is not put back by an answer older than the feed, of a car that left, or that nobody looks at any more", () => {
    const fleet = new Fleet();
    fleet.apply({ type: "changes", seq: 1, vehicles: [summary("A")] });
    fleet.detail(["A", "GONE"]);
    fleet.apply({ type: "changes", seq: 2, vehicles: [twin("A", { firmware: "new" })] });
    expect(fleet.keepTwin(twin("A", { firmware: "old" }), null)).toBe(false);
    expect(fleet.vehicles.get("A")?.twin?.firmware).toBe("new");
    expect(fleet.keepTwin(twin("GONE"), null)).toBe(false);
    fleet.detail([]);
    expect(fleet.keepTwin(twin("A"), fleet.vehicles.get("A")?.twin ?? null)).toBe(false);
  });
});

describe("a vehicle", () => {
  it("is stale signal by signal", () => {
    const car = readVehicle(twin("A"));
    expect([isOld(car.at.speed, NOW), isOld(car.at.fuel, NOW), isOld(null, NOW)]).toEqual([false, true, true]);
  });

  it("does not move by a speed that is old", () => {
    const signals = { "Vehicle.Speed": { value: 80, at: at(600) } };
    expect(isMoving(readVehicle(twin("A", { signals })), NOW)).toBe(false);
  });

  it("looks offline whatever it told last, and alerted before all else", () => {
    const away = readVehicle(twin("A", { link: { state: "offline", since: at(5), epoch: 1 } }));
    expect([look(away, false, NOW), look(away, true, NOW)]).toEqual(["offline", "alert"]);
    expect(look(readVehicle(twin("A", { drive_enabled: false })), false, NOW)).toBe("disabled");
  });

  it("has no place when its position is not on the globe", () => {
    const signals = { "Vehicle.CurrentLocation.Latitude": { value: 450, at: at(1) }, "Vehicle.CurrentLocation.Longitude": { value: 7, at: at(1) } };
    expect(readVehicle(twin("A", { signals })).latitude).toBeNull();
  });
});

describe("the list", () => {
  const fleet = new Fleet();
  fleet.apply(snapshot([]));
  fleet.apply({ type: "changes", seq: 2, alerts: [alert("1", "open", 1, "CAR-2")], vehicles: [
    twin("CAR-10", { usage: { state: "rented", renter: "anna" } }), twin("CAR-2"), twin("CAR-1", { link: { state: "offline", since: at(9), epoch: 1 }, signals: {} })] });
  const ids = (over: Partial<Wish>) => new Selector().select(fleet, wish(over), NOW).map((vehicle) => vehicle.id);

  it("sorts numbers in ids as numbers", () => expect(ids({})).toEqual(["CAR-1", "CAR-2", "CAR-10"]));
  it("finds every word, whatever its case", () => expect(ids({ search: "ANNA rented" })).toEqual(["CAR-10"]));
  it("takes all filters together", () => expect(ids({ filters: new Set<Filter>(["online", "alert"]) })).toEqual(["CAR-2"]));
  it("puts what is not known last in both directions", () => {
    expect(ids({ column: "speed" }).at(-1)).toBe("CAR-1");
    expect(ids({ column: "speed", isUp: false }).at(-1)).toBe("CAR-1");
  });
  it("counts", () => expect(summarise(fleet, NOW)).toMatchObject({ vehicles: 3, online: 2, rented: 1, stale: 1 }));
  it("is quick enough for 10 000 cars", () => {
    const many = new Fleet();
    many.apply(snapshot(Array.from({ length: 10_000 }, (_, n) => `CAR-${n}`)));
    const selector = new Selector();
    selector.select(many, wish({ column: "fuel" }), NOW);
    const began = performance.now();
    for (let n = 0; n < 5; n++) selector.select(many, wish({ column: "fuel", search: "car" }), NOW);
    expect((performance.now() - began) / 5).toBeLessThan(100);
  });
});
