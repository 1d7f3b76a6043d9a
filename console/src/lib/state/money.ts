// Amounts as people type them, in the smallest unit of their currency. Pure.

/** How many decimals a currency has; 2 for one that the browser does not know. */
export function decimalsOf(currency: string): number {
  try {
    return new Intl.NumberFormat("en", { style: "currency", currency }).resolvedOptions().maximumFractionDigits ?? 2;
  } catch {
    return 2;
  }
}

/** `150` or `150.00` or `150,00` of EUR = 15000; null = no amount above 0, or finer than the currency. */
export function minorOf(text: string, currency: string): number | null {
  const match = /^(\d{1,9})(?:[.,](\d+))?$/.exec(text.trim());
  if (!match) return null;
  const [, whole = "", part = ""] = match;
  const decimals = decimalsOf(currency);
  if (part.length > decimals) return null;
  const minor = Number(whole + part.padEnd(decimals, "0"));
  return minor > 0 ? minor : null;
}

/** The other way, for a field: 15000 of EUR = `150.00`. */
export function majorText(minor: number | undefined, currency: string): string {
  if (minor === undefined) return "";
  const decimals = decimalsOf(currency);
  return (minor / 10 ** decimals).toFixed(decimals);
}
