// The console page at the real gateway: an operator logs in, watches, searches, commands, reads why a card was declined.

import assert from "node:assert/strict";
import { join } from "node:path";
import { chromium } from "playwright-core";

import { Claims } from "./claims.mjs";
import { Gateway } from "./gateway.mjs";

const { CARDEA, SIMULATOR, CHROMIUM, SCREENSHOTS } = process.env;
const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const PATIENCE_MS = 60_000;
const HOSTILE = '<img src=x onerror="document.title=\'owned\'">';

const claims = new Claims();
const { claim } = claims;

const gateway = new Gateway(CARDEA, SIMULATOR);
const browser = await chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1440, height: 900 } });
const page = await context.newPage();
page.setDefaultTimeout(PATIENCE_MS);
const faults = [];
page.on("pageerror", (error) => faults.push(String(error)));
page.on("console", (message) => {
  // A refused log-in is written by the browser itself and expected.
  if (message.type() === "error" && !/status of 401|WebSocket|ERR_/.test(message.text())) faults.push(message.text());
});
const shot = (name) => page.screenshot({ path: join(SCREENSHOTS, name) });
const row = (id) => page.locator(`#vehicles tr[data-id="${id}"]`);
const logIn = async (key) => {
  await page.fill("#api-key", key);
  await page.click("#login-form button");
};

claim("a wrong key is refused with a reason and the page stays closed", async () => {
  await page.goto(gateway.url);
  await page.waitForSelector("#api-key");
  await logIn("ck_wrong");
  await page.waitForFunction(() => document.getElementById("login-problem").textContent.length > 5);
  assert.equal(await page.isVisible("#console"), false);
});

claim("an operator sees every vehicle, and the cars that connected as online", async () => {
  await logIn(gateway.key);
  await row("PARKED-1").waitFor();
  for (const id of ["CAR-1", "CAR-2", "CAR-3"]) {
    await row(id).locator("td:nth-child(2)", { hasText: "Online" }).waitFor();
  }
  assert.match(await row("PARKED-1").textContent(), /Offline/);
  assert.match(await page.textContent("#link-state"), /Live/);
});

claim("positions and speeds come by themselves and age while they wait", async () => {
  await page.waitForFunction(() => /\d+\.\d{4}, \d/.test(document.querySelector('tr[data-id="CAR-1"]').textContent));
  assert.match(await row("CAR-1").locator("td:nth-child(3)").textContent(), /^\d+ s$/);
});

claim("the key is not kept by the page and its cookie cannot be read by scripts", async () => {
  assert.equal(await page.evaluate(() => document.cookie + JSON.stringify({ ...localStorage, ...sessionStorage })), "{}");
  assert.equal(await page.inputValue("#api-key"), "");
  const [cookie] = await context.cookies();
  assert.deepEqual([cookie.httpOnly, cookie.secure, cookie.sameSite], [true, true, "Strict"]);
});

claim("the search narrows the table and the keyboard opens and closes a vehicle", async () => {
  await page.locator("body").press("/");
  await page.keyboard.type("car-2");
  await page.waitForFunction(() => document.querySelectorAll("#vehicles tbody tr[data-id]").length === 1);
  await row("CAR-2").focus();
  await page.keyboard.press("Enter");
  await page.locator("#drawer-title", { hasText: "CAR-2" }).waitFor();
  await page.keyboard.press("Escape");
  await page.waitForSelector("#drawer", { state: "hidden" });
  await page.fill("#search", "");
});

claim("a lock is shown in its true state until it succeeded", async () => {
  await row("CAR-1").click();
  await page.click("#orders button:text-is('Lock')");
  await page.locator("#orders p", { hasText: "Lock: succeeded" }).waitFor();
  await page.locator("#drawer .steps", { hasText: /accepted.*sent.*succeeded/ }).first().waitFor();
});

claim("an order to a car that is away waits, and says so", async () => {
  await row("PARKED-1").click();
  await page.click("#orders button:text-is('Unlock')");
  await page.locator("#orders p", { hasText: "Unlock: queued" }).waitFor();
});

claim("taking the drive away asks twice", async () => {
  await row("CAR-3").click();
  await page.click("#orders button.grave");
  await page.locator("#orders button.sure", { hasText: "Confirm" }).waitFor();
  assert.equal(await page.textContent("#orders p"), "");
  await page.click("#orders button.sure");
  // A car that has begun a trip meanwhile holds the order until it stands; one that stands obeys at once.
  const note = page.locator("#orders p", { hasText: /Disable drive: (pending safe|succeeded)/ });
  await note.waitFor();
  if (/succeeded/.test(await note.textContent())) await row("CAR-3").locator("td:nth-child(7)", { hasText: "Disabled" }).waitFor();
});

claim("a name with markup is shown as text and runs nothing", async () => {
  await row("CAR-2").click();
  await page.locator("#drawer p.muted", { hasText: HOSTILE }).first().waitFor();
  assert.equal(await page.title(), "Cardea console");
  assert.equal(await page.locator("#console img").count(), 1, "the logo and no other image");
});

claim("a declined purchase raises an alert and is explained check by check", async () => {
  const { body } = await gateway.buy("iauth_browser", "ic_browser");
  assert.equal(body.approved, false);
  await page.locator("#alerts .entry", { hasText: "CAR-2" }).waitFor();
  await shot("console.png");
  await page.click("#tab-decisions");
  await page.click("#decisions summary");
  await page.locator("#decisions .checks li", { hasText: "fail" }).first().waitFor();
  await page.locator("#decisions", { hasText: "STATION <b>7731</b>" }).waitFor();
  await shot("console-decision.png");
});

claim("an alert is acknowledged in place", async () => {
  await page.click("#tab-alerts");
  await page.click("#alerts button:text-is('Acknowledge')");
  await page.locator("#alerts .entry", { hasText: "acknowledged" }).waitFor();
});

claim("dark and small screens show the same", async () => {
  await page.emulateMedia({ colorScheme: "dark" });
  await shot("console-dark.png");
  await page.setViewportSize({ width: 420, height: 860 });
  await row("CAR-1").waitFor();
  await shot("console-small.png");
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 1440, height: 900 });
});

claim("a lost gateway is said, and a gateway that is back asks for the key again", async () => {
  const port = new URL(gateway.url).port;
  await gateway.kill();
  await page.locator("#banner", { hasText: "Connection lost" }).waitFor();
  assert.equal(await row("CAR-1").count(), 1, "what was known stays in sight");
  await shot("console-lost.png");
  await gateway.start(port);
  await page.waitForSelector("#api-key");
  await logIn(gateway.key);
  await row("CAR-1").waitFor();
  await page.locator("#alerts .entry", { hasText: "acknowledged" }).waitFor();
});

claim("logging out closes the page and the session", async () => {
  await page.click("#logout");
  await page.waitForSelector("#api-key");
  assert.equal(await page.evaluate(async () => (await fetch("/v1/session")).status), 401);
});

claim("nothing failed in the browser and the policy was never hit", async () => assert.deepEqual(faults, []));

async function prepare() {
  await gateway.start();
  for (const id of ["CAR-1", "CAR-2", "CAR-3", "PARKED-1"]) {
    const body = { vehicle_id: id, ...(id === "CAR-2" && { name: HOSTILE }) };
    assert.equal((await gateway.post("/v1/vehicles", body)).status, 201);
  }
  const card = { card_id: "card-1", network_ref: "ic_browser", vehicle_id: "CAR-2", status: "active" };
  assert.equal((await gateway.post("/v1/cards", card)).status, 201);
  gateway.drive(["CAR-1", "CAR-2", "CAR-3"]);
}

await claims.run({
  prepare, shot: (name) => shot(`${name}.png`), log: () => gateway.log,
  async end() {
    await browser.close();
    gateway.end();
  },
});
