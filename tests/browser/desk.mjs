// A browser in front of a gateway of its own: what every chapter about the console begins with.

import { join } from "node:path";
import { chromium } from "playwright-core";

import { Claims } from "./claims.mjs";
import { Gateway } from "./gateway.mjs";

const { CARDEA, SIMULATOR, CHROMIUM, SCREENSHOTS } = process.env;
const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const PATIENCE_MS = 20_000;

export class Desk {
  /** `meant` = what the browser writes of refusals that a chapter asks for itself. */
  static async open({ patienceMs = PATIENCE_MS, flags = [], meant = /^$/ } = {}) {
    const desk = new Desk();
    desk.gateway = new Gateway(CARDEA, SIMULATOR);
    desk.browser = await chromium.launch({ executablePath: CHROMIUM, args: [...FLAGS, ...flags] });
    desk.context = await desk.browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1440, height: 900 } });
    desk.page = await desk.context.newPage();
    desk.page.setDefaultTimeout(patienceMs);
    /** What failed in the browser, without what is meant to: a refused log-in, a gateway that is away. */
    desk.faults = [];
    desk.page.on("pageerror", (error) => desk.faults.push(error.stack ?? String(error)));
    desk.page.on("console", (message) => {
      const said = `${message.text()} ${message.location().url}`;
      if (message.type() === "error" && !/status of 401|WebSocket|ERR_/.test(said) && !meant.test(said)) desk.faults.push(said);
    });
    desk.claims = new Claims();
    return desk;
  }

  claim = (name, test) => this.claims.claim(name, test);
  shot = (name) => this.page.screenshot({ path: join(SCREENSHOTS, name) });
  row = (id) => this.page.locator(`#vehicles tr[data-id="${id}"]`);
  note = () => this.page.locator("#orders p[role=status]");

  /** By the menu, as a person would. */
  view = (name) => this.page.click(`nav a[data-view="${name}"]`);

  async logInByKey(key = this.gateway.key) {
    // A gateway without users asks for a key at once.
    await this.page.locator("#way-key, #api-key").first().click();
    await this.page.fill("#api-key", key);
    await this.page.click("#login-form button[type=submit]");
  }

  async logIn(user, password) {
    await this.page.click("#way-password");
    await this.page.fill("#user", user);
    await this.page.fill("#password", password);
    await this.page.click("#login-form button[type=submit]");
  }

  run(prepare) {
    return this.claims.run({
      prepare, shot: (name) => this.shot(`${name}.png`), log: () => this.gateway.log,
      end: async () => {
        await this.browser.close();
        this.gateway.end();
      },
    });
  }
}
