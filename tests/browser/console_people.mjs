// Who may use the console: users and their passwords, and the log-in at another house.

import assert from "node:assert/strict";

import { Desk } from "./desk.mjs";
import { graveFlaws } from "./inspect.mjs";
import { CLIENT, IdentityProvider, SECRET } from "./provider.mjs";

const FIRST = "the first long password";
const SECOND = "another long password";

// A wrong present password, a name that is taken, a session that has no password, and the provider has no picture.
const desk = await Desk.open({ meant: /status of 40[09]|favicon.ico/ });
const { claim, gateway, page, shot, view } = desk;
const provider = new IdentityProvider();
const user = (name) => page.locator("tr[data-id]", { hasText: name });
const sheet = page.locator("dialog");

claim("an admin adds a user, and a weak password is refused before it is sent", async () => {
  await page.goto(gateway.url);
  await desk.logInByKey();
  await view("users");
  await page.locator(".empty", { hasText: "No user yet" }).waitFor();
  await shot("console-users-empty.png");
  await page.click("button:text-is('Add user')");
  await sheet.getByLabel("User name").fill("anna");
  await sheet.getByLabel("Password").fill("short");
  await sheet.getByRole("button", { name: "Add", exact: true }).click();
  assert.equal(await sheet.count(), 1, "the sheet stays");
  await sheet.getByRole("button", { name: "Suggest one" }).click();
  assert.match(await sheet.getByLabel("Password").inputValue(), /^(\w{5}-){3}\w{5}$/);
  await sheet.getByLabel("Password").fill(FIRST);
  assert.deepEqual(await graveFlaws(page, process.env.AXE), []);
  await shot("console-user-add.png");
  await sheet.getByRole("button", { name: "Add", exact: true }).click();
  await user("anna").locator(".tag", { hasText: "may log in" }).waitFor();
});

claim("a name that is taken is refused with its reason, in the sheet", async () => {
  await page.click("button:text-is('Add user')");
  await sheet.getByLabel("User name").fill("Anna");
  await sheet.getByLabel("Password").fill(FIRST);
  await sheet.getByRole("button", { name: "Add", exact: true }).click();
  await sheet.getByRole("alert").waitFor();
  await page.keyboard.press("Escape");
  await sheet.waitFor({ state: "detached" });
});

claim("a user's role is changed", async () => {
  await user("anna").getByRole("button", { name: "Change" }).click();
  await sheet.getByLabel("Role").selectOption("auditor");
  await sheet.getByRole("button", { name: "Save" }).click();
  await user("anna").locator("td", { hasText: "auditor" }).waitFor();
  await shot("console-users.png");
});

claim("the user logs in, and sees what an auditor may", async () => {
  await page.click("#logout");
  await desk.logIn("anna", FIRST);
  await page.locator("#link-state", { hasText: "Live" }).waitFor();
  assert.equal(await page.locator('nav a[data-view="api_keys"]').count(), 0);
  await view("cards");
  await page.locator("h1", { hasText: "Cards" }).waitFor();
  assert.equal(await page.locator("button:text-is('Add card')").count(), 0);
});

claim("a user changes their own password, and only with the present one", async () => {
  await view("account");
  const change = async (old) => {
    await page.getByLabel("Present password").fill(old);
    await page.getByLabel("New password").fill(SECOND);
    await page.getByLabel("Once more").fill(SECOND);
    await page.getByRole("button", { name: "Change password" }).click();
  };
  await change("not the present one");
  await page.locator(".problem").waitFor();
  await change(FIRST);
  await page.locator("[role=status]", { hasText: "Changed." }).waitFor();
  await shot("console-account.png");
  assert.equal(await page.locator("#console").count(), 1, "this session goes on");
  await page.click("#logout");
  await desk.logIn("anna", FIRST);
  await page.locator("#login-problem", { hasText: /.{6}/ }).waitFor();
  await desk.logIn("anna", SECOND);
  await page.locator("#link-state", { hasText: "Live" }).waitFor();
});

claim("a disabled user's open page says that the session is over, and what was seen stays", async () => {
  const { items } = (await gateway.get("/v1/users")).body;
  const { user_id } = items.find(({ name }) => name === "anna");
  assert.equal((await gateway.call("PATCH", `/v1/users/${user_id}`, { disabled: true })).status, 200);
  await page.locator("#login.above").waitFor();
  await desk.logIn("anna", SECOND);
  await page.locator("#login-problem", { hasText: /.{6}/ }).waitFor();
});

claim("a deleted user is gone after a second word", async () => {
  await desk.logInByKey();
  await page.locator("#link-state", { hasText: "Live" }).waitFor();
  await view("users");
  await user("anna").locator(".tag", { hasText: "disabled" }).waitFor();
  await user("anna").getByRole("button", { name: "Delete" }).click();
  await user("anna").getByRole("button", { name: "Confirm: Delete" }).click();
  await user("anna").waitFor({ state: "detached" });
  await page.click("#logout");
});

claim("the way that was taken is offered first the next time", async () => {
  await page.waitForSelector("#way-key[aria-selected=true]");
  await page.reload();
  await page.waitForSelector("#api-key");
});

claim("somebody logs in at the company's provider, in the role it gives them", async () => {
  await page.locator("#oidc", { hasText: "Continue with Company log-in" }).click();
  await provider.logIn(page, "maria");
  await page.locator("#caller", { hasText: "maria" }).waitFor();
  assert.match(await page.textContent("#caller"), /operator/);
  await page.locator("#link-state", { hasText: "Live" }).waitFor();
  await view("account");
  await page.locator("#content", { hasText: "has no password here" }).waitFor();
  assert.equal(await page.locator("input[type=password]").count(), 0, "nothing to fill in that could not be changed");
  const refused = await page.evaluate(async (wish) => {
    const headers = { "content-type": "application/json" };
    return (await fetch("/v1/session/password", { method: "PUT", headers, body: JSON.stringify(wish) })).status;
  }, { old: "what she never had here", new: SECOND });
  assert.equal(refused, 409);
  await page.click("#logout");
  await page.waitForSelector("#oidc");
});

claim("one whom it gives no role here comes back with the reason, once", async () => {
  await desk.context.clearCookies();
  await page.reload();
  await page.click("#oidc");
  await provider.logIn(page, "nobody");
  await page.locator("#login-problem", { hasText: "no role" }).waitFor();
  await shot("console-login-refused.png");
  assert.equal(new URL(page.url()).search, "");
  assert.deepEqual(await graveFlaws(page, process.env.AXE), []);
  await page.reload();
  await page.waitForSelector("#oidc");
  assert.equal(await page.textContent("#login-problem"), "");
});

claim("nothing failed in the browser and the policy was never hit", async () => assert.deepEqual(desk.faults, []));

await desk.run(async () => {
  await provider.start();
  const wish = (name, value) => `oidc.${name}="${value}"`;
  await gateway.start(0, [wish("issuer", provider.issuer), wish("client_id", CLIENT), wish("client_secret", SECRET), wish("name", "Company log-in")]);
  provider.serve(gateway.url);
});
provider.end();
