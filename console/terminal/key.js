// One key: what it permits and what it prohibits, how long it is good for, the buttons for it, and giving the car back.

import { make, put, say } from "/console/dom.js";
import { ask, freshKey, link, now } from "./api.js";
import { RENTAL_TONES } from "./home.js";
import { countdown, moment, named, place, t } from "./language.js";
import { Orders } from "./orders.js";
import { confirmSheet, fact, iconText, mapLink, problemText, tag } from "./parts.js";

const BUSY_MS = 2_000;
const CALM_MS = 8_000;
const MAIN = { unlock_doors: "unlock", lock_doors: "lock", locate: "locate" };
const KEY_TONES = { pending: "warn", delivered: "good", revoked: "off", expired: "off" };

export class KeyPage {
  constructor({ holdings, keyId }) {
    Object.assign(this, { holdings, keyId });
    this.orders = new Orders({ keyId, onChange: () => this.show() });
    this.isResumed = false;
    this.endKey = freshKey();
  }

  get title() {
    const key = this.holdings.key(this.keyId);
    return key ? this.holdings.nameOf(key.vehicle_id) : t("key.of");
  }

  draw(page) {
    this.page = page;
    this.parts = null;
    this.show();
  }

  close() {
    this.orders.close();
  }

  get period_ms() {
    const key = this.holdings.key(this.keyId);
    const state = key && this.holdings.rentalOf(key)?.state;
    return key?.state === "pending" || state === "ending" ? BUSY_MS : CALM_MS;
  }

  async refresh() {
    try {
      await this.holdings.refreshKey(this.keyId);
    } catch (problem) {
      if (problem.slug !== "not-found") throw problem;
      this.isMissing = true;
    }
    this.show();
    const key = this.holdings.key(this.keyId);
    if (this.isResumed || !key) return;
    this.isResumed = true;
    await this.orders.resume(key);
  }

  tick() {
    this.show();
  }

  show() {
    const key = this.holdings.key(this.keyId);
    if (!key) return this.showNone();
    if (!this.parts) this.build(key);
    const rental = this.holdings.rentalOf(key);
    this.showState(key, rental);
    this.showTime(key, rental);
    this.showButtons(key, rental);
    this.showFacts(key, rental);
  }

  showNone() {
    const text = t(this.isMissing ? "key.missing" : "app.busy");
    if (this.page.firstChild?.textContent === text) return;
    put(this.page, make("p", { class: "card" }, text), this.isMissing && this.homeLink());
  }

  /** What does not change while the key is shown; the rest is filled in, so that focus stays where it is. */
  build(key) {
    const others = key.permits.filter((name) => !(name in MAIN));
    const button = (name) => make("button", {
      type: "button", class: name in MAIN ? `act ${name}` : "wide", "data-function": name, onclick: () => this.orders.ask(name),
    }, ...(name in MAIN ? iconText(MAIN[name], t(`do.${name}`)) : [named("function", name)]));
    const main = Object.keys(MAIN).filter((name) => key.permits.includes(name)).map(button);
    const more = others.map(button);
    this.parts = {
      state: make("div", { id: "key-state", class: "tags", role: "status" }),
      left: make("p", { class: "left", id: "left" }), unit: make("p", { class: "hint" }),
      bar: make("progress", { max: "1", "aria-hidden": "true" }),
      window: make("p", { class: "hint" }), buttons: [...main, ...more],
      note: make("p", { class: "hint note" }), over: make("p", { class: "card note", role: "status" }), home: this.homeLink(),
      facts: make("dl", { class: "facts" }), end: make("button", { type: "button", id: "end", class: "grave wide" }),
    };
    const { state, left, unit, bar, window, note, over, home, facts, end } = this.parts;
    end.addEventListener("click", () => this.askToEnd());
    this.parts.actions = make("section", { class: "card", "aria-label": t("key.actions") },
      make("div", { class: "acts" }, ...main), note, this.orders.panel,
      more.length > 0 && make("details", {}, make("summary", {}, t("key.more")), make("div", { class: "stack" }, ...more)));
    this.parts.countdown = make("div", { class: "countdown" }, left, unit);
    this.parts.lists = make("div", { class: "stack" },
      this.functions("permits", key.permits, "yes"), this.functions("prohibits", key.prohibits, "no"));
    put(this.page,
      make("section", { class: "card validity" }, state, this.parts.countdown, bar, window),
      over, home, this.parts.actions, this.parts.lists,
      make("section", { class: "card" }, make("details", {}, make("summary", {}, t("key.activity")), this.orders.list)),
      make("section", { class: "card" }, make("details", {}, make("summary", {}, t("key.details")), facts)),
      end);
  }

  homeLink() {
    return make("a", { class: "button main wide", href: "#" }, t("key.home"));
  }

  functions(kind, names, mark) {
    const items = names.map((name) => make("li", { "data-function": name }, ...iconText(mark, named("function", name))));
    return make("section", { id: kind, class: `card functions ${kind}` },
      make("h2", {}, t(`key.${kind}`)), kind === "prohibits" && make("p", { class: "hint" }, t("key.prohibits_hint")),
      make("ul", {}, ...items));
  }

  showState(key, rental) {
    const tags = [rental && tag(RENTAL_TONES[rental.state] ?? "", named("rental", rental.state)), tag(KEY_TONES[key.state] ?? "", named("key", key.state))];
    const text = tags.filter(Boolean).map((one) => one.textContent).join("|");
    if (text === this.stateText) return;
    this.stateText = text;
    put(this.parts.state, ...tags);
  }

  /** Over for the renter, whatever the car knows of it yet. */
  isOver(key, rental) {
    return ["revoked", "expired"].includes(stateNow(key)) || ["ending", "ended", "cancelled"].includes(rental?.state);
  }

  showTime(key, rental) {
    const { countdown: box, left, unit, bar, window } = this.parts;
    const [from, until] = [Date.parse(key.not_before), Date.parse(key.not_after)];
    const isBefore = now() < from;
    const isOver = this.isOver(key, rental);
    box.hidden = isOver;
    bar.hidden = isOver || isBefore;
    say(left, countdown((isBefore ? from : until) - now()));
    say(unit, t(isBefore ? "key.begins" : "key.left"));
    bar.value = Math.max(0, (until - now()) / (until - from));
    say(window, t("find.window", { from: moment(from, now()), until: moment(until, now()) }));
  }

  showButtons(key, rental) {
    const { buttons, note, over, home, actions, lists, end } = this.parts;
    const isOver = this.isOver(key, rental);
    const isBefore = now() < Date.parse(key.not_before);
    for (const button of buttons) button.disabled = isBefore || link.isLost;
    say(note, link.isLost ? t("key.needs_link") : isBefore ? t("key.not_yet") : "");
    // A key that is over permits nothing any more, and says so by showing neither list.
    for (const part of [actions, lists]) part.hidden = isOver;
    home.hidden = !isOver;
    say(over, ["ending", "ended", "cancelled"].includes(rental?.state) ? t(`end.${rental.state}`) : "");
    end.hidden = !["reserved", "active"].includes(rental?.state);
    end.disabled = link.isLost;
    say(end, t(rental?.state === "reserved" ? "end.cancel" : "end.return"));
  }

  showFacts(key, rental) {
    const seen = this.holdings.cars[key.vehicle_id];
    const heard = this.orders.reception();
    const time = heard && moment(heard.at, now());
    const reception = heard ? t(heard.isReached ? "key.link_answered" : "key.link_none", { time }) : t("key.link_unknown");
    const rows = [
      [t("key.vehicle"), key.vehicle_id], [t("key.profile"), named("profile", key.profile)], [t("key.link"), reception],
      [t("key.kept"), t(this.holdings.isMadeHere(rental) ? "key.kept_yes" : "key.kept_other")],
    ];
    if (seen?.position) rows.push([t("key.where"), `${place(seen.position)} (${moment(Date.parse(seen.position_at), now())})`]);
    const text = rows.flat().join("|");
    if (text === this.factsText) return;
    this.factsText = text;
    const map = seen?.position && make("dd", { class: "all" }, mapLink(seen.position, t("find.map")));
    put(this.parts.facts, ...rows.flatMap(([name, value]) => fact(name, value)), map);
  }

  askToEnd() {
    const key = this.holdings.key(this.keyId);
    const rental = this.holdings.rentalOf(key);
    const kind = rental.state === "reserved" ? "cancel" : "return";
    const path = `/v1/rentals/${encodeURIComponent(rental.rental_id)}/${kind === "cancel" ? "cancel" : "end"}`;
    confirmSheet({
      title: t(`end.${kind}_ask`, { car: this.title }), text: t(`end.${kind}_text`), yes: t(`end.${kind}`), no: t(`end.${kind}_keep`),
      work: async () => {
        await this.holdings.take({ rentals: await ask("POST", path, { key: `${kind}-${this.endKey}` }) });
        this.show();
        await this.refresh().catch(() => null);
      },
    });
  }
}

/** A key runs out on this phone too, whether the gateway is heard or not. */
function stateNow(key) {
  return key.state !== "revoked" && now() > Date.parse(key.not_after) ? "expired" : key.state;
}
