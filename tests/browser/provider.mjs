// An identity provider that we did not write (npm oidc-provider), with two people: one whom it gives a role here, one not.

import { createServer } from "node:http";
import Provider from "oidc-provider";

export const CLIENT = "cardea";
export const SECRET = "a secret between the two";
const ROLES = { maria: ["cardea-operator"], nobody: [] };

export class IdentityProvider {
  /** Listens, so that its address is known; it answers when it knows its client's, which is known later. */
  async start() {
    const made = new Promise((done) => { this.made = done; });
    this.server = createServer((asked, answer) => void made.then((handle) => handle(asked, answer)));
    await new Promise((done) => this.server.listen(0, "127.0.0.1", done));
    this.issuer = `http://127.0.0.1:${this.server.address().port}`;
  }

  serve(gatewayUrl) {
    const provider = new Provider(this.issuer, {
      clients: [{ client_id: CLIENT, client_secret: SECRET, redirect_uris: [`${gatewayUrl}/v1/session/oidc/callback`], response_types: ["code"], grant_types: ["authorization_code"] }],
      claims: { openid: ["sub"], profile: ["roles"] },
      // Roles in the ID token, as companies' providers are set up.
      conformIdTokenClaims: false,
      pkce: { required: () => true },
      cookies: { keys: ["only for a test"] },
      findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, roles: ROLES[id] ?? [] }) }),
    });
    this.made(provider.callback());
  }

  /** As a person does at the provider's own pages: name and any password, then consent. */
  async logIn(page, name) {
    await page.fill("input[name=login]", name);
    await page.fill("input[name=password]", "any");
    await page.click("button[type=submit]");
    await page.click("button[type=submit]:has-text('Continue')");
  }

  end() {
    this.server.close();
    this.server.closeAllConnections();
  }
}
