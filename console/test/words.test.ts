import { expect, it } from "vitest";
import { TABLE } from "../src/lib/words";

it("every text is there in every language, with the same values in it", () => {
  const values = (text: string) => [...text.matchAll(/\{\w+\}/g)].map(String).sort();
  for (const [word, texts] of Object.entries(TABLE)) {
    expect(texts, word).toHaveLength(3);
    for (const text of texts) {
      expect(text.trim(), word).not.toBe("");
      expect(values(text), word).toEqual(values(texts[0]));
    }
  }
});
