// Starts the renter's page: who is logged in, which view is shown, and the clock that refreshes it.

import { find, make, put, say } from "/console/dom.js";
import { Problem, ask, link, now } from "./api.js";
import { Confirmations } from "./confirm.js";
import { Find } from "./find.js";
import { Holdings, forgetHoldings } from "./holdings.js";
import { Home } from "./home.js";
import { icon } from "./icons.js";
import { KeyPage } from "./key.js";
import { keep, recall } from "./kept.js";
import { LANGUAGES, choose, moment, spoken, startLanguage, t } from "./language.js";
import { LogIn } from "./login.js";
import { closeSheet, problemText } from "./parts.js";

const TICK_MS = 1_000;
/** How soon a lost connection is looked for again. Only reading is repeated. */
const LOST_MS = 4_000;
const FIRST_LOST_MS = 1_000;
const SESSION = "session";

let holdings = null;
let confirmations = null;
let view = null;
let logInNote = null;
let due = 0;
let isRefreshing = false;
/** What the last reading was refused with. */
let refused = null;

async function start() {
  startLanguage();
  // Without the worker the page works, but for opening it offline.
  navigator.serviceWorker?.register("/terminal/worker.js", { scope: "/terminal", updateViaCache: "none" }).catch(() => null);
  try {
    await enter(await ask("GET", "/v1/session"));
  } catch (problem) {
    const known = await recall(SESSION);
    if (problem.isUnsure && known) await enter(known);
    else showLogIn(problem.isUnsure ? t("link.offline_empty") : "");
  }
  setInterval(tick, TICK_MS);
}

/** A session of somebody who is no renter is not ours: the console's stays open, one made here is closed. */
async function enter(session, isNew = false) {
  if (session.role !== "renter") {
    if (isNew) await ask("DELETE", "/v1/session").catch(() => null);
    showLogIn(t("login.not_renter"));
    return;
  }
  await forgetHoldings(session.subject);
  await keep(SESSION, { subject: session.subject, role: session.role }).catch(() => null);
  holdings = new Holdings(session.subject);
  await holdings.restore();
  logInNote = null;
  confirmations = new Confirmations({ holdings });
  if (!location.hash && link.isLost === false) await holdings.refresh().catch(() => null);
  openOnlyRental();
  route();
}

/** Whoever opens the page with one car in use wants its key. */
function openOnlyRental() {
  const active = holdings.rentals.filter((rental) => rental.state === "active");
  if (!location.hash && active.length === 1) history.replaceState(null, "", `#key/${active[0].key_id}`);
}

function showLogIn(note) {
  holdings = null;
  confirmations?.close();
  confirmations = null;
  logInNote = note;
  route();
}

function viewOf(hash) {
  if (!holdings) return new LogIn({ note: logInNote, enter: (session) => enter(session, true) });
  const keyId = hash.match(/^#key\/([\w-]+)$/)?.[1];
  if (keyId) return new KeyPage({ holdings, keyId });
  return hash === "#find" ? new Find({ holdings, go }) : new Home({ holdings });
}

function go(hash) {
  if (location.hash === hash || (hash === "#" && !location.hash)) route();
  else location.hash = hash;
}

function route() {
  view?.close?.();
  if (find("sheet").open) closeSheet();
  view = viewOf(location.hash);
  const isHome = view instanceof Home || view instanceof LogIn;
  find("top").hidden = view instanceof LogIn;
  find("back").hidden = isHome;
  find("logo").hidden = !isHome;
  put(find("back"), icon("back"));
  find("back").setAttribute("aria-label", t("app.back"));
  view.draw(find("page"));
  showFrame();
  scrollTo(0, 0);
  if (!(view instanceof LogIn)) find("title").focus({ preventScroll: true });
  due = 0;
  tick();
}

function showFrame() {
  say(find("title"), view.title);
  document.title = view instanceof LogIn ? t("app.title") : `${view.title} · ${t("app.title")}`;
  find("foot").hidden = false;
  find("logout").hidden = !holdings;
  say(find("logout"), t("app.logout"));
  say(find("caller"), holdings ? t("app.caller", { name: holdings.subject }) : "");
  say(find("language-label"), t("app.language"));
  const options = Object.entries(LANGUAGES).map(([code, name]) => make("option", { value: code, lang: code, selected: code === spoken() }, name));
  put(find("language"), ...options);
  showLink();
}

function showLink() {
  const banner = find("banner");
  const at = holdings?.heard_at;
  const lost = link.isLost && [at ? t("link.offline", { time: moment(at, now()) }) : t("link.offline_empty")];
  const words = make("p", {}, ...(lost || (refused ? problemText(refused) : [])));
  // Drawn again only when it reads differently: it is a live region.
  if (banner.textContent === (words.textContent && words.textContent + t("app.retry"))) return;
  put(banner, words.textContent && words, words.textContent && make("button", { type: "button", onclick: refresh }, t("app.retry")));
}

/** One reading at a time; what it could not read stays as it was, under the banner. */
async function refresh() {
  if (!view?.refresh || isRefreshing) return;
  isRefreshing = true;
  const asked = view;
  try {
    await asked.refresh();
    refused = null;
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    // A lost connection says so itself, and a session that is over has led to the log-in.
    refused = problem.isUnsure || problem.status === 401 ? null : problem;
  } finally {
    isRefreshing = false;
    due = asked === view ? performance.now() + (link.isLost ? LOST_MS : view.period_ms) : 0;
  }
  if (asked === view) say(find("title"), view.title);
  showLink();
}

function tick() {
  if (document.hidden || !view) return;
  view.tick?.();
  confirmations?.tick();
  showLink();
  if (performance.now() >= due) refresh();
}

link.addEventListener("change", () => {
  if (link.isLost) due = performance.now() + FIRST_LOST_MS;
  else confirmations?.wake();
  showLink();
  view?.tick?.();
});
link.addEventListener("ended", () => {
  if (holdings) showLogIn(t("login.over"));
});
addEventListener("hashchange", route);
addEventListener("online", refresh);
document.addEventListener("visibilitychange", () => {
  due = 0;
  confirmations?.wake();
  tick();
});

find("language").addEventListener("change", (event) => {
  choose(event.target.value);
  route();
  find("language").focus();
});

find("logout").addEventListener("click", async () => {
  try {
    await ask("DELETE", "/v1/session");
  } catch (problem) {
    // Without the gateway the session would stay open behind our back.
    if (problem.slug !== "unauthenticated") {
      refused = problem;
      showLink();
      return;
    }
  }
  await forgetHoldings();
  // A fresh page forgets what this one knows.
  location.replace("/terminal");
});

start();
