// Stripe's own SDK signs test events and reads our answers; the gateway is the real program.
// Claims: the flow request -> answer -> created -> transaction is accepted; a changed body, an old and a far-future
// signature are refused (the SDK itself would take the far future); what we verify, the SDK verifies too.

import assert from "node:assert/strict";
import Stripe from "stripe";
import { Gateway } from "../browser/gateway.mjs";

const SECRET = "whsec_test_secret";
const stripe = new Stripe("sk_test_not_used");
const gateway = new Gateway(process.env.CARDEA, "no simulator is needed");

const now = () => Math.floor(Date.now() / 1000);

function sign(payload, timestamp = now(), secret = SECRET) {
  return stripe.webhooks.generateTestHeaderString({ payload, secret, timestamp });
}

/** Sends the very bytes that were signed. */
async function send(payload, signature) {
  const { request } = await import("node:https");
  const headers = { "content-type": "application/json", "stripe-signature": signature };
  return new Promise((done, fail) => {
    const call = request(`${gateway.url}/v1/payments/stripe`, { method: "POST", ca: gateway.ca, headers }, (answer) => {
      let text = "";
      answer.on("data", (chunk) => { text += chunk; });
      answer.on("end", () => done({ status: answer.statusCode, headers: answer.headers, body: JSON.parse(text) }));
    });
    call.on("error", fail);
    call.end(payload);
  });
}

const event = (id, type, object) => JSON.stringify({
  id, object: "event", api_version: Stripe.API_VERSION, created: now(), type, livemode: false, pending_webhooks: 1, request: null,
  data: { object },
}, null, 2);

const merchant_data = { category: "automated_fuel_dispensers", category_code: "5542", name: "AGIP ENI", city: "Torino", country: "IT",
  postal_code: "10121", state: null, network_id: "9876543210", terminal_id: "77", tax_id: null, url: null };

const authorization = (id, card, more = {}) => ({
  id, object: "issuing.authorization", amount: 0, approved: false, currency: "eur", created: now(), status: "pending",
  card: { id: card, object: "issuing.card", last4: "4242", status: "active", metadata: {} }, merchant_data,
  pending_request: { amount: 5000, currency: "eur", is_amount_controllable: true, merchant_amount: 5000, merchant_currency: "eur" },
  fleet: { cardholder_prompt_data: { driver_id: "017", vehicle_number: "SDK-1", odometer: 48211 } }, fuel: null,
  metadata: {}, request_history: [], transactions: [], ...more,
});

const claims = {
  async "a signature of the SDK is taken and the purchase is approved"() {
    const payload = event("evt_sdk_1", "issuing_authorization.request", authorization("iauth_sdk_1", "ic_rented"));
    const answer = await send(payload, sign(payload));
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    assert.equal(answer.body.approved, true, JSON.stringify(answer.body));
    assert.ok(answer.headers["stripe-version"]);
    assert.ok(Object.values(answer.body.metadata).every((value) => typeof value === "string"), "metadata are texts");
  },
  async "a purchase with the card of a car that nobody rented is declined"() {
    const payload = event("evt_sdk_2", "issuing_authorization.request", authorization("iauth_sdk_2", "ic_idle"));
    const { status, body } = await send(payload, sign(payload));
    assert.deepEqual([status, body.approved, body.metadata.outcome], [200, false, "decline"]);
  },
  async "what follows the answer is acknowledged, once and again"() {
    const created = event("evt_sdk_3", "issuing_authorization.created",
      authorization("iauth_sdk_1", "ic_rented", { amount: 5000, approved: true, pending_request: null }));
    const transaction = event("evt_sdk_4", "issuing_transaction.created", {
      id: "ipi_sdk_1", object: "issuing.transaction", type: "capture", amount: -4870, currency: "eur", created: now(),
      authorization: "iauth_sdk_1", card: "ic_rented", cardholder: "ich_1", merchant_data,
      purchase_details: { fuel: { type: "diesel", unit: "liter", quantity_decimal: "28.91", unit_cost_decimal: "168.5" } },
    });
    const closed = event("evt_sdk_5", "issuing_authorization.updated",
      authorization("iauth_sdk_1", "ic_rented", { amount: 4870, approved: true, status: "closed", pending_request: null, transactions: [{ id: "ipi_sdk_1" }] }));
    for (const payload of [created, transaction, transaction, closed]) {
      const { status, body } = await send(payload, sign(payload));
      assert.equal(status, 200, JSON.stringify(body));
    }
  },
  async "the far future is refused, although the SDK takes it"() {
    const payload = event("evt_sdk_6", "issuing_authorization.request", authorization("iauth_sdk_6", "ic_rented"));
    const future = sign(payload, now() + 86_400 * 365);
    assert.ok(stripe.webhooks.constructEvent(payload, future, SECRET), "the SDK takes it");
    assert.equal((await send(payload, future)).status, 401);
    assert.equal((await send(payload, sign(payload, now() + 400))).status, 401);
  },
  async "an old, a foreign and a damaged signature are refused"() {
    const payload = event("evt_sdk_7", "issuing_authorization.request", authorization("iauth_sdk_7", "ic_rented"));
    assert.equal((await send(payload, sign(payload, now() - 400))).status, 401);
    assert.equal((await send(payload, sign(payload, now(), "whsec_another"))).status, 401);
    assert.equal((await send(payload.replace("5000", "9000"), sign(payload))).status, 401);
  },
  async "our vector is the SDK's"() {
    const payload = '{"id":"evt_test","type":"issuing_authorization.request"}';
    assert.equal(sign(payload, 1_700_000_000),
      "t=1700000000,v1=a46c36abd4564fc2c350b6c21e5a8a24cf049cb2b1fee0f2a734e386bb0ce5f1");
  },
};

async function furnish() {
  const rfc3339 = (ms) => new Date(Date.now() + ms).toISOString();
  for (const vehicle of ["SDK-1", "SDK-2"]) {
    assert.equal((await gateway.post("/v1/vehicles", { vehicle_id: vehicle })).status, 201);
  }
  for (const [network_ref, vehicle_id] of [["ic_rented", "SDK-1"], ["ic_idle", "SDK-2"]]) {
    assert.equal((await gateway.post("/v1/cards", { network_ref, vehicle_id, status: "active" })).status, 201);
  }
  const wish = { vehicle_id: "SDK-1", profile: "drive", renter: "ann", from: rfc3339(0), until: rfc3339(3_600_000),
    holder_key: { kty: "OKP", crv: "Ed25519", x: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" } };
  const usage = await gateway.post("/v1/usage-requests", wish);
  assert.equal(usage.status, 201, JSON.stringify(usage.body));
}

let passed = 0;
let failed = 0;
try {
  await gateway.start();
  await furnish();
  for (const [claim, check] of Object.entries(claims)) {
    try {
      await check();
      passed += 1;
      console.log(`ok      ${claim}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED  ${claim}\n${error.stack}\n${gateway.log}`);
    }
  }
} catch (error) {
  failed += 1;
  console.log(`FAILED  it did not start\n${error.stack}\n${gateway.log ?? ""}`);
} finally {
  gateway.end();
}
console.log(`test result: ${failed ? "FAILED" : "ok"}. ${passed} passed; ${failed} failed`);
process.exit(failed ? 1 : 0);
