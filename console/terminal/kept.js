// What stays on this phone (IndexedDB): the holder's key pair, the keys with their tokens, and the last known rentals.
// Never the access code. Everything of a renter is kept under their name.

import { Problem } from "./api.js";

const DATABASE = "cardea-terminal";
const STORE = "kept";

let opened = null;

function open() {
  opened ??= new Promise((done, fail) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => done(request.result);
    request.onerror = () => fail(request.error);
  });
  return opened;
}

async function step(mode, work) {
  const database = await open();
  return new Promise((done, fail) => {
    const transaction = database.transaction(STORE, mode);
    const request = work(transaction.objectStore(STORE));
    transaction.oncomplete = () => done(request?.result);
    transaction.onabort = () => fail(transaction.error);
  });
}

/** What is kept under the name; null when nothing is, or when this browser keeps nothing. */
export async function recall(name) {
  return (await step("readonly", (store) => store.get(name)).catch(() => null)) ?? null;
}

/** Keeps it, or throws a `storage` problem. */
export async function keep(name, value) {
  await step("readwrite", (store) => store.put(value, name)).catch((error) => {
    throw new Problem("storage", { detail: String(error?.message ?? error) });
  });
}

/** Forgets what is kept under names that `isOver` picks. */
export async function forget(isOver) {
  const names = await step("readonly", (store) => store.getAllKeys()).catch(() => []);
  for (const name of names.filter(isOver)) await step("readwrite", (store) => store.delete(name)).catch(() => null);
}
