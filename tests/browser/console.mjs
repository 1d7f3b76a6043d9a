// The console page at the real gateway: an operator's day. They log in, watch, search, command, read why a card was declined
// and act on it, and a gateway that dies under the open page costs them nothing.

import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";

import { Desk } from "./desk.mjs";

const HOSTILE = '<img src=x onerror="document.title=\'owned\'">';
const PASSWORD = "an operator's long word";

// One vehicle is kept from being read on purpose.
const desk = await Desk.open({ meant: /status of 503.*PARKED-1/ });
const { claim, context, faults, gateway, note, page, row, shot, view } = desk;

/** What goes over the page's connection, the newest last; of vehicles, since the last snapshot. */
const told = { sent: [], vehicles: [] };
page.on("websocket", (socket) => {
  told.sent = [];
  socket.on("framesent", ({ payload }) => told.sent.push(JSON.parse(payload)));
  socket.on("framereceived", ({ payload }) => {
    const { type, vehicles = [] } = JSON.parse(payload);
    // A snapshot begins anew: a page that was slow to say its form may be sent one whole before the one it asked for.
    const before = type === "snapshot" ? [] : told.vehicles;
    told.vehicles = [...before, ...vehicles].slice(-500);
  });
});

claim("a wrong key and a wrong password are refused with a reason and the page stays closed", async () => {
  await page.goto(gateway.url);
  await desk.logInByKey("ck_wrong");
  const problem = page.locator("#login-problem", { hasText: /.{6}/ });
  await problem.waitFor();
  await desk.logIn("olga", "not her password");
  await problem.waitFor();
  await shot("console-login.png");
  assert.equal(await page.isVisible("#console"), false);
});

claim("an operator logs in by password and sees every vehicle, those that connected as online", async () => {
  await desk.logIn("olga", PASSWORD);
  await row("PARKED-1").waitFor();
  for (const id of ["CAR-1", "CAR-2", "CAR-3"]) {
    await row(id).locator("td:nth-child(2)", { hasText: "Online" }).waitFor();
  }
  assert.match(await row("PARKED-1").textContent(), /Offline/);
  assert.match(await page.textContent("#link-state"), /Live/);
  assert.match(await page.textContent("#caller"), /olga/);
});

claim("positions and speeds come by themselves and age while they wait", async () => {
  await page.waitForFunction(() => /\d+\.\d{4}, \d/.test(document.querySelector('tr[data-id="CAR-1"]').textContent));
  assert.match(await row("CAR-1").locator("td:nth-child(3)").textContent(), /^\d+ sec$/);
});

claim("the password is not kept by the page and its cookie cannot be read by scripts", async () => {
  const kept = await page.evaluate(() => document.cookie + JSON.stringify({ ...localStorage, ...sessionStorage }));
  assert.ok(!kept.includes(PASSWORD), kept);
  assert.equal(await page.locator("input[type=password]").count(), 0);
  const cookies = await context.cookies();
  assert.ok(cookies.length > 0);
  for (const { name, httpOnly, secure, sameSite } of cookies) assert.deepEqual([httpOnly, secure, sameSite], [true, true, "Strict"], name);
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

claim("vehicles come in short, and the one that is looked at comes whole and stays live", async () => {
  assert.deepEqual(told.sent[0], { type: "subscribe", form: "summary" });
  const untouched = told.vehicles.filter((vehicle) => vehicle.vehicle_id === "CAR-1");
  assert.ok(untouched.length > 0 && untouched.every((vehicle) => vehicle.summary), "before anybody looks");
  const twin = await gateway.twin("CAR-1");
  await row("CAR-1").click();
  await page.locator("#drawer header", { hasText: /Online since \d/ }).waitFor();
  await page.locator("#drawer-body .signals tr").nth(3).waitFor();
  await page.locator("#drawer-body h3", { hasText: "Keys" }).waitFor();
  await page.locator("#drawer-body", { hasText: "No key" }).waitFor();
  // A car that names its functions is offered those, any other all of them.
  const functions = twin.capabilities.filter((name) => name !== "drive").length;
  assert.ok(await page.locator("#orders select option").count() > functions);
  told.vehicles = [];
  const place = page.locator("#drawer-body .signals tr:has(td[title='Vehicle.CurrentLocation.Latitude']) td").nth(1);
  for (let turn = 0; turn < 2; turn++) {
    const before = await place.textContent();
    await page.waitForFunction((old) => document.querySelector("#drawer-body td[title='Vehicle.CurrentLocation.Latitude'] + td").textContent !== old, before);
  }
  const ofForm = (isShort) => [...new Set(told.vehicles.filter((vehicle) => (vehicle.summary === true) === isShort).map((vehicle) => vehicle.vehicle_id))];
  assert.deepEqual(ofForm(false), ["CAR-1"]);
  assert.ok(!ofForm(true).includes("CAR-1"), "the one that is looked at never comes in short");
  await page.click("#drawer button[aria-label=Close]");
  await page.waitForSelector("#drawer", { state: "hidden" });
  assert.deepEqual(told.sent.findLast(({ type }) => type === "detail").vehicles, []);
});

claim("a vehicle that cannot be read whole says so, and is read when asked again", async () => {
  await page.route("**/v1/vehicles/PARKED-1", (route) => route.fulfill({ status: 503, json: { type: "about:blank", title: "not ready", status: 503 } }));
  await row("PARKED-1").click();
  const problem = page.locator("#drawer-body [role=alert]", { hasText: "not ready" });
  await problem.waitFor();
  assert.equal(await page.locator("#orders button:text-is('Lock')").isEnabled(), true, "orders do not wait for it");
  await shot("console-unread.png");
  await page.unroute("**/v1/vehicles/PARKED-1");
  await problem.getByRole("button", { name: "Try again" }).click();
  await page.locator("#drawer-body h3", { hasText: "Signals" }).waitFor();
  assert.equal(await problem.count(), 0);
});

claim("a lock is shown in its true state until it succeeded", async () => {
  await row("CAR-1").click();
  await page.click("#orders button:text-is('Lock')");
  await note().filter({ hasText: "Lock: succeeded" }).waitFor();
  await page.locator("#drawer .steps", { hasText: /accepted.*sent.*succeeded/ }).first().waitFor();
});

claim("an order to a car that is away waits, and says so", async () => {
  await row("PARKED-1").click();
  await page.locator("#drawer-title", { hasText: "PARKED-1" }).waitFor();
  await page.click("#orders button:text-is('Unlock')");
  await note().filter({ hasText: "Unlock: queued" }).waitFor();
  await page.locator("#orders .why", { hasText: "sent when it comes back" }).waitFor();
});

claim("taking the drive away asks twice", async () => {
  await row("CAR-3").click();
  await page.locator("#drawer-title", { hasText: "CAR-3" }).waitFor();
  await page.click("#orders button:text-is('Disable drive')");
  await page.locator("#orders button.sure", { hasText: "Confirm" }).waitFor();
  assert.equal(await note().textContent(), "");
  await page.click("#orders button.sure");
  // A car that has begun a trip meanwhile holds the order until it stands; one that stands obeys at once.
  const told = note().filter({ hasText: /Disable drive: (pending safe|succeeded)/ });
  await told.waitFor();
  if (/succeeded/.test(await told.textContent())) await row("CAR-3").locator("td:nth-child(7)", { hasText: "Disabled" }).waitFor();
});

claim("the order that waited is delivered when its car comes, before the operator's eyes", async () => {
  await row("PARKED-1").click();
  await page.locator("#drawer-title", { hasText: "PARKED-1" }).waitFor();
  gateway.drive(["PARKED-1"], "late");
  await page.locator("#drawer .steps", { hasText: /queued.*sent.*succeeded/ }).first().waitFor();
  await row("PARKED-1").locator("td:nth-child(2)", { hasText: "Online" }).waitFor();
});

claim("a renter's key is seen with what it permits and prohibits, and revoked after a second word", async () => {
  const { publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const { x, y } = publicKey.export({ format: "jwk" });
  const until = new Date(Date.now() + 3_600_000).toISOString();
  const wish = { vehicle_id: "CAR-1", profile: "cabin", from: new Date().toISOString(), until, renter: "anna", holder_key: { kty: "EC", crv: "P-256", x, y } };
  const { status, body } = await gateway.post("/v1/usage-requests", wish);
  assert.equal(status, 201, JSON.stringify(body));
  await row("CAR-1").click();
  const key = page.locator(`#drawer [data-key="${body.key.key_id}"]`);
  await key.locator(".tag.good", { hasText: "unlock doors" }).waitFor();
  await key.locator(".tag.no", { hasText: "drive" }).waitFor();
  await shot("console-key.png");
  await key.getByRole("button", { name: "Revoke now" }).click();
  await key.getByRole("button", { name: "Confirm: Revoke now" }).click();
  await key.waitFor({ state: "detached" });
  assert.equal((await gateway.get(`/v1/keys/${body.key.key_id}`)).body.state, "revoked");
});

claim("orders go to every marked vehicle, and say how many took them", async () => {
  for (const id of ["CAR-1", "CAR-2"]) await row(id).locator("input[type=checkbox]").check();
  await page.click(".bulk button:text-is('Locate')");
  await page.locator(".bulk p", { hasText: "Locate: 2 ordered, 0 refused" }).waitFor();
  await page.click(".bulk button:text-is('Clear')");
});

claim("a name with markup is shown as text and runs nothing", async () => {
  await row("CAR-2").click();
  await page.locator("#drawer header", { hasText: HOSTILE }).first().waitFor();
  assert.equal(await page.title(), "Cardea console");
  assert.equal(await page.locator("#console img").count(), 1, "the logo and no other image");
});

claim("the day of a car can be seen: track, speed and fuel", async () => {
  await page.click("#tab-track");
  await page.locator("#drawer .map[data-drawn=true]").waitFor();
  assert.equal(await page.locator("#drawer .uplot").count(), 2);
  await shot("console-track.png");
});

claim("a declined purchase raises an alert and is explained check by check", async () => {
  const { body } = await gateway.buy("iauth_browser", "ic_browser");
  assert.equal(body.approved, false);
  await page.locator('nav a[data-view="alerts"] .count', { hasText: "1" }).waitFor();
  await page.click("#drawer button[aria-label=Close]");
  await shot("console.png");
  await view("alerts");
  await page.click("#alerts .entry:has-text('CAR-2') a");
  await page.locator("#alert-detail").waitFor();
  await page.click("#alert-detail a:text-is('The explanation')");
  await page.locator("article[data-decision] .checks li", { hasText: "fail" }).first().waitFor();
  await page.locator("#decisions", { hasText: "STATION <b>7731</b>" }).waitFor();
  await shot("console-decision.png");
});

claim("a purchase far from its car is explained on a map, with the circle of what is allowed", async () => {
  const station = { station_id: "far", name: "FAR", position: { latitude: 41.9, longitude: 12.5 }, terminals: [{ network_id: "far-net" }] };
  assert.equal((await gateway.post("/v1/stations", station)).status, 201);
  await gateway.buy("iauth_far", "ic_browser", { network_id: "far-net", terminal_id: "f1", name: "FAR" });
  await page.click("#decisions li:has-text('FAR') a");
  await page.locator("article[data-decision]", { hasText: /It was [\d,.]+ km away/ }).waitFor();
  await page.locator("article[data-decision] .map[data-drawn=true]").waitFor();
  await shot("console-decision-map.png");
});

claim("the card is suspended where the fraud is seen, and reinstated", async () => {
  const card = page.locator("[data-card=card-1]");
  await card.getByRole("button", { name: "Suspend" }).click();
  await card.getByRole("button", { name: "Confirm: Suspend" }).click();
  await card.locator(".tag", { hasText: "suspended" }).waitFor();
  assert.equal((await gateway.get("/v1/cards/card-1")).body.status, "suspended");
  await card.getByRole("button", { name: "Reinstate" }).click();
  await card.locator(".tag", { hasText: "active" }).waitFor();
});

claim("stations are imported, and the lines that cannot be taken are named", async () => {
  await view("stations");
  await page.click("button:text-is('Import a file')");
  const csv = "id,brand,lat,lon\nS-1,Agip,45.07,7.68\nS-2,Q8,not a number,7.7\nS-3,Eni,45.09,7.66\n";
  await page.setInputFiles("input[type=file]", { name: "stations.csv", mimeType: "text/csv", buffer: Buffer.from(csv) });
  await page.fill("input[placeholder^='station_id:id']", "station_id:id,name:brand,latitude:lat,longitude:lon");
  await page.click("button:text-is('Import')");
  await page.locator("#import-result", { hasText: "2 new" }).waitFor();
  await page.locator(".rejected li", { hasText: "line 3" }).waitFor();
  await page.locator("tr[data-id='S-1']").waitFor();
  await shot("console-import.png");
});

claim("a draft of the rules is tried on what was bought before anybody lives by it", async () => {
  await view("rules");
  await page.locator("#draft").waitFor();
  await page.click("button:text('Try on recorded purchases')");
  await page.locator("#tried", { hasText: /[2-9] purchases judged again/ }).waitFor();
});

claim("an API key is made, shown once, and deleted", async () => {
  await view("api_keys");
  await page.getByLabel("Name", { exact: true }).fill("night desk");
  await page.click("button:text-is('Make key')");
  const secret = await page.textContent("#made-key");
  assert.match(secret, /^ck_/);
  assert.equal((await gateway.call("GET", "/v1/alerts", undefined, { authorization: `Bearer ${secret}` })).status, 200);
  const made = page.locator("tr", { hasText: "night desk" });
  await made.getByRole("button", { name: "Delete" }).click();
  await made.getByRole("button", { name: "Confirm: Delete" }).click();
  await made.waitFor({ state: "detached" });
  assert.equal((await gateway.call("GET", "/v1/alerts", undefined, { authorization: `Bearer ${secret}` })).status, 401);
});

claim("an alert is acknowledged in place", async () => {
  await view("alerts");
  await page.click("#alerts .entry:has-text('STATION') a");
  await page.click("#alert-detail button:text-is('Acknowledge')");
  await page.locator("#alert-detail .tag", { hasText: "acknowledged" }).waitFor();
  await shot("console-alert.png");
});

claim("it speaks German and Japanese", async () => {
  await view("account");
  await page.selectOption("select[aria-label=Language]", "de");
  await view("fleet");
  await page.locator("#chips", { hasText: "Vermietet" }).waitFor();
  await view("account");
  await page.selectOption("select[aria-label=Sprache]", "ja");
  await view("fleet");
  await page.locator("#chips", { hasText: "貸出中" }).waitFor();
  assert.equal(await page.getAttribute("html", "lang"), "ja");
  await shot("console-ja.png");
  await view("account");
  await page.selectOption("select[aria-label=言語]", "en");
  await view("fleet");
});

claim("a gateway killed under the open page is said, and costs neither the session nor an alert", async () => {
  await view("fleet");
  const port = new URL(gateway.url).port;
  const before = Number(await page.textContent('nav a[data-view="alerts"] .count'));
  await row("CAR-1").click();
  await page.locator("#drawer-body h3", { hasText: "Signals" }).waitFor();
  await gateway.kill();
  await page.locator("#banner", { hasText: "Connection lost" }).waitFor();
  assert.equal(await row("CAR-1").count(), 1, "what was known stays in sight");
  await shot("console-lost.png");
  // What is raised before the page is back must be told all the same.
  await context.setOffline(true);
  await gateway.start(port);
  await gateway.buy("iauth_meanwhile", "ic_browser", { name: "MEANWHILE" });
  await context.setOffline(false);
  await page.locator("#link-state", { hasText: "Live" }).waitFor();
  assert.equal(await page.locator("#login-form").count(), 0, "no new log-in");
  const said = told.sent.filter(({ type }) => type === "resume" || type === "detail");
  assert.deepEqual(said.map(({ type, form, vehicles }) => vehicles ?? `${type} ${form}`), ["resume summary", ["CAR-1"]]);
  await page.locator("#drawer header", { hasText: /Offline since \d/ }).waitFor();
  await page.locator('nav a[data-view="alerts"] .count', { hasText: String(before + 1) }).waitFor();
  await view("alerts");
  await page.locator("#alerts .entry", { hasText: "MEANWHILE" }).waitFor();
  await page.click("button:text('acknowledged')");
  await page.locator("#alerts .entry", { hasText: "STATION" }).waitFor();
});

claim("a page loaded anew after that is still logged in", async () => {
  await page.reload();
  await page.locator("#link-state", { hasText: "Live" }).waitFor();
});

claim("logging out closes the page and the session", async () => {
  await page.click("#logout");
  await page.waitForSelector("#login-form button[type=submit]");
  assert.equal(await page.evaluate(async () => (await fetch("/v1/session")).status), 401);
});

claim("nothing failed in the browser and the policy was never hit", async () => assert.deepEqual(faults, []));

await desk.run(async () => {
  await gateway.start();
  // An admin, who may do all that a day brings.
  assert.equal((await gateway.post("/v1/users", { name: "olga", role: "admin", password: PASSWORD })).status, 201);
  for (const id of ["CAR-1", "CAR-2", "CAR-3", "PARKED-1"]) {
    const lending = { profiles: ["cabin"], approval: "auto" };
    const body = { vehicle_id: id, ...(id === "CAR-1" && { lending }), ...(id === "CAR-2" && { name: HOSTILE }) };
    assert.equal((await gateway.post("/v1/vehicles", body)).status, 201);
  }
  const card = { card_id: "card-1", network_ref: "ic_browser", vehicle_id: "CAR-2", status: "active" };
  assert.equal((await gateway.post("/v1/cards", card)).status, 201);
  gateway.drive(["CAR-1", "CAR-2", "CAR-3"]);
});
