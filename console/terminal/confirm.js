// Purchases with the fuel card that wait for the renter's word: looked for while a car is theirs, asked over everything
// else, and what came of the word. Nothing but a press of one of the two buttons is ever taken for an answer.

import { find, make, put, say } from "/console/dom.js";
import { Problem, ask, freshKey, link, now } from "./api.js";
import { icon } from "./icons.js";
import { countdown, money, t } from "./language.js";
import { fact, problemText } from "./parts.js";

const PERIOD_MS = 4_000;
const MAX_PERIOD_MS = 60_000;
/** A confirmed purchase goes through when it is tried again within this. */
const WORD_MS = 120_000;
/** A question that comes up under a finger on its way to something else must not be answered by it. */
const REST_MS = 600;
/** Nobody waits for this word any more, or another one was first: why, for each slug. */
const OVER = { conflict: "confirm.answered", expired: "confirm.late", "not-found": "confirm.late" };

export class Confirmations {
  constructor({ holdings }) {
    Object.assign(this, { holdings, items: [], shown: null, due: 0, failures: 0 });
    /** Questions that were closed without an answer: they wait in the bar. */
    this.putOff = new Set();
    /** Questions that are done with, whatever a reading that was under way meanwhile says. */
    this.done = new Set();
    this.dialog = find("purchase");
    this.dialog.oncancel = (event) => {
      event.preventDefault();
      this.leave();
    };
    // A browser may close it without asking.
    this.dialog.onclose = () => this.shown && !this.dialog.open && this.leave();
  }

  close() {
    this.isClosed = true;
    this.shown = null;
    this.items = [];
    this.draw();
  }

  /** Looks at once: the connection or the page is back. */
  wake() {
    this.due = 0;
    this.failures = 0;
  }

  tick() {
    this.settle();
    // A lost connection is looked for by the view.
    if (this.isWanted() && !link.isLost && performance.now() >= this.due) this.look();
  }

  /** Only whoever has a car is asked. A reservation may have begun since it was read. */
  isWanted() {
    const hasCar = ({ state, from }) => state === "active" || (state === "reserved" && Date.parse(from) <= now());
    return this.items.length > 0 || this.holdings.rentals.some(hasCar);
  }

  async look() {
    if (this.isLooking) return;
    this.isLooking = true;
    try {
      const { items } = await ask("GET", "/v1/confirmations");
      this.failures = 0;
      if (this.isClosed) return;
      this.items = items.filter((item) => !this.done.has(item.decision_id));
      this.settle();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      // Nothing is lost by asking later; a lost connection and a session that is over say so themselves.
      this.failures += 1;
    } finally {
      this.isLooking = false;
      this.due = performance.now() + Math.min(PERIOD_MS * 2 ** this.failures, MAX_PERIOD_MS);
    }
  }

  /** What is to be shown now: a question until its time is over, then what came of it, then the next, newest first. */
  settle() {
    const isOpen = ({ expires_at }) => Date.parse(expires_at) > now();
    this.items = this.items.filter(isOpen);
    const { shown } = this;
    if (shown?.phase === "asked" && !shown.isSending) {
      const isListed = this.items.some((item) => item.decision_id === shown.item.decision_id);
      // A word nobody heard back of may be why it is not listed any more.
      if (!isListed && !(shown.word && isOpen(shown.item))) this.shown = null;
    }
    const next = this.items.findLast((item) => !this.putOff.has(item.decision_id));
    // What came of one gives way only to a question that was not there when it was answered.
    const gives = !this.shown || (this.shown.phase !== "asked" && !this.shown.known.has(next?.decision_id));
    if (next && gives) this.shown = { item: next, phase: "asked", keys: {} };
    this.draw();
  }

  draw() {
    const { dialog, shown } = this;
    const view = shown && `${shown.item.decision_id} ${shown.phase}`;
    const isNew = view !== this.drawn;
    this.drawn = view;
    if (shown && isNew) this.build();
    if (shown && !dialog.open) dialog.showModal();
    if (shown && isNew) find("purchase-title").focus();
    if (shown) this.count();
    if (!shown && dialog.open) this.shut();
    this.drawBar();
  }

  /** Focus goes back by itself, unless what had it is gone. */
  shut() {
    this.dialog.close();
    put(this.dialog);
    if (document.activeElement === document.body) find("title").focus({ preventScroll: true });
  }

  build() {
    const isAsked = this.shown.phase === "asked";
    const title = make("h2", { id: "purchase-title", tabindex: "-1" }, t(isAsked ? "confirm.title" : this.shown.says));
    const name = t(isAsked ? "confirm.later" : "app.close");
    const cross = make("button", { type: "button", class: "round", "aria-label": name, onclick: () => this.leave() }, icon("no"));
    this.left = make("dd", {});
    put(this.dialog, make("div", { class: "sheet-head" }, title, cross), ...(isAsked ? this.question() : this.result()));
  }

  about() {
    const { merchant, city, vehicle_id } = this.shown.item;
    const place = [merchant, city].filter(Boolean).join(", ") || t("confirm.place_unknown");
    return [...fact(t("confirm.place"), place), ...fact(t("confirm.car"), this.holdings.nameOf(vehicle_id))];
  }

  question() {
    const { amount_minor, currency } = this.shown.item;
    this.note = make("p", { class: "problem", role: "alert" });
    this.buttons = [
      make("button", { type: "button", id: "purchase-yes", class: "main wide", onclick: () => this.answer(true) }),
      make("button", { type: "button", id: "purchase-no", class: "grave wide", onclick: () => this.answer(false) }),
    ];
    this.showButtons(true);
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.showButtons(), REST_MS);
    return [
      make("div", { id: "purchase-about", class: "stack" },
        make("p", {}, t("confirm.text")), make("p", { class: "left" }, money(amount_minor, currency)),
        make("dl", { class: "facts" }, ...this.about(), make("dt", {}, t("confirm.left")), this.left)),
      this.note, make("div", { class: "stack" }, ...this.buttons),
    ];
  }

  result() {
    const { phase, item } = this.shown;
    this.clock = make("p", { class: "left", role: "timer" });
    return [
      phase === "confirmed" && this.clock,
      make("p", { id: "purchase-about", class: "hint" }, money(item.amount_minor, item.currency)),
      make("dl", { class: "facts" }, ...this.about()),
      make("button", { type: "button", class: "wide", onclick: () => this.leave() }, t("app.close")),
    ].filter(Boolean);
  }

  showButtons(isResting = false) {
    const { shown, buttons } = this;
    const isSending = Boolean(shown?.isSending);
    buttons.forEach((button, at) => {
      const isYes = at === 0;
      button.disabled = isResting || isSending;
      say(button, t(isSending && shown.word === (isYes ? "yes" : "no") ? "app.busy" : isYes ? "confirm.yes" : "confirm.no"));
    });
  }

  /** What changes with every second. The two minutes are a span: this phone's own clock measures it, whatever time it has. */
  count() {
    const { item, phase, until } = this.shown;
    if (phase === "asked") say(this.left, countdown(Date.parse(item.expires_at) - now()));
    if (phase !== "confirmed") return;
    const left = until - Date.now();
    this.clock.hidden = left <= 0;
    say(this.clock, countdown(left));
    say(find("purchase-title"), t(left > 0 ? "confirm.confirmed" : "confirm.word_over"));
  }

  async answer(isConfirmed) {
    const { shown } = this;
    const word = isConfirmed ? "yes" : "no";
    const id = shown.item.decision_id;
    // The same word again is the same request: it counts once, and its two minutes run from the first time.
    shown.keys[word] ??= { key: freshKey(), sent: Date.now() };
    const { key, sent } = shown.keys[word];
    Object.assign(shown, { word, isSending: true });
    put(this.note);
    this.showButtons();
    try {
      await ask("POST", `/v1/confirmations/${encodeURIComponent(id)}`, { body: { is_confirmed: isConfirmed }, key });
      const confirmed = { phase: "confirmed", says: "confirm.confirmed", until: sent + WORD_MS };
      this.finish(shown, isConfirmed ? confirmed : { phase: "denied", says: "confirm.denied" });
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (problem.slug in OVER) this.finish(shown, { phase: "over", says: OVER[problem.slug] });
      else this.refuse(shown, problem);
    }
  }

  finish(shown, outcome) {
    this.done.add(shown.item.decision_id);
    this.items = this.items.filter((item) => !this.done.has(item.decision_id));
    Object.assign(shown, outcome, { isSending: false, known: new Set(this.items.map((item) => item.decision_id)) });
    if (!this.isClosed) this.settle();
  }

  /** It can be pressed again. */
  refuse(shown, problem) {
    shown.isSending = false;
    // Refused is not said: only a word that may have arrived is one.
    const pressed = this.buttons[shown.word === "yes" ? 0 : 1];
    if (!problem.isUnsure) shown.word = null;
    if (this.shown !== shown) return;
    put(this.note, ...problemText(problem));
    this.showButtons();
    pressed.focus();
  }

  /** Closed without a word: a question waits in the bar, the rest is over. */
  leave() {
    const { shown } = this;
    if (!shown || shown.isSending) return;
    if (shown.phase === "asked") this.putOff.add(shown.item.decision_id);
    this.shown = null;
    this.settle();
  }

  drawBar() {
    const bar = find("waiting");
    const text = this.items.length > 0 && !this.shown ? t("confirm.waiting") : "";
    if (bar.textContent === (text && text + t("confirm.open"))) return;
    const open = () => {
      this.putOff.clear();
      this.settle();
    };
    put(bar, text && make("p", {}, text), text && make("button", { type: "button", onclick: open }, t("confirm.open")));
  }
}
