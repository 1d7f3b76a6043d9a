// A renter's phone for the terminal's test: a real browser with a small screen, and what the claims do with it.

import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium } from "playwright-core";

import { inspect } from "./inspect.mjs";

// A service worker does not start under a certificate that the browser does not know, and the test's CA is a new one.
const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--ignore-certificate-errors",
  "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
export const PATIENCE_MS = 60_000;
export const HOSTILE = '<img src=x onerror="document.title=\'owned\'">';

export class Phone {
  constructor(browser, context, page, { gateway, screenshots }) {
    Object.assign(this, { browser, context, page, gateway, screenshots, flaws: [], faults: [] });
    page.setDefaultTimeout(PATIENCE_MS);
    page.on("pageerror", (error) => this.faults.push(String(error)));
    page.on("console", (message) => {
      // Refusals and lost connections are written by the browser itself and expected.
      if (message.type() === "error" && !/status of 4\d\d|ERR_/.test(message.text())) this.faults.push(message.text());
    });
  }

  static async start({ chromium: executablePath, ...rest }) {
    const browser = await chromium.launch({ executablePath, args: FLAGS });
    const context = await browser.newContext({
      ignoreHTTPSErrors: true, viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, locale: "en-GB",
      geolocation: { latitude: 45.07, longitude: 7.68 }, permissions: ["geolocation"],
    });
    await context.addInitScript(countLocating);
    return new Phone(browser, context, await context.newPage(), rest);
  }

  /** Opens the page anew, whatever was open before. */
  async open(hash = "") {
    await this.page.goto("about:blank");
    await this.page.goto(`${this.gateway.url}/terminal${hash}`);
  }

  /** The whole length of it, but for a sheet, which lies over what is in sight. */
  async shot(name) {
    const fullPage = !(await this.page.isVisible("dialog[open]"));
    await this.page.screenshot({ path: join(this.screenshots, `terminal-${name}.png`), fullPage });
  }

  /** A screenshot of the view, and what is wrong with it for a hand and an eye. */
  async look(name) {
    await this.page.evaluate(() => scrollTo(0, 0));
    await this.shot(name);
    this.flaws.push(...(await inspect(this.page, AXE)).map((flaw) => `${name}: ${flaw}`));
  }

  text(selector) {
    return this.page.textContent(selector);
  }

  car(id) {
    return this.page.locator(`#cars button[data-vehicle="${id}"]`);
  }

  act(name) {
    return this.page.click(`button[data-function="${name}"]`);
  }

  order(state) {
    return this.page.waitForSelector(`#order[data-state="${state}"]`);
  }

  /** What the gateway tells the renter, by the page's own session. */
  own(path) {
    return this.page.evaluate(async (asked) => (await fetch(asked)).json(), path);
  }

  /** The sheet of one car, with the use chosen. */
  async pick(id, profile) {
    await this.open("#find");
    await this.car(id).click();
    await this.page.check(`#sheet input[value="${profile}"]`);
  }

  /** The paths that the service worker has kept. */
  cached() {
    return this.page.evaluate(async () => {
      const stores = await Promise.all((await caches.keys()).map((name) => caches.open(name)));
      const requests = (await Promise.all(stores.map((store) => store.keys()))).flat();
      return requests.map((one) => new URL(one.url).pathname);
    });
  }

  /** Everything in the page's database: `[name, value as JSON]`. */
  kept() {
    return this.page.evaluate(() => new Promise((done, fail) => {
      const opening = indexedDB.open("cardea-terminal");
      opening.onerror = fail;
      opening.onsuccess = () => {
        const store = opening.result.transaction("kept").objectStore("kept");
        const [names, values] = [store.getAllKeys(), store.getAll()];
        values.onsuccess = () => done(names.result.map((name, at) => [name, JSON.stringify(values.result[at])]));
      };
    }));
  }
}

/** How often a page asked where the phone is. */
function countLocating() {
  window.located = 0;
  const own = navigator.geolocation.getCurrentPosition.bind(navigator.geolocation);
  navigator.geolocation.getCurrentPosition = (...wishes) => {
    window.located += 1;
    own(...wishes);
  };
}

/** Asks again and again until it is so, or the time is over. */
export async function until(what, isSo) {
  for (const end = Date.now() + PATIENCE_MS; Date.now() < end;) {
    if (await isSo()) return;
    await new Promise((done) => setTimeout(done, 100)); // poll
  }
  throw new Error(`not in time: ${what}`);
}

export const isLocked = (vehicle) => vehicle.signals["Vehicle.Cabin.Door.Row1.DriverSide.IsLocked"]?.value;

/** A holder's public key of nobody in particular. */
export async function publicKey() {
  const pair = await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, true, ["sign"]);
  const { kty, crv, x, y } = await crypto.subtle.exportKey("jwk", pair.publicKey);
  return { kty, crv, x, y };
}
