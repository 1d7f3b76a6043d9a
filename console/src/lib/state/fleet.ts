// What the console knows, and how a frame changes it. No element, socket, clock or rune in here: the same frames give the
// same fleet. Every list has a limit; alerts that are open are never among what is dropped.

import { type Alert, type Changes, type Command, type Decision, type Snapshot, type Twin, isSummary } from "../frames";
import { type Vehicle, readSummary, readVehicle } from "./vehicle";

const MOST_COMMANDS = 4_000;
const MOST_ALERTS = 2_000;
const MOST_DECISIONS = 500;

const FINAL = new Set(["succeeded", "failed", "rejected", "expired", "cancelled", "superseded", "unknown"]);
const CLOSED = new Set(["resolved", "withdrawn"]);
export const isFinal = (command: Command) => FINAL.has(command.state);
export const isOpen = (alert: Alert) => !CLOSED.has(alert.state);

/** What a frame touched, so that only that is drawn anew. */
export interface Touched { vehicles: string[]; isMembershipNew: boolean; alerts: Alert[]; commands: number; decisions: number }

export class Fleet {
  readonly vehicles = new Map<string, Vehicle>();
  readonly commands = new Map<string, Command>();
  readonly alerts = new Map<string, Alert>();
  readonly decisions = new Map<string, Decision>();
  /** Open alerts of each vehicle. */
  readonly alertCount = new Map<string, number>();
  /** Those that somebody looks at: their twin is kept until a newer one comes. */
  private detailed: ReadonlySet<string> = new Set();
  /** While a snapshot comes in several frames: the vehicles that it has not named (yet). */
  private unnamed: Set<string> | null = null;

  apply(frame: Snapshot | Changes): Touched {
    const touched: Touched = { vehicles: [], isMembershipNew: false, alerts: [], commands: 0, decisions: 0 };
    if (frame.type === "snapshot") {
      this.unnamed = new Set(this.vehicles.keys());
      this.replaceOpenAlerts(frame.alerts);
    }
    for (const told of frame.vehicles ?? []) {
      const id = told.vehicle_id;
      const known = this.vehicles.get(id);
      touched.isMembershipNew ||= known === undefined;
      this.unnamed?.delete(id);
      this.vehicles.set(id, isSummary(told) ? readSummary(told, this.detailed.has(id) ? known?.twin ?? null : null) : readVehicle(told));
      touched.vehicles.push(id);
    }
    for (const command of frame.commands ?? []) touched.commands += this.keepCommand(command) ? 1 : 0;
    for (const alert of frame.alerts ?? []) if (this.keepAlert(alert)) touched.alerts.push(alert);
    if (frame.type === "changes") {
      for (const decision of frame.decisions ?? []) touched.decisions += this.keepDecision(decision) ? 1 : 0;
    }
    if (this.unnamed && !frame.more) {
      // A car that a whole snapshot does not name has left the fleet.
      for (const id of this.unnamed) touched.isMembershipNew = this.vehicles.delete(id) || touched.isMembershipNew;
      this.unnamed = null;
    }
    return touched;
  }

  /** From here on these are kept whole; the others lose their twin with the next that is told of them. */
  detail(ids: readonly string[]) {
    this.detailed = new Set(ids);
  }

  /** A twin that was asked for while the feed went on; false = the feed told a newer one since (`before` = what was known
   * when it was asked for), or nobody looks any more, or the car has left. */
  keepTwin(twin: Twin, before: Twin | null): boolean {
    const known = this.vehicles.get(twin.vehicle_id);
    if (!known || known.twin !== before || !this.detailed.has(twin.vehicle_id)) return false;
    this.vehicles.set(twin.vehicle_id, readVehicle(twin));
    return true;
  }

  /** A snapshot tells of every open alert: one of ours that it does not name was closed while we were away. */
  private replaceOpenAlerts(open: Alert[]) {
    const named = new Set(open.map((alert) => alert.alert_id));
    for (const alert of this.alerts.values()) {
      if (isOpen(alert) && !named.has(alert.alert_id)) this.alerts.delete(alert.alert_id);
    }
    this.countAlerts();
  }

  /** After a resumed connection an older state may be told again: the longer history is the newer one. */
  keepCommand(command: Command): boolean {
    const known = this.commands.get(command.command_id);
    if (known && known.history.length > command.history.length) return false;
    keep(this.commands, command.command_id, command, MOST_COMMANDS, isFinal);
    return true;
  }

  keepAlert(alert: Alert): boolean {
    const known = this.alerts.get(alert.alert_id);
    if (known && known.history.length > alert.history.length) return false;
    keep(this.alerts, alert.alert_id, alert, MOST_ALERTS, (one) => !isOpen(one));
    this.countAlerts();
    return known?.history.length !== alert.history.length;
  }

  keepDecision(decision: Decision): boolean {
    keep(this.decisions, decision.decision_id, decision, MOST_DECISIONS, () => true);
    return true;
  }

  private countAlerts() {
    this.alertCount.clear();
    for (const alert of this.alerts.values()) {
      if (alert.vehicle_id && isOpen(alert)) this.alertCount.set(alert.vehicle_id, (this.alertCount.get(alert.vehicle_id) ?? 0) + 1);
    }
  }

  openAlerts(): Alert[] {
    return [...this.alerts.values()].filter(isOpen);
  }

  /** Newest first: those open when the page came, and every one since. */
  commandsOf(id: string): Command[] {
    return newestFirst([...this.commands.values()].filter((command) => command.vehicle_id === id), (command) => command.created_at);
  }
}

export function newestFirst<T>(items: T[], at: (item: T) => string): T[] {
  return items.sort((a, b) => (at(a) < at(b) ? 1 : at(a) > at(b) ? -1 : 0));
}

/** Keeps the newest; over the limit the oldest goes that may go, and if none may, the oldest. */
function keep<T>(map: Map<string, T>, key: string, value: T, most: number, mayGo: (value: T) => boolean) {
  map.delete(key);
  map.set(key, value);
  if (map.size <= most) return;
  for (const [old, entry] of map) {
    if (old !== key && mayGo(entry)) return void map.delete(old);
  }
  const oldest = map.keys().next();
  if (!oldest.done) map.delete(oldest.value);
}
