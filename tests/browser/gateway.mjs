// A gateway of its own for the browser test: the real program on free ports, its cars, and its callers.

import { spawn, execFileSync } from "node:child_process";
import { createHmac } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { request } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const SECRET = "whsec_test_secret";

export class Gateway {
  constructor(cardea, simulator) {
    Object.assign(this, { cardea, simulator, children: [] });
    this.folder = mkdtempSync(join(tmpdir(), "cardea-browser-"));
    const made = execFileSync(cardea, ["init", "--dir", join(this.folder, "fleet")], { encoding: "utf8" });
    const { config, admin_key, ca } = JSON.parse(made.trim().split("\n").at(-1));
    Object.assign(this, { config, key: admin_key, ca: readFileSync(ca) });
  }

  /** Starts it and waits for its `ready` line. `port` 0 = a free one; `wishes` are settings like `oidc.name="X"`, which a
   * start anew keeps. */
  async start(port = 0, wishes = this.wishes ?? []) {
    this.wishes = wishes;
    const sets = [...wishes, `http.listen=127.0.0.1:${port}`, "mqtt.listen=127.0.0.1:0", "metrics.listen=127.0.0.1:0",
      `payments.stripe.secrets=["${SECRET}"]`].flatMap((set) => ["--set", set]);
    this.server = this.spawn(this.cardea, ["serve", "--config", this.config, ...sets]);
    const lines = createInterface({ input: this.server.stdout });
    const ended = new Promise((_, fail) => this.server.once("exit", (code) => fail(new Error(`the gateway ended: ${code}\n${this.log}`))));
    const line = await Promise.race([new Promise((done) => lines.once("line", done)), ended]);
    const ready = JSON.parse(line);
    this.url = ready.http;
    this.mqtt = ready.mqtt;
  }

  spawn(program, args) {
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
    this.log = "";
    child.stderr.on("data", (chunk) => { this.log = (this.log + chunk).slice(-20_000); });
    this.children.push(child);
    return child;
  }

  async kill() {
    const gone = new Promise((done) => this.server.once("exit", done));
    this.server.kill("SIGKILL");
    await gone;
  }

  /** Cars that drive about, each with an enrolled certificate. Again after `loseCars`, they are the same cars; a second
   * group beside the first has a folder of its own. */
  drive(ids, group = "cars") {
    const certs = join(this.folder, group);
    for (const id of ids.filter((one) => !existsSync(join(certs, one)))) {
      execFileSync(this.cardea, ["enroll", "--config", this.config, "--vehicle", id, "--out", join(certs, id)]);
    }
    this.cars = this.spawn(this.simulator, ["drive", "--mqtt", this.mqtt, "--certs", certs, "--rate", "5"]);
  }

  /** The cars lose their reception, all at once and without a word. */
  async loseCars() {
    const gone = new Promise((done) => this.cars.once("exit", done));
    this.cars.kill("SIGKILL");
    await gone;
  }

  end() {
    for (const child of this.children) if (child.exitCode === null) child.kill("SIGKILL");
    rmSync(this.folder, { recursive: true, force: true });
  }

  get(path) {
    return this.call("GET", path);
  }

  async twin(id) {
    return (await this.get(`/v1/vehicles/${id}`)).body;
  }

  post(path, body, headers) {
    return this.call("POST", path, body, headers);
  }

  /** As the admin, unless the headers say otherwise. */
  call(method, path, body, headers = { authorization: `Bearer ${this.key}` }) {
    const text = body && JSON.stringify(body);
    const options = { method, ca: this.ca, headers: { ...(text && { "content-type": "application/json" }), ...headers } };
    return new Promise((done, fail) => {
      const call = request(this.url + path, options, (answer) => {
        let received = "";
        answer.on("data", (chunk) => { received += chunk; });
        answer.on("end", () => done({ status: answer.statusCode, body: JSON.parse(received || "null") }));
      });
      call.on("error", fail);
      call.end(text);
    });
  }

  /** A purchase with a fleet card, signed as the payment network signs; what is not wished for otherwise is a fill. */
  buy(id, card, { amount = 6240, currency = "eur", ...place } = {}) {
    const now = Math.floor(Date.now() / 1000);
    const event = {
      id: `evt_${id}`, type: "issuing_authorization.request", created: now,
      data: { object: {
        id, amount, currency, created: now, card: { id: card, last4: "4242", status: "active" },
        merchant_data: { category: "automated_fuel_dispensers", category_code: "5542", name: "STATION <b>7731</b>", network_id: "net", terminal_id: "t1", country: "IT", ...place },
        pending_request: { amount, currency, is_amount_controllable: true, merchant_amount: amount },
      } },
    };
    const signature = createHmac("sha256", SECRET).update(`${now}.${JSON.stringify(event)}`).digest("hex");
    return this.post("/v1/payments/stripe", event, { "stripe-signature": `t=${now},v1=${signature}` });
  }
}
