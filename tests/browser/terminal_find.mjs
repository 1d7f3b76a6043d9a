// The terminal's first half: logging in, finding a car, and requesting its key.

import assert from "node:assert/strict";

import { en } from "../../console/terminal/en.js";
import { HOSTILE, publicKey } from "./phone.mjs";

export function findClaims(claim, phone, gateway) {
  const { context, page } = phone;

  claim("a wrong access code is refused in plain words and the page stays closed", async () => {
    await phone.open();
    await page.fill("#code", "ck_wrong");
    await page.click("form button");
    await page.locator("#login-problem", { hasText: en["login.unknown"] }).waitFor();
    assert.equal(await page.isVisible("#top"), false);
    await phone.look("login");
  });

  claim("staff are sent to the console and keep no session here", async () => {
    await page.fill("#code", gateway.key);
    await page.click("form button");
    await page.locator("#login-problem", { hasText: en["login.not_renter"] }).waitFor();
    assert.equal(await page.evaluate(async () => (await fetch("/v1/session")).status), 401);
  });

  claim("a renter who has a password logs in by name, and only with it", async () => {
    const password = "correct horse battery";
    const made = await gateway.post("/v1/users", { name: "anna@example.org", role: "renter", subject: "anna", password });
    assert.equal(made.status, 201);
    await page.fill("#user", "anna@example.org");
    await page.fill("#code", "not her password");
    await page.click("form button");
    await page.locator("#login-problem", { hasText: en["login.unknown"] }).waitFor();
    await page.fill("#code", password);
    await page.click("form button");
    await page.locator("#page", { hasText: en["home.none"] }).waitFor();
    assert.equal(await page.evaluate(async () => (await (await fetch("/v1/session")).json()).subject), "anna");
    await page.click("#logout");
    await page.waitForSelector("#code");
  });

  claim("a renter logs in, and the access code is kept nowhere", async () => {
    await page.fill("#code", phone.code);
    await page.click("form button");
    await page.locator("#page", { hasText: en["home.none"] }).waitFor();
    await phone.look("home-empty");
    const stored = await page.evaluate(() => document.cookie + JSON.stringify({ ...localStorage, ...sessionStorage }));
    const found = JSON.stringify([stored, await phone.kept(), await phone.cached(), await page.content(), page.url()]);
    assert.ok(!found.includes(phone.code));
    const [cookie] = await context.cookies();
    assert.deepEqual([cookie.httpOnly, cookie.secure, cookie.sameSite], [true, true, "Strict"]);
  });

  claim("free cars are listed with fuel and the age of their position; the phone is located only on a tap", async () => {
    await page.click("a[href='#find']");
    await phone.car("CAR-1").waitFor();
    assert.match(await phone.car("CAR-1").textContent(), /Blue van.*Fuel \d+%.*position (just now|\d+ \w+ old).*Open and enter/s);
    assert.equal(await page.evaluate(() => window.located), 0);
    assert.equal(await page.locator(".far").count(), 0);
    await page.click("#near");
    await page.locator(".far").first().waitFor();
    assert.equal(await page.evaluate(() => window.located), 1);
    const rows = await page.locator("#cars button").evaluateAll((all) => all.map((one) => [one.dataset.vehicle, one.querySelector(".far")?.textContent]));
    const metres = rows.map(([, far]) => (far ? parseFloat(far) * (far.endsWith("km") ? 1_000 : 1) : Infinity));
    assert.deepEqual(metres, metres.toSorted((one, other) => one - other));
    assert.ok(Number.isFinite(metres[1]), "both cars that drive have told where they are");
    const { items } = await phone.own("/v1/vehicles/available");
    assert.deepEqual(rows.map(([id]) => id).sort(), items.map((item) => item.vehicle_id).sort());
    await phone.look("find");
  });

  claim("the use narrows the list to the cars that are lent for it", async () => {
    await page.selectOption("#use", "drive");
    await phone.car("CAR-2").waitFor({ state: "detached" });
    assert.equal(await phone.car("CAR-1").count(), 1);
    await page.selectOption("#use", "cabin");
    await phone.car("CAR-2").waitFor();
  });

  claim("a name with markup is shown as text and runs nothing", async () => {
    await page.locator("#cars b", { hasText: HOSTILE }).waitFor();
    assert.doesNotMatch(await page.title(), /owned/);
    assert.equal(await page.locator("#page img").count(), 0);
  });

  claim("a car that was taken meanwhile is refused in plain words", async () => {
    await phone.car("PARKED-2").click();
    const holder_key = await publicKey();
    const [from, till] = [0, 3_600_000].map((ms) => new Date(Date.now() + ms).toISOString());
    const body = { vehicle_id: "PARKED-2", profile: "cabin", from, until: till, holder_key, renter: "bob" };
    assert.equal((await gateway.post("/v1/usage-requests", body)).status, 201);
    await page.click("#request");
    await page.locator("#sheet .problem", { hasText: en["problem.not-available"] }).waitFor();
    await phone.look("refused");
    await page.keyboard.press("Escape");
  });

  claim("the renter asks for the cabin, and the key's page says what it permits and what it prohibits", async () => {
    await phone.pick("CAR-1", "cabin");
    await phone.look("request");
    await page.click("#request");
    await page.waitForURL(/#key\//);
    phone.keyId = page.url().split("/").at(-1);
    const key = await phone.own(`/v1/keys/${phone.keyId}`);
    for (const kind of ["permits", "prohibits"]) {
      const shown = page.locator(`#${kind} li`);
      assert.deepEqual(await shown.evaluateAll((all) => all.map((one) => one.dataset.function)), key[kind]);
      assert.deepEqual(await shown.allTextContents(), key[kind].map((name) => en[`function.${name}`]));
    }
    assert.ok(key.permits.includes("unlock_doors") && key.prohibits.includes("drive"));
  });
}
