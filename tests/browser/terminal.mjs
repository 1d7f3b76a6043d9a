// The renter's terminal at the real gateway, on a phone's screen: from the access code to an unlocked door of a
// simulated car, and back. What the page says is held against what the gateway tells the admin.

import assert from "node:assert/strict";

import { Claims } from "./claims.mjs";
import { Gateway } from "./gateway.mjs";
import { HOSTILE, Phone, until } from "./phone.mjs";
import { confirmClaims } from "./terminal_confirm.mjs";
import { endClaims } from "./terminal_end.mjs";
import { findClaims } from "./terminal_find.mjs";
import { keyClaims } from "./terminal_key.mjs";

const { CARDEA, SIMULATOR, CHROMIUM, SCREENSHOTS } = process.env;

const gateway = new Gateway(CARDEA, SIMULATOR);
const phone = await Phone.start({ chromium: CHROMIUM, gateway, screenshots: SCREENSHOTS });
const claims = new Claims();
const { claim } = claims;

findClaims(claim, phone, gateway);
keyClaims(claim, phone, gateway);
confirmClaims(claim, phone, gateway);
endClaims(claim, phone, gateway);

claim("no view has a serious accessibility violation, a target too small to touch, or runs over the edge", async () => {
  assert.deepEqual(phone.flaws, []);
});

claim("nothing failed in the browser and the policy was never hit", async () => assert.deepEqual(phone.faults, []));

async function prepare() {
  await gateway.start();
  const lend = (approval) => ({ lending: { profiles: ["cabin"], approval } });
  const vehicles = [
    { vehicle_id: "CAR-1", name: "Blue van", tank_litres: 60 }, { vehicle_id: "CAR-2", name: HOSTILE, ...lend("owner") },
    { vehicle_id: "PARKED-1", name: "Yard car", ...lend("owner") }, { vehicle_id: "PARKED-2", ...lend("auto") },
  ];
  for (const vehicle of vehicles) assert.equal((await gateway.post("/v1/vehicles", vehicle)).status, 201);
  const made = await gateway.post("/v1/api-keys", { name: "anna's phone", role: "renter", subject: "anna" });
  assert.equal(made.status, 201);
  phone.code = made.body.api_key;
  gateway.drive(["CAR-1", "CAR-2"]);
  const isHeard = async () => Boolean((await gateway.twin("CAR-1")).signals["Vehicle.CurrentLocation.Latitude"]);
  await until("the cars tell where they are", isHeard);
}

await claims.run({
  prepare, shot: (name) => phone.shot(name), log: () => gateway.log,
  async end() {
    await phone.browser.close();
    gateway.end();
  },
});
