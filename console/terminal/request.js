// The sheet of one car: choose the use, see the time, and request the key under one Idempotency-Key.

import { make, put, say } from "/console/dom.js";
import { ask, freshKey, now } from "./api.js";
import { holderKey } from "./holder.js";
import { hasWords, moment, named, t } from "./language.js";
import { closeSheet, mapLink, openSheet, problemText } from "./parts.js";

export class RequestSheet {
  constructor({ car, profile, details, window, holdings, go }) {
    Object.assign(this, { car, details, window, holdings, go });
    this.profile = car.profiles.includes(profile) ? profile : car.profiles[0];
    this.sent = null;
  }

  open() {
    const { car } = this;
    const span = this.window();
    const [from, until] = [span.from, span.until].map((at) => moment(Date.parse(at), now()));
    this.note = make("p", { class: "problem", role: "alert" });
    this.button = make("button", { type: "button", id: "request", class: "main wide", onclick: () => this.request() });
    say(this.button, this.ownText());
    openSheet(car.name ?? car.vehicle_id,
      make("p", { class: "hint" }, this.details.join(" · ")),
      car.position && make("p", {}, mapLink(car.position, t("find.map"))),
      make("fieldset", {}, make("legend", {}, t("find.use")), make("div", { class: "choice" }, ...car.profiles.map((name) => this.use(name)))),
      make("p", {}, make("b", {}, t("find.window", { from, until }))),
      car.approval === "owner" && make("p", { class: "hint" }, t("request.requested_hint")),
      this.note, this.button);
  }

  use(name) {
    // A fleet's own profiles have a name and no more.
    const hint = hasWords(`profile.${name}_hint`) && t(`profile.${name}_hint`);
    const input = make("input", { type: "radio", name: "request-use", value: name, checked: name === this.profile });
    input.addEventListener("change", () => {
      this.profile = name;
      // Another wish is another request.
      this.sent = null;
      say(this.button, this.ownText());
    });
    return make("label", {}, input, make("span", {}, named("profile", name), hint && make("small", {}, hint)));
  }

  ownText() {
    return t(this.car.approval === "owner" ? "find.ask_owner" : "find.request");
  }

  async request() {
    this.button.disabled = true;
    put(this.note);
    say(this.button, t("app.busy"));
    try {
      // Asked again, it is the same request to the letter: it counts once.
      this.sent ??= { key: freshKey(), body: await this.body() };
      const answer = await ask("POST", "/v1/usage-requests", this.sent);
      await this.holdings.takeRequest(answer, this.car);
      closeSheet();
      this.go(answer.key ? `#key/${answer.key.key_id}` : "#");
    } catch (problem) {
      put(this.note, ...problemText(problem));
      say(this.button, problem.isUnsure ? t("find.again") : this.ownText());
      if (!problem.isUnsure) this.sent = null;
    } finally {
      this.button.disabled = false;
    }
  }

  async body() {
    const holder_key = await holderKey(this.holdings.subject);
    return { vehicle_id: this.car.vehicle_id, profile: this.profile, ...this.window(), holder_key };
  }
}
