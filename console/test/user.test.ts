import { expect, it } from "vitest";
import { suggestPassword } from "../src/views/admin/user";

it("a suggested password is long enough, easy to read aloud, and another each time", () => {
  const made = new Set(Array.from({ length: 50 }, suggestPassword));
  expect(made.size).toBe(50);
  for (const one of made) expect(one).toMatch(/^([a-hjkmnp-z2-9]{5}-){3}[a-hjkmnp-z2-9]{5}$/);
});
