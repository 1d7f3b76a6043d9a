// Starts the page: log-in, then the fleet live. The parts: link (wire), fleet (knowledge), list, map, drawer, inbox.

import { find, make, put, say } from "./dom.js";
import { Drawer } from "./drawer.js";
import { Fleet } from "./fleet.js";
import { Inbox } from "./inbox.js";
import { Link } from "./link.js";
import { List } from "./list.js";
import { Chart } from "./map.js";

const REDRAW_MS = 250;
const SUMMARY = [
  ["vehicles", "vehicles"], ["online", "online", "good"], ["moving", "moving"], ["rented", "rented"],
  ["immobilised", "drive disabled", "bad"], ["stale", "stale", "off"], ["alerts", "open alerts", "warn"],
];
const BANNERS = {
  connecting: "Connecting …",
  silent: "Nothing heard from the gateway for more than 5 s: what you see may be old.",
  lost: "Connection lost. Trying again; what you see is as it was.",
};
const STATES = { connecting: ["warn", "Connecting"], live: ["good", "Live"], silent: ["warn", "Silent"], lost: ["bad", "Lost"] };

async function start() {
  const answer = await fetch("/v1/session").catch(() => null);
  if (answer?.ok) showConsole(await answer.json());
  else showLogin(answer ? "" : "The gateway does not answer.");
}

function showLogin(problem) {
  find("console").hidden = true;
  find("login").hidden = false;
  say(find("login-problem"), problem);
  find("api-key").focus();
}

find("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = find("api-key");
  say(find("login-problem"), "");
  const body = JSON.stringify({ api_key: field.value.trim() });
  const headers = { "content-type": "application/json" };
  const answer = await fetch("/v1/session", { method: "POST", headers, body }).catch(() => null);
  if (!answer?.ok) {
    const problem = await answer?.json().catch(() => null);
    say(find("login-problem"), problem?.detail ?? "The gateway does not answer.");
    field.select();
    return;
  }
  field.value = "";
  showConsole(await answer.json());
});

find("logout").addEventListener("click", async () => {
  await fetch("/v1/session", { method: "DELETE" }).catch(() => null);
  // A fresh page forgets the fleet too.
  location.reload();
});

function showConsole(session) {
  if (session.role === "renter") {
    // The fleet is not theirs to watch; their page has its own log-in, in the same session.
    location.replace("/terminal");
    return;
  }
  find("login").hidden = true;
  find("console").hidden = false;
  say(find("caller"), `${session.subject} · ${session.role}`);
  const caller = { ...session, may_command: session.role === "admin" || session.role === "operator" };

  const fleet = new Fleet();
  let isStructureNew = true;
  let isInboxNew = true;
  const took = (frame) => {
    isStructureNew = true;
    isInboxNew ||= Boolean(frame.alerts?.length || frame.decisions?.length);
  };
  const link = new Link({
    snapshot: (frame) => {
      fleet.snapshot(frame);
      took(frame);
      recall(fleet).then(() => { isInboxNew = true; });
    },
    changes: (frame) => {
      fleet.add(frame);
      took(frame);
    },
    state: showState,
    ended: () => location.reload(),
  });
  const clock = () => link.now();

  const pick = (id, takeFocus) => {
    list.select(id);
    chart.select(id);
    drawer.open(id, takeFocus);
  };
  const list = new List(fleet, clock, pick);
  const chart = new Chart(list, clock, pick);
  const onClose = () => {
    const last = list.selected;
    list.select(null);
    chart.select(null);
    (list.rowOf(last) ?? find("search")).focus();
  };
  const drawer = new Drawer({ fleet, clock, link, caller, onClose });
  const inbox = new Inbox({ fleet, clock, caller, onPick: pick });

  let [ticked, due] = [0, 0];
  setInterval(() => {
    const began = performance.now();
    const isSecond = began - ticked >= 1_000;
    if (document.hidden || began < due || !(isStructureNew || isSecond)) return;
    if (isSecond) ticked = began;
    drawSummary(fleet.summary(clock()));
    list.refresh();
    chart.draw();
    drawer.refresh();
    if (isInboxNew) inbox.refresh();
    isStructureNew = isInboxNew = false;
    // A slow machine or a very large fleet draws less often rather than all the time.
    due = performance.now() + 3 * (performance.now() - began);
  }, REDRAW_MS);

  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.closest("input")) return;
    event.preventDefault();
    find("search").focus();
  });
}

/** What was decided and raised before the snapshot; it tells of open alerts only. */
async function recall(fleet) {
  const read = async (path) => {
    const answer = await fetch(path).catch(() => null);
    return answer?.ok ? ((await answer.json().catch(() => null))?.items ?? []) : [];
  };
  const [decisions, alerts] = await Promise.all([read("/v1/decisions?limit=100"), read("/v1/alerts?limit=100")]);
  // The feed is newer than these lists.
  fleet.add({
    decisions: decisions.filter((one) => !fleet.decisions.has(one.decision_id)),
    alerts: alerts.filter((one) => !fleet.alerts.has(one.alert_id)),
  });
}

function showState(state) {
  const [kind, text] = STATES[state];
  const badge = find("link-state");
  badge.className = kind;
  say(badge, text);
  const banner = find("banner");
  banner.hidden = state === "live" || (state === "connecting" && !banner.dataset.lost);
  banner.classList.toggle("lost", state === "lost");
  if (state === "lost") banner.dataset.lost = "yes";
  if (state === "live") delete banner.dataset.lost;
  say(banner, BANNERS[state] ?? "");
}

function drawSummary(sum) {
  const entries = SUMMARY.map(([key, title, kind]) => make("div", {},
    make("dt", {}, title), make("dd", { class: kind && sum[key] > 0 ? kind : null }, String(sum[key]))));
  const box = find("summary");
  const next = make("dl", {}, ...entries);
  if (box.textContent !== next.textContent) put(box, ...entries);
}

start();
