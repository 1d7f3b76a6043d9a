// The terminal when things are not plain: no reception, giving back, owners who decide, a gateway that is lost.

import assert from "node:assert/strict";

import { en } from "../../console/terminal/en.js";
import { until } from "./phone.mjs";

export function endClaims(claim, phone, gateway) {
  const { page } = phone;

  claim("a car without reception is said to have none: what is asked waits, and can be taken back", async () => {
    await gateway.loseCars();
    await until("the car is offline", async () => (await gateway.twin("CAR-1")).link.state === "offline");
    await phone.act("lock_doors");
    await phone.order("queued");
    assert.match(await phone.text("#order"), /The car has no reception/);
    await page.locator("#order b", { hasText: en["do.lock_doors"] }).waitFor();
    await phone.look("no-reception");
    await page.click("#order button");
    await phone.order("cancelled");
    const [command] = (await gateway.get("/v1/commands?limit=1")).body.items;
    assert.deepEqual([command.type, command.state], ["lock", "cancelled"]);
  });

  claim("giving the car back asks first, and is over only when the car has confirmed", async () => {
    await page.click("#end");
    await phone.look("end");
    await page.click(`#sheet button:text-is("${en["end.return_keep"]}")`);
    const rental = async () => (await gateway.get("/v1/rentals?limit=100")).body.items.find((one) => one.key_id === phone.keyId).state;
    assert.equal(await rental(), "active");
    await page.click("#end");
    await page.click(`#sheet button:text-is("${en["end.return"]}")`);
    await page.locator("#page", { hasText: en["end.ending"] }).waitFor();
    assert.equal(await rental(), "ending");
    assert.equal(await page.isVisible('button[data-function="unlock_doors"]'), false);
    await phone.look("ending");
    gateway.drive(["CAR-1", "CAR-2"]);
    await page.locator("#page", { hasText: en["end.ended"] }).waitFor();
    assert.equal(await rental(), "ended");
    await phone.look("ended");
  });

  claim("an owner's approval is waited for, and then the key is there", async () => {
    await phone.pick("CAR-2", "cabin");
    await page.click(`#request:text-is("${en["find.ask_owner"]}")`);
    const card = page.locator("[data-request]", { hasText: en["request.requested"] });
    await card.waitFor();
    await phone.look("waiting");
    const id = await card.getAttribute("data-request");
    assert.equal((await gateway.post(`/v1/usage-requests/${id}/approve`)).status, 200);
    const link = page.locator("a.row", { hasText: en["rental.active"] });
    await link.waitFor();
    await phone.look("home");
    await link.click();
    await page.locator("#key-state", { hasText: en["key.delivered"] }).waitFor();
  });

  claim("an owner's refusal is said", async () => {
    await phone.pick("PARKED-1", "cabin");
    await page.click("#request");
    const card = page.locator("[data-request]");
    await card.filter({ hasText: en["request.requested"] }).waitFor();
    assert.equal((await gateway.post(`/v1/usage-requests/${await card.getAttribute("data-request")}/decline`)).status, 200);
    await card.filter({ hasText: en["request.declined"] }).waitFor();
  });

  claim("a reservation for later is cancelled before it begins", async () => {
    await phone.open("#find");
    await page.selectOption("#start", "later");
    await page.waitForFunction(() => document.getElementById("start-at").value !== "");
    await phone.car("CAR-1").click();
    await page.click("#request");
    await page.locator("#key-state", { hasText: en["rental.reserved"] }).waitFor();
    assert.ok(await page.isDisabled('button[data-function="unlock_doors"]'));
    await phone.look("reserved");
    await page.click("#end");
    await page.click(`#sheet button:text-is("${en["end.cancel"]}")`);
    await page.locator("#page", { hasText: en["end.cancelled"] }).waitFor();
  });

  claim("a lost gateway is said and asked for again; one that is back knows the phone and shows the key", async () => {
    await phone.open();
    await page.locator("#key-state", { hasText: en["key.delivered"] }).waitFor();
    const port = new URL(gateway.url).port;
    await gateway.kill();
    await page.locator("#banner", { hasText: "Offline" }).waitFor();
    await page.waitForFunction(() => document.querySelector('button[data-function="unlock_doors"]').disabled);
    await gateway.start(port);
    await page.waitForFunction(() => !document.querySelector('button[data-function="unlock_doors"]').disabled);
    assert.equal(await page.locator("#code").count(), 0, "no new log-in");
    await page.locator("#key-state", { hasText: en["key.delivered"] }).waitFor();
  });

  claim("logging out closes the session and leaves no key on the phone", async () => {
    await page.click("#logout");
    await page.waitForSelector("#code");
    await phone.look("logged-out");
    assert.equal(await page.evaluate(async () => (await fetch("/v1/session")).status), 401);
    assert.deepEqual((await phone.kept()).map(([name]) => name), ["holder/anna"]);
  });
}
