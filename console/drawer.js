// One vehicle: orders with their true state, use, keys, commands, and every signal with its age.

import { find, make, put, say } from "./dom.js";
import { STALE_MS, age, isFinal, nameOf, sentence, signalText, time, tone, words } from "./fleet.js";

const ORDERS = [
  { text: "Lock", command: { type: "lock" } },
  { text: "Unlock", command: { type: "unlock" } },
  { text: "Locate", command: { type: "locate" } },
  { text: "Disable drive", command: { type: "disable_function", function: "drive" }, isGrave: true },
  { text: "Enable drive", command: { type: "enable_function", function: "drive" } },
];
const SURE_MS = 4_000;
const COMMANDS_SHOWN = 12;

export class Drawer {
  constructor({ fleet, clock, link, caller, onClose }) {
    Object.assign(this, { fleet, clock, link, caller, onClose });
    this.box = find("drawer");
    this.id = null;
    this.box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
  }

  open(id, takeFocus) {
    const isOther = this.id !== id;
    this.id = id;
    this.box.hidden = false;
    find("desk").classList.add("open");
    if (isOther || this.box.childElementCount === 0) this.build();
    this.refresh();
    if (takeFocus) this.title.focus();
  }

  close() {
    this.id = null;
    this.box.hidden = true;
    find("desk").classList.remove("open");
    this.onClose();
  }

  /** The frame that stays while the contents change, so that focus and scrolling stay too. */
  build() {
    this.title = make("h2", { id: "drawer-title", tabindex: "-1" }, this.id);
    this.subtitle = make("p", { class: "muted" });
    this.note = make("p", { role: "status" });
    this.buttons = ORDERS.map((order) => this.orderButton(order));
    this.body = make("div", { class: "body", tabindex: "0" });
    const close = make("button", { type: "button", class: "quiet", "aria-label": "Close", onclick: () => this.close() }, "✕");
    const orders = make("div", { id: "orders", role: "group", "aria-label": "Commands" }, ...this.buttons, this.note);
    put(this.box, make("div", { class: "head" }, make("div", {}, this.title, this.subtitle), close), orders, this.body);
    if (!this.caller.may_command) {
      for (const button of this.buttons) button.disabled = true;
      say(this.note, "This key may watch, not command.");
    }
    this.watched = null;
  }

  orderButton(order) {
    let sureUntil = 0;
    const button = make("button", { type: "button", class: order.isGrave && "grave" }, order.text);
    button.addEventListener("click", () => {
      if (order.isGrave && performance.now() > sureUntil) {
        // What takes a car out of use is asked twice, in place.
        sureUntil = performance.now() + SURE_MS;
        say(button, `Confirm: ${order.text.toLowerCase()}`);
        button.classList.add("sure");
        setTimeout(() => {
          say(button, order.text);
          button.classList.remove("sure");
        }, SURE_MS);
        return;
      }
      sureUntil = 0;
      say(button, order.text);
      button.classList.remove("sure");
      this.order(order);
    });
    return button;
  }

  async order(order) {
    const id = this.id;
    const tell = (text, kind) => {
      if (this.id !== id) return;
      this.note.className = kind;
      say(this.note, text);
    };
    this.watched = null;
    tell(`${order.text}: sending …`, "info");
    const reply = await this.link.command(id, order.command);
    if (reply === null) {
      tell(`${order.text}: the connection broke before the answer. It may have been taken: look at the commands below.`, "warn");
    } else if (!reply.ok) {
      tell(`${order.text}: not taken. ${reply.problem?.detail ?? reply.problem?.title ?? ""}`, "bad");
    } else if (reply.command) {
      this.fleet.keepCommand(reply.command);
      this.watched = { text: order.text, command_id: reply.command.command_id };
      this.refresh();
    }
  }

  refresh() {
    const vehicle = this.fleet.vehicles.get(this.id);
    if (this.box.hidden) return;
    if (!vehicle) {
      say(this.subtitle, "Not in the fleet as it is shown now.");
      return;
    }
    const now = this.clock();
    const since = `since ${time(vehicle.since, now)}`;
    say(this.subtitle, [vehicle.name, `${vehicle.online ? "Online" : "Offline"} ${since}`].filter(Boolean).join(" · "));
    this.tellWatched();
    const top = this.body.scrollTop;
    put(this.body,
      make("h3", {}, "Use"), this.use(vehicle, now),
      make("h3", {}, "Commands"), ...this.commands(now),
      make("h3", {}, "Keys"), ...this.keys(vehicle, now),
      make("h3", {}, "Signals"), this.signals(vehicle, now));
    this.body.scrollTop = top;
  }

  /** The order given here, in its state as it changes. */
  tellWatched() {
    const command = this.watched && this.fleet.commands.get(this.watched.command_id);
    if (!command) return;
    this.note.className = tone(command.state);
    const reason = command.reason ? ` (${words(command.reason)})` : "";
    say(this.note, `${this.watched.text}: ${words(command.state)}${reason}`);
  }

  use(vehicle, now) {
    const usage = vehicle.json.usage;
    const facts = [["State", sentence(vehicle.usage)]];
    if (vehicle.renter) facts.push(["By", vehicle.renter]);
    if (usage?.from) facts.push(["From", time(usage.from, now)]);
    if (usage?.until) facts.push(["Until", time(usage.until, now)]);
    if (usage?.since) facts.push(["Since", time(usage.since, now)]);
    const drive = vehicle.drive === false ? make("span", { class: "bad" }, "Disabled") : vehicle.drive ? "Enabled" : "Not known";
    facts.push(["Drive", drive]);
    return make("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  }

  commands(now) {
    const list = this.fleet.commandsOf(this.id);
    if (list.length === 0) return [make("p", { class: "muted" }, "None pending.")];
    return list.slice(0, COMMANDS_SHOWN).map((command) => {
      const reason = command.reason && make("span", { class: "muted" }, words(command.reason));
      const left = Date.parse(command.expires_at) - now;
      const ends = !isFinal(command) && left > 0 && ` expires in ${age(left)}`;
      const steps = (command.history ?? []).map((step) => `${words(step.state)} ${time(step.at, now)}`).join(" → ");
      return make("div", { class: "card" },
        make("div", { class: "top" },
          make("b", {}, nameOf(command)),
          make("span", { class: `tag ${tone(command.state)}` }, words(command.state)),
          reason,
          make("span", { class: "when" }, time(command.created_at, now), ends)),
        make("p", { class: "steps" }, steps));
    });
  }

  keys(vehicle, now) {
    const keys = vehicle.json.keys ?? [];
    if (keys.length === 0) return [make("p", { class: "muted" }, "No key is out.")];
    return keys.map((key) => {
      const kind = { delivered: "good", pending: "info", revoked: "bad", expired: "off" }[key.state];
      const span = `${time(key.not_before, now)} – ${time(key.not_after, now)}`;
      const permits = (key.permits ?? []).map((name) => make("span", { class: "tag good" }, words(name)));
      const prohibits = (key.prohibits ?? []).map((name) => make("span", { class: "tag no" }, words(name)));
      return make("div", { class: "card" },
        make("div", { class: "top" },
          make("b", {}, key.holder ?? key.profile ?? "Key"),
          key.holder && key.profile && make("span", { class: "muted" }, key.profile),
          make("span", { class: `tag ${kind ?? ""}` }, words(key.state ?? "")),
          make("span", { class: "when" }, span)),
        make("p", { class: "steps mono" }, key.key_id),
        make("div", { class: "functions" }, make("span", { class: "muted" }, "permits"), ...permits),
        make("div", { class: "functions" }, make("span", { class: "muted" }, "prohibits"), ...prohibits));
    });
  }

  signals(vehicle, now) {
    const rows = Object.entries(vehicle.json.signals ?? {}).map(([path, signal]) => {
      const old = now - Date.parse(signal.at);
      return make("tr", { class: old > STALE_MS && "stale" },
        make("td", { title: path }, ...breakable(path.replace(/^Vehicle\./, ""))),
        make("td", {}, signalText(path, signal.value)),
        make("td", { title: signal.at }, age(old)));
    });
    if (rows.length === 0) return make("p", { class: "muted" }, "The car has told nothing yet.");
    return make("table", { class: "signals" }, make("tbody", {}, ...rows));
  }
}

/** A path that may be broken after its dots. */
function breakable(path) {
  return path.split(".").flatMap((part, index, all) => (index < all.length - 1 ? [`${part}.`, make("wbr")] : [part]));
}
