// What the renter has: cars reserved, in use or ending, requests that wait for an owner, and the way to a new one.

import { make, put } from "/console/dom.js";
import { now } from "./api.js";
import { icon } from "./icons.js";
import { moment, named, span, t } from "./language.js";
import { tag } from "./parts.js";

const BUSY_MS = 3_000;
const CALM_MS = 15_000;
const EARLIER_MS = 24 * 3_600_000;
const MAX_EARLIER = 3;
export const RENTAL_TONES = { reserved: "info", active: "good", ending: "warn", ended: "off", cancelled: "off" };

export class Home {
  constructor({ holdings }) {
    this.holdings = holdings;
    this.title = t("home.title");
  }

  draw(page) {
    this.list = make("div", { class: "stack" });
    this.earlier = make("div", { class: "stack" });
    put(page, this.list, make("a", { class: "button main wide", href: "#find" }, t("home.find")), this.earlier);
    this.drawn = null;
    this.show();
  }

  async refresh() {
    await this.holdings.refresh();
    this.show();
  }

  /** Something is under way: an owner may answer, a car may confirm. */
  get period_ms() {
    const { requests, rentals } = this.holdings;
    const isBusy = requests.some((one) => one.state === "requested") || rentals.some((one) => one.state === "ending");
    return isBusy ? BUSY_MS : CALM_MS;
  }

  tick() {
    this.show();
  }

  /** Drawn again only when something reads differently, so that focus and screen readers stay where they are. */
  show() {
    const { rentals, requests } = this.holdings;
    const open = rentals.filter((one) => ["reserved", "active", "ending"].includes(one.state)).map((one) => this.rental(one));
    const waiting = requests.filter((one) => one.state === "requested").map((one) => this.request(one));
    const recent = (one) => now() - Date.parse(one.until) < EARLIER_MS;
    const earlier = [
      ...requests.filter((one) => ["declined", "expired"].includes(one.state) && recent(one)).map((one) => this.request(one)),
      ...rentals.filter((one) => ["ended", "cancelled"].includes(one.state) && recent(one)).map((one) => this.rental(one)),
    ].slice(0, MAX_EARLIER);
    const cards = [...waiting, ...open];
    if (cards.length === 0) cards.push(this.nothing());
    if (earlier.length) earlier.unshift(make("h2", { class: "small" }, t("home.earlier")));
    const text = [...cards, ...earlier].map((card) => card.textContent + (card.getAttribute("href") ?? "")).join("\n");
    if (text === this.drawn) return;
    this.drawn = text;
    const focused = document.activeElement?.getAttribute("href");
    put(this.list, ...cards);
    put(this.earlier, ...earlier);
    if (focused && document.activeElement === document.body) document.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus();
  }

  nothing() {
    return make("div", { class: "card empty" }, icon("car"), make("p", {}, make("b", {}, t("home.none"))), make("p", { class: "hint" }, t("home.none_hint")));
  }

  rental(rental) {
    const state = tag(RENTAL_TONES[rental.state] ?? "", named("rental", rental.state));
    const content = this.card(rental, state, named("profile", rental.profile), this.times(rental));
    return make("a", { class: "card row", href: `#key/${rental.key_id}` }, content, icon("go"));
  }

  request(request) {
    const kind = request.state === "requested" ? "warn" : "off";
    const hint = request.state === "requested" ? t("request.requested_hint") : null;
    const content = this.card(request, tag(kind, named("request", request.state)), named("profile", request.profile), this.window(request), hint);
    return make("div", { class: "card row", "data-request": request.request_id }, content);
  }

  card(item, state, ...lines) {
    return make("div", { class: "grow" },
      make("div", { class: "top" }, make("b", { class: "name" }, this.holdings.nameOf(item.vehicle_id)), state),
      ...lines.filter(Boolean).map((line) => make("p", { class: "hint" }, line)));
  }

  window(item) {
    const [from, until] = [item.from, item.until].map((at) => moment(Date.parse(at), now()));
    return t("find.window", { from, until });
  }

  times(rental) {
    const left = Date.parse(rental.until) - now();
    if (rental.state !== "active" || left <= 0) return this.window(rental);
    return `${this.window(rental)} · ${span(left)} ${t("key.left")}`;
  }
}
