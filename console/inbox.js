// Alerts and card decisions, newest first, each with what it rests on.

import { find, make, put, say } from "./dom.js";
import { age, money, sentence, time, words } from "./fleet.js";

const SHOWN = 200;
const VERDICTS = { pass: ["good", "✓ pass"], fail: ["bad", "✗ fail"], unknown: ["warn", "? unknown"] };
const OUTCOMES = { approve: "good", approve_capped: "warn", step_up: "warn", decline: "bad" };
const SEVERITIES = { critical: "bad", high: "bad", major: "bad", warning: "warn", medium: "warn", minor: "warn" };

export class Inbox {
  constructor({ fleet, clock, caller, onPick }) {
    Object.assign(this, { fleet, clock, caller, onPick });
    this.tabs = [find("tab-alerts"), find("tab-decisions")];
    this.openDecisions = new Set();
    for (const tab of this.tabs) {
      tab.addEventListener("click", () => this.show(tab));
      tab.addEventListener("keydown", (event) => {
        if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
        const other = this.tabs.find((one) => one !== tab);
        this.show(other);
        other.focus();
      });
    }
  }

  show(chosen) {
    for (const tab of this.tabs) {
      const is = tab === chosen;
      tab.setAttribute("aria-selected", String(is));
      tab.tabIndex = is ? 0 : -1;
      find(tab.getAttribute("aria-controls")).hidden = !is;
    }
  }

  refresh() {
    const now = this.clock();
    const alerts = [...this.fleet.alerts.values()].sort(newest("opened_at"));
    const open = this.fleet.openAlerts().length;
    say(this.tabs[0], open ? `Alerts (${open})` : "Alerts");
    say(this.tabs[1], this.fleet.decisions.size ? `Card decisions (${this.fleet.decisions.size})` : "Card decisions");
    this.draw(find("alerts"), alerts.map((alert) => this.alert(alert, now)), "No alerts.");
    const decisions = [...this.fleet.decisions.values()].sort(newest("decided_at", "at"));
    this.draw(find("decisions"), decisions.slice(0, SHOWN).map((one) => this.decision(one, now)), "No card has been used yet.");
  }

  draw(list, entries, otherwise) {
    const top = list.scrollTop;
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    put(list, ...entries.slice(0, SHOWN));
    if (entries.length === 0) put(list, make("li", { class: "plain" }, otherwise));
    list.scrollTop = top;
    if (focused) list.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  }

  alert(alert, now) {
    const isOpen = !["resolved", "withdrawn", "closed"].includes(alert.state);
    const actions = [];
    if (isOpen && this.caller.may_command) {
      if (alert.state === "open" || alert.state === "opened") actions.push(this.alertButton(alert, "acknowledge", "Acknowledge"));
      actions.push(this.alertButton(alert, "resolve", "Resolve"));
    }
    return make("li", { class: isOpen ? "entry" : "entry closed" },
      make("div", { class: "top" },
        make("span", { class: `tag ${SEVERITIES[alert.severity] ?? ""}` }, words(alert.severity ?? "note")),
        make("b", {}, sentence(alert.kind ?? "alert")),
        this.vehicleLink(alert.vehicle_id, `alert-${alert.alert_id}`),
        make("span", { class: "when" }, time(alert.opened_at, now))),
      (alert.text ?? alert.detail ?? alert.title) && make("p", {}, alert.text ?? alert.detail ?? alert.title),
      make("div", { class: "top" }, make("span", { class: "muted" }, words(alert.state ?? "")), make("div", { class: "actions" }, ...actions)));
  }

  alertButton(alert, action, text) {
    const button = make("button", { type: "button", "data-focus": `${action}-${alert.alert_id}` }, text);
    button.addEventListener("click", async () => {
      button.disabled = true;
      const answer = await fetch(`/v1/alerts/${encodeURIComponent(alert.alert_id)}/${action}`, { method: "POST" }).catch(() => null);
      if (!answer?.ok) {
        const problem = await answer?.json().catch(() => null);
        say(button, problem?.detail ?? `${text}: not done, try again`);
        button.disabled = false;
        return;
      }
      const changed = await answer.json().catch(() => null);
      if (changed?.alert_id) this.fleet.add({ alerts: [changed] });
      this.refresh();
    });
    return button;
  }

  vehicleLink(id, focus) {
    return id && make("button", { type: "button", class: "link", "data-focus": focus, onclick: () => this.onPick(id, true) }, id);
  }

  decision(decision, now) {
    const id = decision.decision_id;
    const purchase = decision.purchase ?? {};
    const amount = money(decision.amount_minor ?? purchase.amount_minor ?? purchase.amount?.amount_minor,
      decision.currency ?? purchase.currency ?? purchase.amount?.currency);
    const checks = decision.checks ?? [];
    const failed = checks.filter((check) => check.verdict === "fail").map((check) => words(check.check));
    const unknown = checks.filter((check) => check.verdict === "unknown").map((check) => words(check.check));
    const why = [failed.length && `fails ${failed.join(", ")}`, unknown.length && `unknown ${unknown.join(", ")}`].filter(Boolean).join("; ");
    const box = make("details", { class: "entry", open: this.openDecisions.has(id) },
      make("summary", { "data-focus": `decision-${id}` },
        make("span", { class: "top" },
          make("span", { class: `tag ${OUTCOMES[decision.outcome] ?? ""}` }, words(decision.outcome ?? "")),
          make("b", {}, amount),
          make("span", {}, decision.merchant?.name ?? purchase.merchant?.name ?? ""),
          make("span", { class: "when" }, time(decision.decided_at ?? decision.at, now))),
        make("span", { class: "muted" }, why || "every check passed")),
      make("div", { class: "top" },
        this.vehicleLink(decision.vehicle_id, `decision-vehicle-${id}`),
        make("span", { class: "muted" }, `settlement ${words(decision.settlement ?? "–")}`)),
      make("ul", { class: "checks" }, ...checks.map((check) => this.check(check))),
      make("p", { class: "muted mono" }, id));
    box.addEventListener("toggle", () => {
      if (box.open) this.openDecisions.add(id);
      else this.openDecisions.delete(id);
    });
    return make("li", {}, box);
  }

  check(check) {
    const [kind, text] = VERDICTS[check.verdict] ?? ["", String(check.verdict)];
    const old = Number.isFinite(check.age_s) ? `${age(check.age_s * 1000)} old` : null;
    const evidence = [evidenceText(check.evidence), old].filter(Boolean).join(" · ");
    return make("li", {},
      make("span", { class: kind }, text),
      make("div", {},
        make("span", { class: "detail" }, make("b", {}, sentence(check.check)), check.detail ? `: ${check.detail}` : ""),
        evidence && make("p", { class: "evidence" }, evidence)));
  }
}

function newest(...fields) {
  const of = (entry) => fields.map((field) => entry[field]).find(Boolean) ?? "";
  return (a, b) => (of(a) < of(b) ? 1 : -1);
}

function evidenceText(evidence) {
  if (evidence === null || evidence === undefined) return "";
  if (typeof evidence !== "object") return String(evidence);
  const show = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));
  return Object.entries(evidence).map(([name, value]) => `${words(name)} ${show(value)}`).join(" · ");
}
