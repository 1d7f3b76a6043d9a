// The one store: who is logged in, the link, the fleet, and when to draw. Frames change the fleet at once; what is drawn
// from it is told through `version`, at most a few times a second and never more than once a frame.

import { Failure, call, get, part, type Page } from "./api";
import type { Alert, Command, Decision, Order, Reply, SessionBody, Twin } from "./frames";
import { Link, type LinkState, type World } from "./link";
import { Fleet, type Touched } from "./state/fleet";

const DRAW_EVERY_MS = 400;
/** While a large fleet comes in parts; each drawing sorts all of it, and the parts wait meanwhile. */
const DRAW_LOADING_MS = 2_000;
/** A difference below this is travel time and rounding. */
const SKEW_WORTH_SAYING_MS = 5_000;

/** Who somebody says to be, and why to believe it. */
export type Proof = { user: string; password: string } | { api_key: string };

class Desk {
  session = $state<SessionBody | null>(null);
  /** The session ended under an open page: the views stay, the log-in lies above them. */
  hasEnded = $state(false);
  linkState = $state<LinkState>("connecting");
  wasLive = $state(false);
  /** When the newest batch came, by the server's clock. */
  heardAt = $state(0);
  skewMs = $state(0);
  fault = $state<string | null>(null);
  isLoaded = $state(false);
  /** Rises when vehicles, commands, alerts or decisions changed; reading it is what makes a view follow. */
  version = $state(0);
  inboxVersion = $state(0);
  /** Why the vehicle that is looked at could not be read, and what was known of it then. */
  unread = $state.raw<{ id: string; error: unknown; before: Twin | null } | null>(null);
  /** Server time, once a second. */
  now = $state(Date.now());
  readonly fleet = new Fleet();
  /** Those who want to hear of alerts as they come (sound, browser notification). */
  readonly alertListeners = new Set<(alerts: Alert[]) => void>();
  private readonly link = new Link(browser, {
    frame: (frame) => {
      this.note(this.fleet.apply(frame));
      this.heardAt = this.link.now();
      if (frame.type === "snapshot") void this.recall();
      if (!frame.more && !this.isLoaded) {
        this.isLoaded = true;
        this.drawnAt = -Infinity;
      }
    },
    state: (state) => {
      this.linkState = state;
      if (state === "live") this.wasLive = true;
      if (state === "live") this.fault = null;
    },
    clock: (skewMs) => { this.skewMs = skewMs; },
    ended: () => this.end(),
    fault: (text) => { this.fault = text; },
    detailed: (vehicles) => { for (const id of vehicles) void this.readWhole(id); },
  });
  private looked: string[] = [];
  private isDirty = false;
  private isInboxDirty = false;
  private drawnAt = -Infinity;

  get mayCommand() { return this.session?.role === "admin" || this.session?.role === "operator"; }
  get isAdmin() { return this.session?.role === "admin"; }
  get maySeeUsers() { return this.session?.role === "admin" || this.session?.role === "auditor"; }
  get isClockOff() { return Math.abs(this.skewMs) > SKEW_WORTH_SAYING_MS; }

  async resumeSession(): Promise<void> {
    this.enter(await get<SessionBody>("/v1/session"));
  }

  async logIn(proof: Proof): Promise<void> {
    this.enter(await call<SessionBody>("POST", "/v1/session", { body: proof }));
  }

  private enter(session: SessionBody) {
    if (session.role === "renter") {
      // The fleet is not theirs to watch; their page has its own log-in, in the same session.
      location.replace("/terminal");
      return;
    }
    this.session = session;
    this.hasEnded = false;
    this.link.start();
    this.startDrawing();
  }

  private end() {
    this.link.stop();
    this.hasEnded = true;
  }

  async logOut(): Promise<void> {
    await call("DELETE", "/v1/session").catch((error: unknown) => {
      // Without an answer the cookie may live on: staying on the page would hide that.
      if (!(error instanceof Failure) || error.status !== 401) throw error;
    });
    // A fresh page forgets the fleet too.
    location.reload();
  }

  private stopDrawing: (() => void) | null = null;
  private startDrawing() {
    if (this.stopDrawing) return;
    let handle = 0;
    const draw = (at: number) => {
      handle = requestAnimationFrame(draw);
      const now = Math.floor(this.link.now() / 1000) * 1000;
      if (now !== this.now) this.now = now;
      if (!this.isDirty || at - this.drawnAt < (this.isLoaded ? DRAW_EVERY_MS : DRAW_LOADING_MS)) return;
      this.isDirty = false;
      this.version += 1;
      if (this.isInboxDirty) this.inboxVersion += 1;
      this.isInboxDirty = false;
      // A slow machine draws less often rather than all the time.
      const took = performance.now() - at;
      this.drawnAt = at + Math.min(2_000, 2 * Math.max(0, took));
    };
    handle = requestAnimationFrame(draw);
    this.stopDrawing = () => cancelAnimationFrame(handle);
  }

  private note(touched: Touched) {
    this.isDirty ||= touched.vehicles.length > 0 || touched.isMembershipNew || touched.commands > 0;
    if (touched.alerts.length > 0 || touched.decisions > 0) this.isDirty = this.isInboxDirty = true;
    const fresh = touched.alerts.filter((alert) => alert.state === "open" || alert.state === "confirmed");
    if (this.isLoaded && fresh.length > 0) for (const listener of this.alertListeners) listener(fresh);
  }

  /** What was decided and raised before the snapshot; it tells of open alerts only. */
  private async recall(): Promise<void> {
    try {
      const [decisions, alerts] = await Promise.all([
        get<Page<Decision>>("/v1/decisions?limit=100"), get<Page<Alert>>("/v1/alerts?limit=200")]);
      // The feed is newer than these lists; oldest first, as the feed would have told them.
      for (const decision of decisions.items.reverse()) if (!this.fleet.decisions.has(decision.decision_id)) this.fleet.keepDecision(decision);
      for (const alert of alerts.items.reverse()) this.fleet.keepAlert(alert);
      this.isDirty = this.isInboxDirty = true;
    } catch (error) {
      // The views that show them read them themselves and say so; the live feed goes on.
      this.fault = error instanceof Failure ? error.message : String(error);
    }
  }

  /** Has one vehicle told whole until the answer is called. */
  look(id: string): () => void {
    const ids = [id];
    const tell = (wanted: string[]) => {
      [this.looked, this.unread] = [wanted, null];
      this.fleet.detail(wanted);
      this.link.detail(wanted);
    };
    tell(ids);
    // The next vehicle may be looked at before this one is let go.
    return () => { if (this.looked === ids) tell([]); };
  }

  /** What a vehicle is now; how it changes tells the feed, which may be quicker. */
  async readWhole(id: string): Promise<void> {
    const before = this.fleet.vehicles.get(id)?.twin ?? null;
    if (this.unread?.id === id) this.unread = null;
    try {
      const twin = await get<Twin>(`/v1/vehicles/${part(id)}`);
      if (!this.fleet.keepTwin(twin, before)) return;
      // Somebody waits for it.
      [this.isDirty, this.drawnAt] = [true, -Infinity];
    } catch (error) {
      if (this.looked.includes(id)) this.unread = { id, error, before };
    }
  }

  /** Orders something of a vehicle by the live link; null = nothing was heard, it may have been taken. */
  async order(vehicle_id: string, order: Order): Promise<Reply | null> {
    const reply = await this.link.command(vehicle_id, order);
    if (reply?.command) this.keepCommand(reply.command);
    return reply;
  }

  keepCommand(command: Command) {
    this.fleet.keepCommand(command);
    this.isDirty = true;
  }

  keepAlert(alert: Alert) {
    this.fleet.keepAlert(alert);
    this.isDirty = this.isInboxDirty = true;
  }

  serverNow(): number { return this.link.now(); }
}

const browser: World = {
  open: () => {
    const socket = new WebSocket(`${location.protocol === "http:" ? "ws" : "wss"}://${location.host}/v1/console`);
    return socket as unknown as ReturnType<World["open"]>;
  },
  elapsed: () => performance.now(),
  wallClock: () => Date.now(),
  after: (ms, run) => { const timer = setTimeout(run, ms); return () => clearTimeout(timer); },
  every: (ms, run) => { const timer = setInterval(run, ms); return () => clearInterval(timer); },
  async isAdmitted() {
    try {
      const answer = await fetch("/v1/session", { signal: AbortSignal.timeout(5_000) });
      return answer.status !== 401 && answer.status !== 403;
    } catch {
      return null;
    }
  },
  random: Math.random,
};

export const desk = new Desk();
