import type { Alert, Command, Summary, Twin } from "../src/lib/frames";

export const NOW = Date.parse("2026-11-21T22:00:00.000Z");
export const at = (ageS: number) => new Date(NOW - ageS * 1000).toISOString();

export function twin(id: string, over: Partial<Twin> = {}): Twin {
  return {
    vehicle_id: id, capabilities: [], link: { state: "online", since: at(60), epoch: 1 }, usage: { state: "free" }, drive_enabled: true, keys: [],
    pending_commands: 0,
    signals: {
      "Vehicle.CurrentLocation.Latitude": { value: 45, at: at(4) }, "Vehicle.CurrentLocation.Longitude": { value: 7, at: at(4) },
      "Vehicle.Speed": { value: 0, at: at(2) }, "Vehicle.Powertrain.FuelSystem.RelativeLevel": { value: 60, at: at(400) },
    },
    ...over,
  };
}

export function summary(id: string, over: Partial<Summary> = {}): Summary {
  return {
    vehicle_id: id, summary: true, online: true, usage: "free", drive_enabled: true, pending_commands: 0, at: at(2),
    place: { latitude: 45, longitude: 7, at: at(4) }, speed: { kmh: 0 }, fuel: { percent: 60, at: at(400) }, ...over,
  };
}

export function command(id: string, states: string[], over: Partial<Command> = {}): Command {
  return {
    command_id: id, vehicle_id: "CAR", type: "lock", state: states.at(-1) ?? "accepted", created_at: at(10), expires_at: at(-300),
    history: states.map((state) => ({ state, at: at(1) })), ...over,
  };
}

export function alert(id: string, state: Alert["state"] = "open", steps = 1, vehicle_id = "CAR"): Alert {
  return {
    alert_id: id, kind: "card_declined", severity: "critical", vehicle_id, state, text: "declined", opened_at: at(10),
    history: Array.from({ length: steps }, () => ({ state, at: at(1) })),
  };
}
