// Cars that nobody drives: their states as the gateway would tell them, for a page under load.

export const CARS = 10_000;
const BATCH = 500;
const EVERY_MS = 100;
const REPORT_MS = 10_000;

const signal = (value, at) => ({ value, at });

/** A car somewhere in northern Italy; its place follows from its number and the time. */
export function twin(number) {
  const at = new Date().toISOString();
  const turn = number * 2.399963 + Date.now() / 400_000;
  const away = 1.6 * Math.sqrt(number / CARS);
  const isMoving = number % 3 === 0;
  return {
    vehicle_id: `CAR-${number}`, name: `Van ${number}`, capabilities: [], firmware: "1.0", drive_enabled: number % 97 !== 0, keys: [], pending_commands: 0,
    link: { state: number % 20 === 0 ? "offline" : "online", since: at, epoch: 1 }, usage: number % 4 === 0 ? { state: "rented", renter: `r${number}` } : { state: "free" },
    signals: {
      "Vehicle.CurrentLocation.Latitude": signal(45 + away * Math.sin(turn), at), "Vehicle.CurrentLocation.Longitude": signal(9 + 1.4 * away * Math.cos(turn), at),
      "Vehicle.CurrentLocation.HorizontalAccuracy": signal(4, at), "Vehicle.Speed": signal(isMoving ? 30 + (number % 60) : 0, at),
      "Vehicle.LowVoltageSystemState": signal("ON", at), "Vehicle.Powertrain.FuelSystem.RelativeLevel": signal(number % 100, at),
      "Vehicle.TraveledDistance": signal(48_000 + number / 10, at), "Vehicle.Cabin.Door.Row1.DriverSide.IsLocked": signal(!isMoving, at),
    },
  };
}

const SPEED = "Vehicle.Speed";
const FUEL = "Vehicle.Powertrain.FuelSystem.RelativeLevel";
const LOCKED = "Vehicle.Cabin.Door.Row1.DriverSide.IsLocked";

/** The same car in short. */
function summary(number) {
  const { vehicle_id, name, drive_enabled, pending_commands, link, usage, signals } = twin(number);
  const degrees = (path) => Math.round(signals[path].value * 1e6) / 1e6;
  return {
    vehicle_id, summary: true, name, online: link.state === "online", usage: usage.state, renter: usage.renter, drive_enabled, pending_commands,
    at: signals[SPEED].at, place: { latitude: degrees("Vehicle.CurrentLocation.Latitude"), longitude: degrees("Vehicle.CurrentLocation.Longitude") },
    speed: { kmh: signals[SPEED].value }, fuel: { percent: signals[FUEL].value }, doors: { locked: signals[LOCKED].value },
  };
}

let seq = 1_000_000;

/** As the gateway does: in the form that the console asks for first, the snapshot in parts, each after the one before was acknowledged, then the newest states, at most
 * one batch outstanding. */
export function feed(socket) {
  const acknowledged = new Set();
  let [next, car, timer, told] = [0, 0, null, twin];
  const say = (frame) => socket.send(JSON.stringify(frame));
  const part = (type) => {
    seq += 1;
    const vehicles = Array.from({ length: Math.min(BATCH, CARS - next) }, (_, index) => told(next + index));
    next += vehicles.length;
    say({ type, seq, ...(type === "snapshot" && { stream: "load" }), ...(next < CARS && { more: true }), vehicles, alerts: [], commands: [] });
  };
  socket.onMessage = (text) => {
    const frame = JSON.parse(text);
    if (frame.type === "ping") say({ type: "reply", id: frame.id, ok: true, at: new Date().toISOString() });
    if (frame.type === "subscribe") {
      if (frame.form === "summary") told = summary;
      return part("snapshot");
    }
    if (frame.type !== "ack") return;
    acknowledged.add(frame.seq);
    if (next < CARS) return part("changes");
    timer ??= setInterval(() => {
      if (!acknowledged.delete(seq)) return;
      seq += 1;
      const count = (CARS * EVERY_MS) / REPORT_MS;
      say({ type: "changes", seq, vehicles: Array.from({ length: count }, () => told(car++ % CARS)) });
    }, EVERY_MS);
  };
  socket.onClose = () => clearInterval(timer);
}
