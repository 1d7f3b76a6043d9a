// The WebSocket to the gateway: snapshot, changes, acknowledgement, commands, and coming back after a loss.
// It knows the frames of `/v1/console` and nothing of what is on the page.

const BEAT_MS = 2_000;
const SILENT_MS = 5_000;
const GIVE_UP_MS = 12_000;
const LONGEST_WAIT_MS = 10_000;

export class Link {
  /** `on` = {snapshot(frame), changes(frame), state(name), ended()}; states: connecting, live, silent, lost. */
  constructor(on) {
    this.on = on;
    this.seq = null;
    this.stream = null;
    this.waiting = new Map();
    this.nextId = 1;
    this.tries = 0;
    /** Server time minus ours, in ms; so that ages are right on a machine with a wrong clock. */
    this.offset = 0;
    this.stopped = false;
    this.timer = setInterval(() => this.watch(), 500);
    this.open();
  }

  now() {
    return Date.now() + this.offset;
  }

  open() {
    if (this.stopped) return;
    this.say("connecting");
    const socket = new WebSocket(`wss://${location.host}/v1/console`);
    this.socket = socket;
    this.heard = performance.now();
    this.asked = 0;
    socket.onopen = () => {
      this.heard = performance.now();
      if (this.seq !== null) this.send({ type: "resume", after: this.seq, stream: this.stream });
      this.beat();
    };
    socket.onmessage = (event) => {
      if (socket === this.socket) this.take(JSON.parse(event.data));
    };
    socket.onclose = () => {
      if (socket === this.socket) this.lost();
    };
  }

  take(frame) {
    this.heard = performance.now();
    this.tries = 0;
    this.say("live");
    if (frame.type === "snapshot" || frame.type === "changes") {
      this.seq = frame.seq;
      this.stream = frame.stream ?? this.stream;
      this.on[frame.type](frame);
      this.send({ type: "ack", seq: frame.seq });
    } else if (frame.type === "reply") {
      if (frame.at) this.tellTime(frame.at);
      const waiting = this.waiting.get(frame.id);
      this.waiting.delete(frame.id);
      waiting?.(frame);
    }
  }

  tellTime(at) {
    const travel = performance.now() - this.asked;
    if (travel < 1_000) this.offset = Date.parse(at) + travel / 2 - Date.now();
  }

  /** Orders something of a vehicle; the answer is the gateway's reply, or null when the connection broke first. */
  command(vehicle_id, command) {
    const id = this.nextId++;
    return new Promise((resolve) => {
      if (!this.send({ type: "command", id, vehicle_id, command })) return resolve(null);
      this.waiting.set(id, resolve);
    });
  }

  send(frame) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(frame));
    return true;
  }

  beat() {
    this.asked = performance.now();
    this.send({ type: "ping", id: 0 });
  }

  /** A browser does not show its page the protocol's pings, so the page asks for a sign of life itself. */
  watch() {
    const now = performance.now();
    const silent = now - this.heard;
    if (this.socket?.readyState === WebSocket.OPEN && now - this.asked > BEAT_MS) this.beat();
    if (silent > GIVE_UP_MS && this.socket) this.socket.close();
    if (silent > GIVE_UP_MS && this.socket) this.lost();
    else if (silent > SILENT_MS && this.state === "live") this.say("silent");
  }

  lost() {
    this.socket = null;
    for (const resolve of this.waiting.values()) resolve(null);
    this.waiting.clear();
    if (this.stopped) return;
    this.say("lost");
    const wait = Math.min(LONGEST_WAIT_MS, 500 * 2 ** this.tries++) * (0.7 + 0.6 * Math.random());
    setTimeout(() => this.retry(), wait);
  }

  /** A refused handshake looks like a lost one to the page: ask whether we are still logged in. */
  async retry() {
    const answer = await fetch("/v1/session").catch(() => null);
    if (answer && (answer.status === 401 || answer.status === 403)) this.on.ended();
    else this.open();
  }

  say(state) {
    if (this.state === state) return;
    this.state = state;
    this.on.state(state);
  }

  stop() {
    this.stopped = true;
    clearInterval(this.timer);
    this.socket?.close();
  }
}
