// What is asked of the car with a key, and the true state of each order until its end. Nothing is called done before
// the car has said so, and not knowing is said as such.

import { make, put } from "/console/dom.js";
import { Problem, ask, freshKey, link, newest, now } from "./api.js";
import { icon } from "./icons.js";
import { clockTime, moment, named, t } from "./language.js";
import { problemText } from "./parts.js";

const FINAL = ["succeeded", "failed", "rejected", "expired", "cancelled", "superseded"];
const TONES = {
  accepted: "info", queued: "warn", sent: "info", delivered: "info", executing: "info", pending_safe: "warn",
  succeeded: "good", failed: "bad", rejected: "bad", expired: "bad", cancelled: "off", superseded: "off", unknown: "warn",
};
const ICONS = { good: "yes", bad: "no", off: "no", info: "clock", warn: "wait" };
const ACTIONS = { lock: "lock_doors", unlock: "unlock_doors", locate: "locate" };
/** The gateway answers at once when the order ends within this time. */
const LISTEN_MS = 800;
/** Between questions about what lasts: a car without reception, an order nobody answered, a lost connection. */
const PAUSE_MS = 2_500;
const SHOWN = 5;

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

export class Orders {
  constructor({ keyId, onChange }) {
    Object.assign(this, { keyId, onChange });
    /** Newest first. Each: what was asked, its command when there is one, else its problem. */
    this.all = [];
    this.isOpen = true;
    this.mark = make("div", { class: "mark" });
    this.words = make("div", { role: "status" });
    this.steps = make("ol", { class: "steps" });
    this.ways = make("div", {});
    this.panel = make("div", { id: "order", class: "order", hidden: true },
      this.mark, make("div", { class: "grow" }, this.words, this.steps, this.ways));
    this.list = make("ol", { class: "activity" });
  }

  close() {
    this.isOpen = false;
  }

  /** What was asked before this page was opened, as far as the gateway shows it, goes on being followed. */
  async resume(key) {
    const commands = await newest("/v1/commands");
    const ours = commands.filter((one) =>
      one.vehicle_id === key.vehicle_id && functionOf(one) && one.created_at >= key.not_before);
    const known = new Set(this.all.map((order) => order.command?.command_id));
    for (const command of ours.slice(0, SHOWN).filter((one) => !known.has(one.command_id))) {
      const order = { action: functionOf(command), command };
      this.all.push(order);
      if (!FINAL.includes(command.state)) this.follow(order);
    }
    this.show();
  }

  /** Asks the gateway for one function, under one Idempotency-Key for good. */
  async ask(action) {
    const order = { action, key: freshKey() };
    this.all.unshift(order);
    await this.send(order);
  }

  async send(order) {
    order.problem = null;
    order.isAsking = true;
    this.show();
    try {
      const path = `/v1/keys/${encodeURIComponent(this.keyId)}/actions`;
      order.command = await ask("POST", path, { body: { function: order.action }, key: order.key });
    } catch (problem) {
      order.problem = problem;
    }
    order.isAsking = false;
    this.show();
    if (order.command) await this.follow(order);
  }

  async follow(order) {
    const path = `/v1/commands/${encodeURIComponent(order.command.command_id)}`;
    while (this.isOpen && !FINAL.includes(order.command.state)) {
      const lasts = link.isLost || ["queued", "pending_safe", "unknown"].includes(order.command.state);
      if (lasts) await pause(PAUSE_MS);
      if (!this.isOpen) return;
      const newer = await ask("GET", `${path}?wait_ms=${lasts ? 0 : LISTEN_MS}`).catch((problem) => problem);
      if (!(newer instanceof Problem)) order.command = newer;
      else if (!newer.isUnsure) await pause(PAUSE_MS);
      this.show();
    }
  }

  async takeBack(order) {
    try {
      order.command = await ask("DELETE", `/v1/commands/${encodeURIComponent(order.command.command_id)}`);
    } catch (problem) {
      order.note = problem;
    }
    this.show();
  }

  show() {
    if (!this.isOpen) return;
    const [first] = this.all;
    this.panel.hidden = !first;
    if (first) this.showFirst(first);
    put(this.list, ...this.all.filter((order) => order.command).slice(0, SHOWN).map((order) => this.entry(order)));
    this.onChange();
  }

  /** Its words are a live region: they change only when they read differently. */
  showFirst(order) {
    const tone = toneOf(order);
    const state = order.command?.state ?? (order.isAsking ? "asking" : "refused");
    const words = [make("b", {}, nameOf(order)), make("p", {}, ...sentence(order))];
    const signature = [state, ...words.map((word) => word.textContent)].join("|");
    if (this.signature === signature) return;
    this.signature = signature;
    this.panel.className = `order ${tone}`;
    this.panel.dataset.state = state;
    const isUnderWay = order.isAsking || tone === "info";
    put(this.mark, isUnderWay ? make("span", { class: "spinner" }) : icon(ICONS[tone]));
    put(this.words, ...words);
    put(this.steps, ...(order.command?.history ?? []).map(step));
    put(this.ways, this.way(order));
  }

  /** What can be done about it. */
  way(order) {
    if (order.problem?.isUnsure) return make("button", { type: "button", onclick: () => this.send(order) }, t("order.again"));
    const waits = order.command?.state === "queued" && !order.command.history.some((step) => step.state === "sent");
    return waits && make("button", { type: "button", class: "quiet", onclick: () => this.takeBack(order) }, t("order.take_back"));
  }

  entry({ action, command }) {
    return make("li", {},
      make("span", {}, nameOf({ action })),
      make("span", { class: TONES[command.state] ?? "" }, named("step", command.state)),
      make("span", { class: "when" }, moment(Date.parse(command.created_at), now())));
  }

  /** When the car itself last said something about an order, or that it has no reception: `[isReached, at]`. */
  reception() {
    const fromCar = ["delivered", "executing", "succeeded", "failed", "rejected"];
    const heard = this.all.flatMap(({ command }) => command?.history ?? [])
      .filter((step) => fromCar.includes(step.state) || step.state === "queued")
      .sort((one, other) => (one.at < other.at ? 1 : -1))[0];
    return heard ? { isReached: heard.state !== "queued", at: Date.parse(heard.at) } : null;
  }
}

function functionOf(command) {
  return ACTIONS[command.type] ?? (command.type === "enable_function" ? command.function : null);
}

function nameOf({ action }) {
  return ["unlock_doors", "lock_doors", "locate"].includes(action) ? t(`do.${action}`) : named("function", action);
}

function toneOf({ command, problem }) {
  if (problem) return problem.isUnsure ? "warn" : "bad";
  return command ? TONES[command.state] ?? "info" : "info";
}

function sentence({ command, problem, note }) {
  if (problem?.isUnsure) return [t("order.unheard")];
  if (problem) return [t("order.refused"), " ", ...problemText(problem)];
  if (!command) return [t("order.asking")];
  const said = [named("order", command.state, { time: moment(Date.parse(command.expires_at), now()) })];
  if (["failed", "rejected"].includes(command.state) && command.reason) said.push(" ", named("reason", command.reason));
  if (note) said.push(" ", ...problemText(note));
  return said;
}

/** One passage on its way, with its time. */
function step({ state, at }) {
  return make("li", {}, `${named("step", state)} ${clockTime(Date.parse(at))}`);
}
