// Keeps the page's own files for when there is no connection. The network comes first, so that a new gateway brings
// a new page; what is not in the list (above all the gateway's answers) is not touched and never kept.

const FILES = [
  "/terminal",
  "/terminal/api.js",
  "/terminal/confirm.js",
  "/terminal/de.js",
  "/terminal/en.js",
  "/terminal/find.js",
  "/terminal/holder.js",
  "/terminal/holdings.js",
  "/terminal/home.js",
  "/terminal/icon-192.png",
  "/terminal/icon-512.png",
  "/terminal/icon-maskable-512.png",
  "/terminal/icons.js",
  "/terminal/ja.js",
  "/terminal/kept.js",
  "/terminal/key.js",
  "/terminal/language.js",
  "/terminal/login.js",
  "/terminal/manifest.webmanifest",
  "/terminal/orders.js",
  "/terminal/parts.js",
  "/terminal/request.js",
  "/terminal/terminal.css",
  "/terminal/terminal.js",
  "/console/dom.js",
  "/console/icon.svg",
];
const CACHE = "cardea-terminal";
/** A connection that is there and carries nothing is worse than none. */
const PATIENCE_MS = 4_000;

self.addEventListener("install", (event) => {
  const fresh = FILES.map((file) => new Request(file, { cache: "reload" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(fresh)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  const { origin, pathname } = new URL(url);
  if (method !== "GET" || origin !== self.location.origin || !FILES.includes(pathname)) return;
  event.respondWith(fromNetwork(pathname).catch(() => fromCache(pathname)));
});

async function fromNetwork(pathname) {
  const answer = await fetch(pathname, { cache: "no-cache", signal: AbortSignal.timeout(PATIENCE_MS) });
  // A fault of the gateway is not a new page.
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const cache = await caches.open(CACHE);
  await cache.put(pathname, answer.clone());
  return answer;
}

async function fromCache(pathname) {
  const cache = await caches.open(CACHE);
  return (await cache.match(pathname)) ?? Response.error();
}
