// The views around the fleet: the gateway's health, the journal's proof, what is changed by hand, streets; and each view as
// it looks, light, dark and on a phone.

import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

import { town } from "./archive.mjs";
import { Desk } from "./desk.mjs";
import { graveFlaws } from "./inspect.mjs";

const desk = await Desk.open();
const { claim, gateway, page, row, shot, view } = desk;
const sheet = page.locator("dialog");
const save = () => sheet.locator("button[type=submit]").click();
const line = (id) => page.locator(`tr[data-id="${id}"]`);
const PHONE = { width: 390, height: 844 };
const DESKTOP = { width: 1440, height: 900 };

claim("the system view says what the gateway is and how full it is", async () => {
  await page.goto(gateway.url);
  await desk.logInByKey();
  await view("system");
  await page.locator(".facts", { hasText: /Version.*\d+\.\d+\.\d+/s }).waitFor();
  await page.locator("h2", { hasText: "Queues" }).waitFor();
  await page.locator("h2", { hasText: "Certificates" }).waitFor();
});

claim("the whole journal is verified on demand, and said to be intact", async () => {
  await view("audit");
  await page.click("#verification button:text-is('Verify the journal')");
  await page.locator("#verification[data-state=intact]", { hasText: /Intact: \d+ records/ }).waitFor();
  await page.locator("table tr", { hasText: "vehicle registered" }).first().waitFor();
});

claim("a car that loses its reception and comes back is seen to have done so", async () => {
  await view("fleet");
  await row("CAR-1").locator("td:nth-child(2)", { hasText: "Online" }).waitFor();
  await row("CAR-1").click();
  await page.click("#tab-link");
  await page.locator("#drawer li:first-child .what.good").waitFor();
  await gateway.loseCars();
  await page.locator("#drawer li:first-child .what.off").waitFor();
  gateway.drive(["CAR-1", "CAR-2"]);
  await page.locator("#drawer li:first-child .what.good").waitFor();
  await shot("console-link.png");
  await page.click("#drawer button[aria-label=Close]");
});

claim("a card is bound, limited and deleted by hand", async () => {
  await view("cards");
  await line("card-1").getByRole("button", { name: "Change" }).click();
  await sheet.getByLabel("A purchase at most").fill("150,5");
  await sheet.getByLabel("Vehicle", { exact: false }).first().fill("CAR-1");
  await shot("console-card.png");
  await save();
  await line("card-1").locator("td", { hasText: "150.50" }).waitFor();
  const { body } = await gateway.get("/v1/cards/card-1");
  assert.deepEqual([body.vehicle_id, body.limits.per_purchase_minor, body.limits.currency], ["CAR-1", 15_050, "EUR"]);
  await line("card-1").getByRole("button", { name: "Delete" }).click();
  await line("card-1").getByRole("button", { name: "Confirm: Delete" }).click();
  await line("card-1").waitFor({ state: "detached" });
});

claim("a station is added with its place picked on the map, changed and deleted", async () => {
  await view("stations");
  await page.click("button:text-is('Add station')");
  await sheet.getByLabel("ID", { exact: true }).fill("by-hand");
  await sheet.getByLabel("Name").fill("Corner pump");
  await sheet.locator(".map[data-drawn=true]").waitFor();
  await sheet.locator(".map").click({ position: { x: 90, y: 90 } });
  await page.waitForFunction(() => document.querySelector("dialog input[inputmode=decimal]").value !== "");
  await sheet.getByRole("button", { name: "Add terminal" }).click();
  await sheet.getByLabel("Network id").fill("corner-net");
  await shot("console-station.png");
  assert.deepEqual(await graveFlaws(page, process.env.AXE), []);
  await save();
  await line("by-hand").waitFor();
  const { body } = await gateway.get("/v1/stations/by-hand");
  assert.deepEqual([body.position_source, body.terminals[0].network_id], ["manual", "corner-net"]);
  assert.ok(Math.abs(body.position.latitude - 45) < 1, JSON.stringify(body.position));
  await line("by-hand").getByRole("button", { name: "Change" }).click();
  await sheet.getByLabel("Name").fill("Corner pump two");
  await save();
  await line("by-hand").locator("td", { hasText: "Corner pump two" }).waitFor();
  await line("by-hand").getByRole("button", { name: "Delete" }).click();
  await line("by-hand").getByRole("button", { name: "Confirm: Delete" }).click();
  await line("by-hand").waitFor({ state: "detached" });
});

claim("a vehicle's name and terms of lending are changed", async () => {
  await view("vehicles");
  await line("CAR-1").getByRole("button", { name: "Change" }).click();
  await sheet.getByLabel("Name").fill("Blue van");
  await sheet.getByLabel("Tank (l)").fill("60");
  await sheet.getByLabel("At most (min)").fill("240");
  await shot("console-vehicle.png");
  await save();
  await line("CAR-1").locator("td", { hasText: "Blue van" }).waitFor();
  const twin = await gateway.twin("CAR-1");
  assert.deepEqual([twin.tank_litres, twin.lending.max_minutes, twin.lending.profiles], [60, 240, ["cabin"]]);
});

claim("a rental is extended, and ended after a second word", async () => {
  const { publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const { x, y } = publicKey.export({ format: "jwk" });
  const at = (minutes) => new Date(Date.now() + minutes * 60_000).toISOString();
  const wish = { vehicle_id: "CAR-1", profile: "cabin", from: at(0), until: at(30), renter: "anna", holder_key: { kty: "EC", crv: "P-256", x, y } };
  const { status, body } = await gateway.post("/v1/usage-requests", wish);
  assert.equal(status, 201, JSON.stringify(body));
  await view("rentals");
  const rental = page.locator("tr[data-id]", { hasText: "anna" });
  await rental.getByRole("button", { name: "Extend" }).click();
  await shot("console-rental.png");
  await save();
  await page.locator("[role=status]", { hasText: "Extended to" }).waitFor();
  const { items } = (await gateway.get("/v1/rentals")).body;
  assert.ok(Date.parse(items[0].until) > Date.parse(wish.until) + 30 * 60_000);
  await rental.getByRole("button", { name: "End rental" }).click();
  await rental.getByRole("button", { name: "Confirm: End rental" }).click();
  await page.locator("[role=status]", { hasText: /Ended\.|Ending:/ }).waitFor();
});

claim("a card's record is taken out as a file with its journal hashes", async () => {
  await gateway.buy("iauth_views", "ic_views", { name: "EXPORTED" });
  await view("decisions");
  await page.click("button:text-is('Export')");
  await sheet.getByLabel("Card id").fill("card-2");
  const [file] = await Promise.all([page.waitForEvent("download"), save()]);
  assert.equal(file.suggestedFilename(), "card-card-2.csv");
  const text = Buffer.concat(await (await file.createReadStream()).toArray()).toString();
  assert.match(text.split("\n")[0], /journal_sha256/);
  assert.match(text, /EXPORTED/);
});

claim("streets of an archive lie under the cars, and what they cannot show is said once", async () => {
  await view("fleet");
  await page.locator("#map[data-drawn=true]").waitFor();
  await page.locator(".from", { hasText: "Town hall" }).waitFor();
  // Names and streets come a moment after what they are drawn on.
  await page.waitForTimeout(1_500);
  await shot("console-streets.png");
  assert.equal(await page.locator("#streetless").count(), 0);
});

claim("no view has a serious flaw for those who do not see or point, light, dark or on a phone", async () => {
  const names = [...await page.locator("nav a[data-view]").evaluateAll((links) => links.map((link) => link.dataset.view))];
  for (const [look, size, scheme] of [["", DESKTOP, "light"], ["dark-", DESKTOP, "dark"], ["phone-", PHONE, "light"]]) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.setViewportSize(size);
    for (const name of names) {
      await page.evaluate((hash) => { location.hash = hash; }, `#/${name}`);
      await page.waitForTimeout(500);
      await shot(`console-${look}${name}.png`);
      assert.deepEqual(await graveFlaws(page, process.env.AXE), [], `${look}${name}`);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(wide <= 0, `${look}${name} is ${wide} px wider than the screen`);
    }
    await page.evaluate(() => { location.hash = "#/fleet/CAR-1"; });
    await page.waitForSelector("#drawer-title");
    await shot(`console-${look}drawer.png`);
    assert.deepEqual(await graveFlaws(page, process.env.AXE), [], `${look}drawer`);
  }
  await page.click(".menu");
  await shot("console-phone-menu.png");
});

claim("nothing failed in the browser and the policy was never hit", async () => assert.deepEqual(desk.faults, []));

await desk.run(async () => {
  const file = join(gateway.folder, "town.pmtiles");
  writeFileSync(file, town(45.0605, 7.7252, 11));
  await gateway.start(0, [`map.pmtiles="${file}"`, 'map.attribution="Town hall"']);
  for (const id of ["CAR-1", "CAR-2"]) {
    assert.equal((await gateway.post("/v1/vehicles", { vehicle_id: id, lending: { profiles: ["cabin"], approval: "auto" } })).status, 201);
  }
  for (const [card_id, network_ref] of [["card-1", "ic_browser"], ["card-2", "ic_views"]]) {
    assert.equal((await gateway.post("/v1/cards", { card_id, network_ref, vehicle_id: "CAR-2", status: "active" })).status, 201);
  }
  gateway.drive(["CAR-1", "CAR-2"]);
});

