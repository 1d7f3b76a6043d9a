// Small pieces that every view is made of: tags, problems in words, and the sheet that asks before something grave.

import { find, make, put } from "/console/dom.js";
import { now } from "./api.js";
import { icon } from "./icons.js";
import { moment, named, t } from "./language.js";

export function tag(kind, text) {
  return make("span", { class: `tag ${kind}` }, text);
}

const INSTANT = /\d{4}-\d\d-\d\dT[\d:.]+Z/g;

/** A problem in plain words, with what the gateway said of it, which is English but for its times. */
export function problemText(problem) {
  if (problem.isUnsure) return [t("problem.unsure")];
  const plain = named("problem", problem.slug);
  const detail = problem.detail.replace(INSTANT, (at) => moment(Date.parse(at), now()));
  return detail ? [plain, make("span", { class: "said", lang: "en" }, detail)] : [plain];
}

export function fact(name, value) {
  return [make("dt", {}, name), make("dd", {}, value)];
}

/** A place as a link that the phone opens with its own map. */
export function mapLink({ latitude, longitude }, text) {
  return make("a", { class: "link", href: `geo:${latitude},${longitude}?q=${latitude},${longitude}` }, text);
}

export function iconText(name, text) {
  return [icon(name), make("span", {}, text)];
}

/** Opens the sheet; `close` of it is what its buttons call. Escape closes it, and focus goes back by itself. */
export function openSheet(title, ...content) {
  const sheet = find("sheet");
  const close = make("button", { type: "button", class: "round", "aria-label": t("app.close"), onclick: closeSheet }, icon("no"));
  put(sheet, make("div", { class: "sheet-head" }, make("h2", { id: "sheet-title", tabindex: "-1" }, title), close), ...content);
  sheet.showModal();
  find("sheet-title").focus();
}

export function closeSheet() {
  find("sheet").close();
}

/** Asks before something that cannot be undone; `work` runs once, and its problem is said in the sheet. */
export function confirmSheet({ title, text, yes, no, work }) {
  const note = make("p", { class: "problem", role: "alert" });
  const sure = make("button", { type: "button", class: "grave wide" }, yes);
  sure.addEventListener("click", async () => {
    sure.disabled = true;
    put(note);
    try {
      await work();
      closeSheet();
    } catch (problem) {
      put(note, ...problemText(problem));
      sure.disabled = false;
    }
  });
  const keep = make("button", { type: "button", class: "wide", onclick: closeSheet }, no);
  openSheet(title, make("p", {}, text), note, make("div", { class: "stack" }, sure, keep));
}
