// The renter's key pair, made here. The private half cannot be exported: it never leaves this browser, and the
// gateway learns the public half only.

import { Problem } from "./api.js";
import { keep, recall } from "./kept.js";

const CURVE = { name: "ECDSA", namedCurve: "P-256" };
const nameOf = (subject) => `holder/${subject}`;

export const isHolder = (name) => name.startsWith("holder/");

/** The public JWK of the renter's pair, which is made when there is none. */
export async function holderKey(subject) {
  const known = await recall(nameOf(subject));
  if (known) return publicOf(known.public_key);
  if (!crypto.subtle) throw new Problem("storage", { detail: "no WebCrypto" });
  const pair = await crypto.subtle.generateKey(CURVE, false, ["sign"]);
  // Kept before it is shown to anybody: a key bound to a pair that is lost would open nothing.
  await keep(nameOf(subject), { private_key: pair.privateKey, public_key: pair.publicKey });
  await navigator.storage?.persist?.().catch(() => false);
  return publicOf(pair.publicKey);
}

async function publicOf(key) {
  const { kty, crv, x, y } = await crypto.subtle.exportKey("jwk", key);
  return { kty, crv, x, y };
}
