// Which language the page speaks, its words, and how it writes times, numbers and distances. No elements but <html>.

import { de } from "./de.js";
import { en } from "./en.js";
import { ja } from "./ja.js";

const WORDS = { en, de, ja };
const KEPT_AS = "cardea-terminal-language";

/** In their own words, for those who cannot read the present one. */
export const LANGUAGES = { en: "English", de: "Deutsch", ja: "日本語" };

let language = "en";
/** With the browser's region, which decides how times of day are written. */
let locale = "en";

/** What was chosen before, else what the browser asks for. */
export function startLanguage() {
  const wished = [kept(), ...navigator.languages, navigator.language].map((tag) => String(tag).slice(0, 2).toLowerCase());
  speak(wished.find((code) => code in WORDS) ?? "en");
}

export function choose(code) {
  speak(code);
  try {
    localStorage.setItem(KEPT_AS, code);
  } catch {
    // A browser that keeps nothing speaks it until it is closed.
  }
}

export const spoken = () => language;

function kept() {
  try {
    return localStorage.getItem(KEPT_AS);
  } catch {
    return null;
  }
}

function speak(code) {
  language = code;
  locale = navigator.languages.find((tag) => tag.slice(0, 2).toLowerCase() === code) ?? code;
  document.documentElement.lang = code;
}

/** The words for `name`, with what stands in braces filled in. */
export function t(name, values = {}) {
  const words = WORDS[language][name] ?? en[name] ?? name;
  return words.replace(/\{(\w+)\}/g, (whole, field) => String(values[field] ?? whole));
}

export const hasWords = (name) => name in en;

/** Words for a name of the gateway's, or the name itself where a newer gateway has one that is not known here. */
export function named(kind, name, values) {
  const full = `${kind}.${name}`;
  return hasWords(full) ? t(full, values) : String(name).replaceAll("_", " ");
}

/** Time of day, with the day when it is not today. */
export function moment(at, now) {
  const isToday = new Date(at).toDateString() === new Date(now).toDateString();
  const day = isToday ? {} : { weekday: "short", day: "numeric", month: "short" };
  return new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", ...day }).format(at);
}

export function clockTime(at) {
  return new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", second: "2-digit" }).format(at);
}

export function percent(value) {
  return new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: 0 }).format(value / 100);
}

/** ISO 4217's minor units that are no hundredths. Browsers have other ideas of some (HUF, IDR), by a factor of 100. */
const MINOR_DIGITS = { 0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF", 3: "BHD IQD JOD KWD LYD OMR TND", 4: "CLF UYW" };

/** An amount that comes in minor units. */
export function money(minor, currency) {
  const [digits] = Object.entries(MINOR_DIGITS).find(([, names]) => names.includes(currency)) ?? [2];
  const shown = { minimumFractionDigits: Number(digits), maximumFractionDigits: Number(digits) };
  const value = minor / 10 ** digits;
  try {
    return new Intl.NumberFormat(locale, { style: "currency", currency, ...shown }).format(value);
  } catch {
    // No code of three letters.
    return `${new Intl.NumberFormat(locale, shown).format(value)} ${currency}`;
  }
}

function unit(value, name, digits = 0, unitDisplay = "short") {
  const options = { style: "unit", unit: name, unitDisplay, maximumFractionDigits: digits };
  return new Intl.NumberFormat(locale, options).format(value);
}

export function distance(metres) {
  if (metres < 1_000) return unit(Math.round(metres / 10) * 10, "meter");
  return unit(metres / 1_000, "kilometer", metres < 10_000 ? 1 : 0);
}

/** How long, in its largest unit from minutes on; `display` as Intl has it. */
export function span(ms, display = "short") {
  const minutes = Math.max(0, Math.floor(ms / 60_000));
  if (minutes < 60) return unit(minutes, "minute", 0, display);
  if (minutes < 2_880) return unit(minutes / 60, "hour", minutes % 60 ? 1 : 0, display);
  return unit(Math.floor(minutes / 1_440), "day", 0, display);
}

/** A countdown: 1:02:03, or days and hours while there are more than two. */
export function countdown(ms) {
  const seconds = Math.max(0, Math.ceil(ms / 1_000));
  if (seconds >= 172_800) return `${unit(Math.floor(seconds / 86_400), "day")} ${unit(Math.floor(seconds / 3_600) % 24, "hour")}`;
  const two = new Intl.NumberFormat(locale, { minimumIntegerDigits: 2 });
  const parts = [Math.floor(seconds / 60) % 60, seconds % 60].map((part) => two.format(part));
  return seconds >= 3_600 ? [Math.floor(seconds / 3_600), ...parts].join(":") : parts.join(":");
}

export function place({ latitude, longitude }) {
  const degrees = new Intl.NumberFormat(locale, { minimumFractionDigits: 4, maximumFractionDigits: 4 });
  return `${degrees.format(latitude)}; ${degrees.format(longitude)}`;
}
