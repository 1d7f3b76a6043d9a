// Tells of alerts to somebody who looks elsewhere: a tone and the browser's own notification, both only when wished for.

import { desk } from "../../lib/desk.svelte";
import type { Alert } from "../../lib/frames";
import { t, wire } from "../../lib/language.svelte";
import { link } from "../../lib/route.svelte";

const KEPT = "cardea-bell";
/** A burst rings once. */
const QUIET_MS = 3_000;

class Bell {
  hasSound = $state(localStorage.getItem(`${KEPT}-sound`) === "yes");
  hasNotes = $state(localStorage.getItem(`${KEPT}-notes`) === "yes" && globalThis.Notification?.permission === "granted");
  isBlocked = $state(false);
  private context: AudioContext | null = null;
  private rangAt = -Infinity;

  constructor() {
    desk.alertListeners.add((alerts) => this.ring(alerts));
  }

  setSound(wished: boolean) {
    this.hasSound = wished;
    keep("sound", wished);
    // Browsers let a page make a sound only after somebody touched it, as now.
    if (wished) this.beep();
  }

  async setNotes(wished: boolean): Promise<void> {
    const permission = wished && "Notification" in globalThis ? await Notification.requestPermission() : "denied";
    this.hasNotes = wished && permission === "granted";
    this.isBlocked = wished && !this.hasNotes;
    keep("notes", this.hasNotes);
  }

  private ring(alerts: Alert[]) {
    const now = performance.now();
    const [first] = alerts;
    if (!first || now - this.rangAt < QUIET_MS) return;
    this.rangAt = now;
    if (this.hasSound) this.beep();
    if (!this.hasNotes) return;
    const note = new Notification(`${wire("alert", first.kind)}${first.vehicle_id ? ` · ${first.vehicle_id}` : ""}`, {
      body: alerts.length > 1 ? `${first.text}\n${t("and_more", { n: alerts.length - 1 })}` : first.text, tag: first.alert_id, icon: "/console/icon.svg" });
    note.onclick = () => {
      window.focus();
      location.hash = link("alerts", first.alert_id);
    };
  }

  private beep() {
    this.context ??= new AudioContext();
    const { context } = this;
    const start = context.currentTime;
    for (const [offset, hertz] of [[0, 880], [0.18, 660]] as const) {
      const [tone, loudness] = [context.createOscillator(), context.createGain()];
      tone.frequency.value = hertz;
      loudness.gain.setValueAtTime(0.0001, start + offset);
      loudness.gain.exponentialRampToValueAtTime(0.2, start + offset + 0.02);
      loudness.gain.exponentialRampToValueAtTime(0.0001, start + offset + 0.16);
      tone.connect(loudness).connect(context.destination);
      tone.start(start + offset);
      tone.stop(start + offset + 0.17);
    }
  }
}

function keep(name: string, wished: boolean) {
  if (wished) localStorage.setItem(`${KEPT}-${name}`, "yes");
  else localStorage.removeItem(`${KEPT}-${name}`);
}

export const bell = new Bell();
