// The text of a `datetime-local` field: this computer's time zone, to the minute.
export function localText(at: number): string {
  const date = new Date(at);
  const two = (value: number) => String(value).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}T${two(date.getHours())}:${two(date.getMinutes())}`;
}

/** RFC 3339 of what stands in such a field; undefined for an empty one. */
export const isoOf = (local: string) => (local === "" ? undefined : new Date(local).toISOString());
