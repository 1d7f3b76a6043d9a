// A purchase that waits for the renter's word: asked over everything else, and it goes through only after a yes, once.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { de } from "../../console/terminal/de.js";
import { en } from "../../console/terminal/en.js";
import { ja } from "../../console/terminal/ja.js";
import { money } from "../../console/terminal/language.js";

const CARD = "ic_terminal";
const PLACE = { name: "STATION <b>7731</b>", city: "Torino", network_id: "net-9", terminal_id: "t9" };
/** The simulated car drives all the while, which is no way to buy fuel: what is claimed here rests on these checks alone. */
const CHECKS = ["card_active", "rental_state", "location", "telematics_fresh"];

/** The rules as they come, but that a station nobody knows is asked about. */
function rules() {
  const text = readFileSync(new URL("../../config/card-rules.toml", import.meta.url), "utf8");
  return text.split(/^(?=\[)/m).map((section) => {
    const name = section.match(/^\[(\w+)\]/)?.[1];
    if (!name) return section.replace(/^version = .*$/m, 'version = "terminal-test"');
    if (!CHECKS.includes(name)) return section.replace(/^mode = .*$/m, 'mode = "off"');
    return name === "location" ? section.replace(/^unknown = .*$/m, 'unknown = { policy = "step_up" }') : section;
  }).join("");
}

export function confirmClaims(claim, phone, gateway) {
  const { context, page } = phone;
  const sheet = page.locator("#purchase");
  const title = (words) => sheet.locator("h2", { hasText: words }).waitFor();
  /** Its buttons rest a moment, so that a finger on its way to something else does not answer. */
  const asked = async (words) => {
    await title(words["confirm.title"]);
    await page.waitForSelector("#purchase-yes:enabled");
  };
  const buy = async (id) => (await gateway.buy(`iauth_${id}`, CARD, PLACE)).body;
  const outcome = ({ approved, metadata }) => [approved, metadata.outcome];
  const waiting = async () => (await phone.own("/v1/confirmations")).items.map((item) => item.decision_id);
  const focused = () => page.evaluate(() => document.activeElement.dataset.function ?? document.activeElement.id);

  claim("an amount is written in its own currency's minor unit, also where browsers have another idea of it", async () => {
    assert.equal(money(6240, "EUR"), "€62.40");
    assert.equal(money(6240, "JPY"), "¥6,240");
    assert.match(money(6240, "HUF"), /^HUF\s62\.40$/);
    assert.match(money(6240, "KWD"), /^KWD\s6\.240$/);
    assert.equal(money(6240, "?"), "62.40 ?");
  });

  claim("a purchase at a station nobody knows is declined, and asked about over whatever the renter looks at", async () => {
    const card = { card_id: "card-t", network_ref: CARD, vehicle_id: "CAR-1", status: "active" };
    assert.equal((await gateway.post("/v1/cards", card)).status, 201);
    const set = await gateway.post("/v1/card-rules", { text: rules() });
    assert.equal(set.status, 201, JSON.stringify(set.body));
    await phone.open(`#key/${phone.keyId}`);
    await page.focus('button[data-function="lock_doors"]');
    const first = await buy("c1");
    assert.deepEqual(outcome(first), [false, "step_up"]);
    await asked(en);
    assert.deepEqual(await waiting(), [first.metadata.decision_id]);
    const text = await sheet.textContent();
    for (const said of ["€62.40", "STATION <b>7731</b>, Torino", "Blue van"]) assert.ok(text.includes(said), text);
    assert.match(text, /Time left(09|10):\d\d/);
    assert.deepEqual([await sheet.getAttribute("role"), await sheet.getAttribute("aria-modal")], ["dialog", "true"]);
    assert.equal(await focused(), "purchase-title", "no button has the focus, so that no key answers by mistake");
    await phone.look("purchase-en");
  });

  claim("Escape answers nothing: the question waits in a bar, and focus is back where it was", async () => {
    const before = await waiting();
    await page.keyboard.press("Escape");
    await sheet.waitFor({ state: "hidden" });
    assert.equal(await focused(), "lock_doors");
    assert.deepEqual(await waiting(), before);
    await page.locator("#waiting", { hasText: en["confirm.waiting"] }).waitFor();
    await phone.look("purchase-waiting");
    await page.click("#waiting button");
    await asked(en);
  });

  claim("it is asked in German and Japanese, and in the dark", async () => {
    for (const [code, words, amount] of [["de", de, "62,40 €"], ["ja", ja, "€62.40"]]) {
      await page.keyboard.press("Escape");
      await page.selectOption("#language", code);
      await page.click("#waiting button");
      await asked(words);
      assert.equal((await sheet.locator(".left").textContent()).replace(/\s/g, " "), amount);
      await phone.look(`purchase-${code}`);
    }
    await page.emulateMedia({ colorScheme: "dark" });
    await phone.look("purchase-dark");
    await page.emulateMedia({ colorScheme: "light" });
    await page.keyboard.press("Escape");
    await page.selectOption("#language", "en");
    await page.click("#waiting button");
  });

  claim("a yes whose answer got lost is not called confirmed; pressed again, it is the same word and counts two minutes", async () => {
    const keys = [];
    const lose = async (route) => {
      keys.push(route.request().headers()["idempotency-key"]);
      if (keys.length > 1) return route.fallback();
      await route.fetch();
      await route.abort();
    };
    await context.route("**/v1/confirmations/*", lose);
    await page.click("#purchase-yes");
    await sheet.locator(".problem", { hasText: en["problem.unsure"] }).waitFor();
    await phone.look("purchase-unsure");
    await page.click("#purchase-yes");
    await title(en["confirm.confirmed"]);
    await context.unroute("**/v1/confirmations/*", lose);
    assert.deepEqual([keys.length, keys[0]], [2, keys[1]]);
    const left = await sheet.locator(".left").textContent();
    assert.match(left, /^0(1:\d\d|2:00)$/);
    await page.waitForFunction((was) => document.querySelector("#purchase .left").textContent !== was, left);
    assert.equal(await focused(), "purchase-title");
    await phone.look("purchase-confirmed");
  });

  claim("the same purchase tried again goes through, once: the next try is asked about anew", async () => {
    assert.deepEqual(outcome(await buy("c2")), [true, "approve"]);
    const third = await buy("c3");
    assert.deepEqual(outcome(third), [false, "step_up"]);
    await asked(en);
    assert.deepEqual(await waiting(), [third.metadata.decision_id]);
  });

  claim("a no leaves it declined and tells the fleet", async () => {
    const [id] = await waiting();
    await page.click("#purchase-no");
    await title(en["confirm.denied"]);
    await phone.look("purchase-denied");
    const { items } = (await gateway.get("/v1/alerts?limit=100")).body;
    const raised = items.filter((alert) => alert.kind === "purchase_disowned");
    assert.deepEqual(raised.map((alert) => [alert.decision_id, alert.vehicle_id, alert.state]), [[id, "CAR-1", "open"]]);
    assert.deepEqual(outcome(await buy("c4")), [false, "step_up"]);
  });

  claim("an answer after another phone's is said to be too late", async () => {
    await asked(en);
    const [id] = await waiting();
    // The list is withheld, so that the page does not know yet.
    const withhold = (route) => route.fulfill({ status: 429, json: { type: "urn:cardea:problem:too-many-requests" } });
    await context.route("**/v1/confirmations", withhold);
    const status = await page.evaluate(async (one) => {
      const headers = { "content-type": "application/json" };
      return (await fetch(`/v1/confirmations/${one}`, { method: "POST", headers, body: '{"is_confirmed":true}' })).status;
    }, id);
    assert.equal(status, 200);
    await page.click("#purchase-no");
    await title(en["confirm.answered"]);
    await phone.look("purchase-answered");
    await context.unroute("**/v1/confirmations", withhold);
    await page.click(`#purchase button:text-is("${en["app.close"]}")`);
    await sheet.waitFor({ state: "hidden" });
  });

  claim("a question nobody answers goes when its time is over", async () => {
    let items;
    const list = (route) => {
      const [asked_at, expires_at] = [0, 6_000].map((ms) => new Date(Date.now() + ms).toISOString());
      const [decision_id, rental_id] = [crypto.randomUUID(), crypto.randomUUID()];
      const place = { vehicle_id: "CAR-1", merchant: "横浜SS" };
      items ??= [{ decision_id, rental_id, ...place, amount_minor: 6240, currency: "JPY", asked_at, expires_at }];
      return route.fulfill({ json: { items, next: null } });
    };
    await context.route("**/v1/confirmations", list);
    await asked(en);
    assert.ok((await sheet.textContent()).includes("¥6,240"));
    await sheet.waitFor({ state: "hidden" });
    assert.equal(await page.textContent("#waiting"), "");
    await context.unroute("**/v1/confirmations", list);
  });
}
