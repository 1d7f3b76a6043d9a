// The WebSocket to the gateway: snapshot, changes, acknowledgement, orders, and coming back after a loss without a gap.
// It knows the frames and the time they took; what they mean is the fleet's business.

import { type Changes, type Order, type Reply, type Snapshot, readFrame } from "./frames";

/** A stall shows within 5 s: the next beat, a look at it, and the wait for its answer. */
const BEAT_MS = 1_500;
const SILENT_MS = 2_500;
const GIVE_UP_MS = 10_000;
const WATCH_MS = 500;
/** So often the clocks are compared although frames come all the time. */
const CLOCK_MS = 15_000;
const LONGEST_WAIT_MS = 10_000;
/** An answer that travelled longer says too little about the time. */
const FIT_TRAVEL_MS = 1_000;

export type LinkState = "connecting" | "live" | "silent" | "lost";
export interface Socket {
  readonly readyState: number;
  onopen: (() => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: (() => void) | null;
  send(text: string): void;
  close(): void;
}
/** What the link needs of the world; a test gives it its own. */
export interface World {
  open(): Socket;
  /** Monotonic, in ms. */
  elapsed(): number;
  wallClock(): number;
  after(ms: number, call: () => void): () => void;
  every(ms: number, call: () => void): () => void;
  /** Whether the session still holds; null = the gateway does not answer. */
  isAdmitted(): Promise<boolean | null>;
  random(): number;
}
export interface Listener {
  frame(frame: Snapshot | Changes): void;
  state(state: LinkState): void;
  /** The gateway's clock against ours was measured. */
  clock(skewMs: number): void;
  /** The session is over: somebody has to log in. */
  ended(): void;
  fault(text: string): void;
  /** From here on every word of these vehicles is told whole; what they are now has to be asked for. */
  detailed(vehicles: readonly string[]): void;
}
/** A tenth of a twin is enough for list and map. */
const FORM = "summary";
const OPEN = 1;

export class Link {
  private socket: Socket | null = null;
  private seq: number | null = null;
  private stream: string | undefined;
  private wanted: readonly string[] = [];
  /** Of this connection: one that refused to tell details tells everything whole. */
  private isInShort = true;
  private readonly waiting = new Map<number, (reply: Reply | null) => void>();
  private nextId = 1;
  private tries = 0;
  private heardAt = 0;
  private askedAt = 0;
  /** Since when a beat waits for any answer. Counted from the asking, not from the last word: a browser lets the timers of
   * a page in the background sleep for a minute, and nobody was asked meanwhile. */
  private unansweredSince: number | null = null;
  private state: LinkState | null = null;
  private isStopped = false;
  private stopWatch: () => void = () => {};
  private stopRetry: () => void = () => {};
  /** Server time minus ours, in ms. */
  skewMs = 0;

  constructor(private readonly world: World, private readonly on: Listener) {}

  start() {
    this.isStopped = false;
    this.stopWatch = this.world.every(WATCH_MS, () => this.watch());
    this.open();
  }

  /** The server's time, so that ages are right on a machine whose clock is wrong. */
  now(): number {
    return this.world.wallClock() + this.skewMs;
  }

  private open() {
    if (this.isStopped) return;
    if (this.state !== "lost") this.say("connecting");
    const socket = this.world.open();
    this.socket = socket;
    this.heardAt = this.world.elapsed();
    this.unansweredSince = this.heardAt;
    this.isInShort = true;
    socket.onopen = () => {
      if (socket !== this.socket) return;
      // Said first: the gateway keeps its snapshot back for a moment for those who need none, or want it in short. One that
      // does not know the short form refuses, and its snapshot of whole vehicles comes all the same.
      this.send(this.seq === null ? { type: "subscribe", form: FORM } : { type: "resume", after: this.seq, stream: this.stream, form: FORM });
      if (this.wanted.length > 0) this.askDetail();
      this.beat();
    };
    socket.onmessage = (event) => {
      if (socket === this.socket) this.take(String(event.data));
    };
    socket.onclose = () => {
      if (socket === this.socket) this.lose();
    };
  }

  private take(text: string) {
    this.heardAt = this.world.elapsed();
    this.unansweredSince = null;
    this.tries = 0;
    this.say("live");
    try {
      const frame = readFrame(text);
      if (frame === null) return;
      if (frame.type === "reply") return this.takeReply(frame);
      this.on.frame(frame);
      this.seq = frame.seq;
      if (frame.type === "snapshot") this.stream = frame.stream;
      // Only now: the next batch comes when this one is part of what is shown.
      this.send({ type: "ack", seq: frame.seq });
    } catch (error) {
      // A batch that cannot be taken would come again for ever: say so, and begin anew with a snapshot.
      this.on.fault(error instanceof Error ? error.message : String(error));
      this.seq = null;
      this.socket?.close();
    }
  }

  private takeReply(reply: Reply) {
    if (reply.at) this.tellTime(Date.parse(reply.at));
    if (typeof reply.id !== "number") return;
    const resolve = this.waiting.get(reply.id);
    this.waiting.delete(reply.id);
    resolve?.(reply);
  }

  private tellTime(at: number) {
    const travel = this.world.elapsed() - this.askedAt;
    if (!Number.isFinite(at) || travel > FIT_TRAVEL_MS) return;
    this.skewMs = at + travel / 2 - this.world.wallClock();
    this.on.clock(this.skewMs);
  }

  /** Orders something of a vehicle. null = the connection broke before the answer: it may have been taken. */
  command(vehicle_id: string, command: Order): Promise<Reply | null> {
    const id = this.nextId++;
    return new Promise((resolve) => {
      if (!this.send({ type: "command", id, vehicle_id, command })) return resolve(null);
      this.waiting.set(id, resolve);
    });
  }

  /** Whose every detail is looked at; none = nobody's. Asked for anew on each connection. */
  detail(vehicles: readonly string[]) {
    this.wanted = vehicles;
    this.askDetail();
  }

  private askDetail() {
    const [id, vehicles] = [this.nextId++, this.wanted];
    if (!this.isInShort || !this.send({ type: "detail", vehicles, id })) return;
    this.waiting.set(id, (reply) => {
      if (reply === null) return;
      // Asked again and again, an older gateway would take the page for a broken one.
      this.isInShort = reply.ok;
      if (vehicles === this.wanted && vehicles.length > 0) this.on.detailed(vehicles);
    });
  }

  private send(frame: object): boolean {
    if (this.socket?.readyState !== OPEN) return false;
    this.socket.send(JSON.stringify(frame));
    return true;
  }

  private beat() {
    this.askedAt = this.world.elapsed();
    this.unansweredSince ??= this.askedAt;
    this.send({ type: "ping", id: 0 });
  }

  /** A browser does not show its page the protocol's pings, so the page asks for a sign of life itself. */
  private watch() {
    if (!this.socket) return;
    const now = this.world.elapsed();
    const waited = this.unansweredSince === null ? 0 : now - this.unansweredSince;
    if (waited > GIVE_UP_MS) {
      const dead = this.socket;
      this.lose();
      dead.close();
    } else if (waited > SILENT_MS && this.state === "live") {
      this.say("silent");
    }
    const isBeatDue = now - this.heardAt >= BEAT_MS || now - this.askedAt >= CLOCK_MS;
    if (isBeatDue && now - this.askedAt >= BEAT_MS) this.beat();
  }

  private lose() {
    this.socket = null;
    // Nothing to say here is an answer too: whoever ordered learns that the outcome is not known.
    for (const resolve of this.waiting.values()) resolve(null);
    this.waiting.clear();
    if (this.isStopped) return;
    this.say("lost");
    const wait = Math.min(LONGEST_WAIT_MS, 500 * 2 ** this.tries++) * (0.7 + 0.6 * this.world.random());
    this.stopRetry();
    this.stopRetry = this.world.after(wait, () => void this.retry());
  }

  /** A refused handshake looks like a lost one to a page: ask whether we are still admitted. */
  private async retry() {
    const isAdmitted = await this.world.isAdmitted();
    if (this.isStopped || this.socket) return;
    if (isAdmitted === false) this.on.ended();
    else if (isAdmitted === null) this.lose();
    else this.open();
  }

  private say(state: LinkState) {
    if (this.state === state) return;
    this.state = state;
    this.on.state(state);
  }

  stop() {
    this.isStopped = true;
    this.stopWatch();
    this.stopRetry();
    this.socket?.close();
    this.socket = null;
    this.state = null;
  }
}
