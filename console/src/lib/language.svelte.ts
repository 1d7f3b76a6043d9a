// The language the console speaks, and how it writes times and numbers (the browser's own Intl).

import { TABLE } from "./words";

export const LANGUAGES = { en: "English", de: "Deutsch", ja: "日本語" } as const;
export type Language = keyof typeof LANGUAGES;
export type Word = keyof typeof TABLE;
const ORDER: Language[] = ["en", "de", "ja"];
const KEPT = "cardea-language";

function first(): Language {
  const wished = [localStorage.getItem(KEPT), ...navigator.languages].map((tag) => tag?.slice(0, 2));
  return ORDER.find((one) => one === wished.find((tag) => ORDER.some((known) => known === tag))) ?? "en";
}

class Speech {
  language = $state<Language>(first());
  private readonly index = $derived(ORDER.indexOf(this.language));
  private readonly clock = $derived(new Intl.DateTimeFormat(this.language, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" }));
  private readonly day = $derived(new Intl.DateTimeFormat(this.language, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" }));
  private readonly whole = $derived(new Intl.DateTimeFormat(this.language, { dateStyle: "medium", timeStyle: "medium" }));
  private readonly count = $derived(new Intl.NumberFormat(this.language, { maximumFractionDigits: 2 }));
  private readonly units = $derived(new Map((["second", "minute", "hour", "day"] as const).map((unit) =>
    [unit, new Intl.NumberFormat(this.language, { style: "unit", unit, unitDisplay: unit === "day" ? "narrow" : "short", maximumFractionDigits: 0 })])));

  choose(language: Language) {
    this.language = language;
    localStorage.setItem(KEPT, language);
    document.documentElement.lang = language;
  }

  t = (word: Word, values?: Record<string, string | number>): string => {
    const text: string = TABLE[word][this.index] ?? TABLE[word][0];
    return values ? text.replace(/\{(\w+)\}/g, (whole, name: string) => (name in values ? String(values[name]) : whole)) : text;
  };

  /** A word of the wire, like `pending_safe`; one we have no text for is shown as it is. */
  wire = (prefix: string, name: string | undefined): string => {
    if (!name) return this.t("none");
    const word = `${prefix}_${name}`;
    return isWord(word) ? this.t(word) : name.replaceAll("_", " ");
  };

  number = (value: number): string => this.count.format(value);

  /** Decimal units, as disks are sold. */
  size = (bytes: number): string => {
    if (!Number.isFinite(bytes)) return this.t("none");
    const names = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"] as const;
    const step = Math.min(names.length - 1, Math.max(0, Math.floor(Math.log10(Math.max(1, bytes)) / 3)));
    const value = bytes / 1000 ** step;
    return new Intl.NumberFormat(this.language, { style: "unit", unit: names[step], unitDisplay: "short", maximumFractionDigits: value < 10 && step > 0 ? 1 : 0 }).format(value);
  };

  /** Metres below a kilometre, kilometres above. */
  distance = (metres: number): string => {
    const isFar = metres >= 1000;
    return new Intl.NumberFormat(this.language, { style: "unit", unit: isFar ? "kilometer" : "meter", unitDisplay: "short",
      maximumFractionDigits: isFar && metres < 10_000 ? 1 : 0 }).format(isFar ? metres / 1000 : metres);
  };

  /** An age in one unit: 4 sec, 12 min, 3 hr, 2d. */
  age = (ms: number): string => {
    if (!Number.isFinite(ms)) return this.t("none");
    const s = Math.max(0, Math.round(ms / 1000));
    const [unit, value] = s < 100 ? ["second", s] as const : s < 6_000 ? ["minute", s / 60] as const
      : s < 172_800 ? ["hour", s / 3600] as const : ["day", s / 86_400] as const;
    return this.units.get(unit)?.format(Math.round(value)) ?? "";
  };

  /** A time of today to the second, of another day to the minute. */
  time = (text: string | undefined, now: number): string => {
    const at = text === undefined ? NaN : Date.parse(text);
    if (!Number.isFinite(at)) return this.t("none");
    return Math.abs(now - at) < 12 * 3_600_000 ? this.clock.format(at) : this.day.format(at);
  };

  fullTime = (text: string | number): string => {
    const at = typeof text === "number" ? text : Date.parse(text);
    return Number.isFinite(at) ? this.whole.format(at) : this.t("none");
  };

  money = (minor: number | undefined, currency: string): string => {
    if (minor === undefined || !Number.isFinite(minor)) return this.t("none");
    try {
      const format = new Intl.NumberFormat(this.language, { style: "currency", currency });
      return format.format(minor / 10 ** (format.resolvedOptions().maximumFractionDigits ?? 2));
    } catch {
      // A currency that the browser does not know: the wire's own numbers are right in any case.
      return `${minor} ${currency}`;
    }
  };
}

const isWord = (word: string): word is Word => Object.hasOwn(TABLE, word);

export const speech = new Speech();
document.documentElement.lang = speech.language;
export const { t, wire, age, time, fullTime, money, number, size, distance } = speech;
