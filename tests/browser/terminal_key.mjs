// The terminal's key page: what it says, the car's true answers, languages, and life without a connection.

import assert from "node:assert/strict";

import { de } from "../../console/terminal/de.js";
import { en } from "../../console/terminal/en.js";
import { ja } from "../../console/terminal/ja.js";
import { isLocked, until } from "./phone.mjs";

export function keyClaims(claim, phone, gateway) {
  const { context, page } = phone;

  claim("the validity counts down and the key is said to be in the car only when the car has it", async () => {
    const seconds = async () => (await phone.text("#left")).split(":").reduce((sum, part) => sum * 60 + Number(part), 0);
    const before = await seconds();
    assert.ok(before > 3_500 && before <= 3_600, String(before));
    await page.waitForFunction((was) => document.getElementById("left").textContent !== was, await phone.text("#left"));
    assert.ok(await seconds() < before);
    await page.locator("#key-state", { hasText: en["key.delivered"] }).waitFor();
    assert.equal((await gateway.get(`/v1/keys/${phone.keyId}`)).body.state, "delivered");
    await phone.look("key");
  });

  claim("the private key cannot leave the browser, and the token is kept on the phone", async () => {
    const pair = await page.evaluate(() => new Promise((done, fail) => {
      indexedDB.open("cardea-terminal").onsuccess = (event) => {
        const reading = event.target.result.transaction("kept").objectStore("kept").get("holder/anna");
        reading.onerror = fail;
        reading.onsuccess = async () => {
          const { private_key, public_key } = reading.result;
          const attempts = ["jwk", "pkcs8"].map((format) => crypto.subtle.exportKey(format, private_key).then(() => "out", () => "kept"));
          done({ extractable: private_key.extractable, attempts: await Promise.all(attempts), jwk: await crypto.subtle.exportKey("jwk", public_key) });
        };
      };
    }));
    assert.deepEqual([pair.extractable, pair.attempts], [false, ["kept", "kept"]]);
    const { token } = await phone.own(`/v1/keys/${phone.keyId}`);
    // The token binds the public half: its 32 bytes stand in it as they are.
    assert.ok(Buffer.from(token, "base64url").includes(Buffer.from(pair.jwk.x, "base64url")));
    assert.ok(new Map(await phone.kept()).get("holdings/anna").includes(token));
  });

  claim("unlocking is done when the car has said so, not before, and the door is open then", async () => {
    await until("the car locks", async () => {
      await gateway.post("/v1/vehicles/CAR-1/commands?wait_ms=5000", { type: "lock" });
      return isLocked(await gateway.twin("CAR-1")) === true;
    });
    // The news of the order is held back: meanwhile nothing may be called done.
    let release;
    const held = new Promise((done) => { release = done; });
    await context.route("**/v1/commands/*", async (route) => {
      await held;
      await route.continue();
    });
    try {
      await phone.act("unlock_doors");
      await page.locator("#order", { hasText: en["do.unlock_doors"] }).waitFor();
      await page.waitForFunction(() => /accepted|sent|delivered/.test(document.getElementById("order").dataset.state));
      await until("the car unlocks", async () => isLocked(await gateway.twin("CAR-1")) === false);
      assert.doesNotMatch(await phone.text("#order"), new RegExp(en["order.succeeded"]));
      await phone.look("unlock-under-way");
    } finally {
      release();
    }
    await phone.order("succeeded");
    await context.unroute("**/v1/commands/*");
    await page.locator("#order", { hasText: en["order.succeeded"] }).waitFor();
    const [command] = (await gateway.get("/v1/commands?limit=1")).body.items;
    assert.deepEqual([command.type, command.state], ["unlock", "succeeded"]);
    await phone.look("unlocked");
  });

  claim("what the key prohibits is not offered, and every other permitted function is", async () => {
    await page.click("summary");
    const offered = await page.locator("button[data-function]").evaluateAll((all) => all.map((one) => one.dataset.function));
    const { permits } = await phone.own(`/v1/keys/${phone.keyId}`);
    assert.deepEqual(offered.sort(), permits.sort());
    assert.equal(await page.locator('button[data-function="drive"]').count(), 0);
    assert.ok(await page.isVisible('#prohibits li[data-function="drive"]'));
    await phone.act("climate");
    await page.locator("#order", { hasText: en["function.climate"] }).waitFor();
    await phone.order("succeeded");
  });

  claim("an answer that got lost is said as not known, and asking again is the same order", async () => {
    const before = (await gateway.get("/v1/commands?limit=100")).body.items.length;
    const keys = [];
    await context.route("**/actions", async (route) => {
      keys.push(route.request().headers()["idempotency-key"]);
      if (keys.length > 1) return route.continue();
      await route.fetch();
      await route.abort();
    });
    await phone.act("locate");
    await page.locator("#order", { hasText: en["order.unheard"] }).waitFor();
    await phone.look("unheard");
    assert.equal(keys.length, 1, "nothing is repeated by itself");
    await page.click("#order button");
    await phone.order("succeeded");
    await context.unroute("**/actions");
    assert.equal(keys[0], keys[1]);
    assert.equal((await gateway.get("/v1/commands?limit=100")).body.items.length, before + 1);
  });

  claim("reloading, or opening the page anew, shows the key in use", async () => {
    for (const open of [() => page.reload(), () => phone.open()]) {
      await open();
      await page.locator("#key-state", { hasText: en["key.delivered"] }).waitFor();
      assert.match(page.url(), new RegExp(phone.keyId));
      await page.locator("#order", { hasText: en["do.locate"] }).waitFor();
    }
  });

  claim("every text is there in German and Japanese, and the choice is kept", async () => {
    for (const [code, words] of Object.entries({ de, ja })) {
      assert.deepEqual(Object.keys(words), Object.keys(en));
      await page.selectOption("#language", code);
      await page.locator("#permits h2", { hasText: words["key.permits"] }).waitFor();
      assert.equal(await page.getAttribute("html", "lang"), code);
      assert.match(await phone.text("#prohibits"), new RegExp(words["function.drive"]));
      await phone.look(`key-${code}`);
    }
    await page.reload();
    await page.locator("#permits h2", { hasText: ja["key.permits"] }).waitFor();
    await page.selectOption("#language", "en");
  });

  claim("dark shows the same", async () => {
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await ground();
    await page.emulateMedia({ colorScheme: "dark" });
    assert.notEqual(await ground(), light);
    await page.locator("#key-state", { hasText: en["key.delivered"] }).waitFor();
    await phone.look("key-dark");
    await page.emulateMedia({ colorScheme: "light" });
  });

  claim("the page can be installed: the browser finds no fault in its manifest and its worker runs", async () => {
    const wire = await context.newCDPSession(page);
    const { errors, data, url } = await wire.send("Page.getAppManifest");
    assert.deepEqual([errors, new URL(url).pathname], [[], "/terminal/manifest.webmanifest"]);
    const manifest = JSON.parse(data);
    assert.deepEqual([manifest.start_url, manifest.scope, manifest.display], ["/terminal", "/terminal", "standalone"]);
    const sizes = await page.evaluate((icons) => Promise.all(icons.map(async ({ src }) => {
      const image = new Image();
      image.src = src;
      await image.decode();
      return `${image.naturalWidth}x${image.naturalHeight}`;
    })), manifest.icons.filter((icon) => icon.sizes !== "any"));
    assert.deepEqual(sizes, ["192x192", "512x512", "512x512"]);
    const scope = await page.evaluate(async () => (await navigator.serviceWorker.ready).scope);
    assert.equal(new URL(scope).pathname, "/terminal");
  });

  claim("without a connection the page opens, shows the kept key, and offers nothing that cannot be done", async () => {
    await page.waitForFunction(() => navigator.serviceWorker.controller !== null);
    await context.setOffline(true);
    try {
      await phone.open();
      await page.locator("#banner", { hasText: "Offline" }).waitFor();
      await page.locator("h1", { hasText: "Blue van" }).waitFor();
      assert.equal(await page.locator('#permits li[data-function="unlock_doors"]').count(), 1);
      assert.ok(await page.isDisabled('button[data-function="unlock_doors"]') && await page.isDisabled("#end"));
      await phone.look("offline");
      const cached = await phone.cached();
      assert.ok(cached.includes("/terminal") && !cached.some((path) => path.startsWith("/v1")), cached.join());
    } finally {
      await context.setOffline(false);
    }
    await page.locator("#banner:empty").waitFor({ state: "attached" });
    await page.waitForFunction(() => !document.querySelector('button[data-function="unlock_doors"]').disabled);
  });
}
