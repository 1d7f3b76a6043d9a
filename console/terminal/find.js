// Finding a car: what for, from when and for how long, nearest first; then its sheet, from which the key is requested.

import { make, put, say } from "/console/dom.js";
import { ask, now } from "./api.js";
import { icon } from "./icons.js";
import { distance, named, percent, span, t } from "./language.js";
import { problemText, tag } from "./parts.js";
import { RequestSheet } from "./request.js";

const MINUTES = [15, 30, 60, 120, 240, 480, 1_440, 2_880];
const USUAL_MINUTES = 60;
const MINUTE_MS = 60_000;
const PERIOD_MS = 20_000;
const LOCATE = { enableHighAccuracy: true, timeout: 10_000, maximumAge: 60_000 };

export class Find {
  constructor({ holdings, go }) {
    Object.assign(this, { holdings, go, period_ms: PERIOD_MS });
    this.title = t("find.title");
    this.wanted = { profile: null, start: null, minutes: USUAL_MINUTES, near: null };
    this.cars = null;
    /** Learnt from the lists: the gateway does not say elsewhere which profiles a fleet has. */
    this.profiles = new Set();
  }

  draw(page) {
    this.startAt = make("input", { id: "start-at", type: "datetime-local", onchange: () => this.changed({ start: this.chosenStart() }) });
    this.startBox = make("div", { class: "field", hidden: true }, make("label", { for: "start-at" }, t("find.start_at")), this.startAt);
    this.near = make("button", { type: "button", id: "near", class: "quiet", "aria-pressed": "false", onclick: () => this.locate() }, icon("locate"), t("find.near"));
    this.note = make("p", { class: "hint note", role: "status" });
    this.count = make("p", { id: "count", role: "status" });
    this.list = make("ul", { id: "cars", class: "stack" });
    const form = make("form", { class: "card stack", autocomplete: "off" },
      this.useField(),
      make("div", { class: "pair" }, this.startField(), this.durationField()), this.startBox);
    form.addEventListener("submit", (event) => event.preventDefault());
    put(page, form, make("div", { class: "top" }, this.count, this.near), this.note, this.list);
    this.showUses();
  }

  startField() {
    const choice = make("select", { id: "start" }, make("option", { value: "now" }, t("find.now")), make("option", { value: "later" }, t("find.later")));
    choice.addEventListener("change", () => {
      const isLater = choice.value === "later";
      this.startBox.hidden = !isLater;
      if (isLater && !this.startAt.value) this.startAt.value = localInput(now() + 60 * MINUTE_MS);
      this.changed({ start: isLater ? this.chosenStart() : null });
    });
    return make("div", { class: "field" }, make("label", { for: "start" }, t("find.start")), choice);
  }

  durationField() {
    const options = MINUTES.map((minutes) => make("option", { value: minutes, selected: minutes === USUAL_MINUTES }, span(minutes * MINUTE_MS, "long")));
    const choice = make("select", { id: "duration" }, ...options);
    choice.addEventListener("change", () => this.changed({ minutes: Number(choice.value) }));
    return make("div", { class: "field" }, make("label", { for: "duration" }, t("find.duration")), choice);
  }

  useField() {
    this.use = make("select", { id: "use" });
    this.use.addEventListener("change", () => this.changed({ profile: this.use.value || null }));
    return make("div", { class: "field" }, make("label", { for: "use" }, t("find.use")), this.use);
  }

  showUses() {
    const option = (value, text) => make("option", { value, selected: value === (this.wanted.profile ?? "") }, text);
    put(this.use, option("", t("find.any")), ...[...this.profiles].sort().map((name) => option(name, named("profile", name))));
  }

  chosenStart() {
    const at = new Date(this.startAt.value).getTime();
    return Number.isFinite(at) ? at : null;
  }

  changed(wish) {
    Object.assign(this.wanted, wish);
    this.cars = null;
    this.refresh().catch((problem) => put(this.note, ...problemText(problem)));
  }

  /** The phone is asked for its position here only, and only because the renter tapped. */
  locate() {
    const refused = () => say(this.note, t("find.near_refused"));
    if (!navigator.geolocation) return refused();
    navigator.geolocation.getCurrentPosition(({ coords }) => {
      this.near.setAttribute("aria-pressed", "true");
      say(this.note, "");
      this.changed({ near: { latitude: coords.latitude, longitude: coords.longitude } });
    }, refused, LOCATE);
  }

  window() {
    const from = this.wanted.start ?? now();
    return { from: new Date(from).toISOString(), until: new Date(from + this.wanted.minutes * MINUTE_MS).toISOString() };
  }

  async refresh() {
    const { profile, near, start } = this.wanted;
    if (start !== null && start < now() - 5 * MINUTE_MS) {
      put(this.list);
      say(this.count, t("find.past"));
      return;
    }
    const query = new URLSearchParams({ ...this.window(), ...(profile && { profile }) });
    if (near) query.set("near", `${near.latitude.toFixed(5)},${near.longitude.toFixed(5)}`);
    // An answer to a question that was changed meanwhile is dropped.
    const asked = query.toString();
    this.asked = asked;
    const { items } = await ask("GET", `/v1/vehicles/available?${query}`);
    if (this.asked !== asked) return;
    this.cars = items;
    const before = this.profiles.size;
    for (const name of items.flatMap((car) => car.profiles)) this.profiles.add(name);
    if (this.profiles.size !== before) this.showUses();
    this.show();
  }

  tick() {
    if (this.cars) this.show();
  }

  show() {
    const { length } = this.cars;
    say(this.count, length === 0 ? t("find.none") : length === 1 ? t("find.count_one") : t("find.count", { count: length }));
    const rows = this.cars.map((car) => this.row(car));
    const text = rows.map((row) => row.textContent).join("\n");
    if (text === this.drawn) return;
    this.drawn = text;
    const focused = document.activeElement?.dataset?.vehicle;
    put(this.list, ...rows);
    if (focused) this.list.querySelector(`[data-vehicle="${CSS.escape(focused)}"]`)?.focus();
  }

  row(car) {
    const far = car.distance_m !== undefined && make("span", { class: "far" }, distance(car.distance_m));
    const tags = [...car.profiles.map((name) => tag("", named("profile", name))), car.approval === "owner" && tag("warn", t("find.owner"))];
    const button = make("button", { type: "button", class: "card row", "data-vehicle": car.vehicle_id, onclick: () => this.pick(car) },
      make("span", { class: "grow" },
        make("span", { class: "top" }, make("b", { class: "name" }, car.name ?? car.vehicle_id), far),
        make("span", { class: "hint block" }, `${fuelText(car)} · ${positionText(car)}`),
        make("span", { class: "tags" }, ...tags)),
      icon("go"));
    return make("li", {}, button);
  }

  pick(car) {
    const details = [fuelText(car), positionText(car), car.distance_m !== undefined && distance(car.distance_m)];
    const { profile } = this.wanted;
    new RequestSheet({ car, profile, details: details.filter(Boolean), window: () => this.window(), holdings: this.holdings, go: this.go }).open();
  }
}

function fuelText(car) {
  return car.fuel_percent === undefined ? t("find.fuel_unknown") : t("find.fuel", { percent: percent(car.fuel_percent) });
}

function positionText(car) {
  if (!car.position_at) return t("find.position_unknown");
  const age = now() - Date.parse(car.position_at);
  return age < MINUTE_MS ? t("find.position_new") : t("find.position_age", { age: span(age) });
}

/** As `datetime-local` wants it: this phone's own time of day. */
function localInput(at) {
  const local = new Date(at - new Date(at).getTimezoneOffset() * MINUTE_MS);
  return local.toISOString().slice(0, 16);
}
