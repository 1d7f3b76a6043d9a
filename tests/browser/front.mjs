// Stands in front of a gateway and plays its console feed, so that a fleet of any size is told over a real WebSocket;
// everything else is passed on to the real gateway.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer, request } from "node:https";
import { join } from "node:path";

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const TEXT = 1;
const CLOSE = 8;

export class Front {
  /** `feed(socket)` is called for each console that connects; a socket has `send(text)`, `onMessage(text)`, `onClose()`. */
  constructor(gateway, feed) {
    const certs = join(gateway.folder, "fleet", "certs");
    this.gateway = gateway;
    const read = (name) => readFileSync(join(certs, name));
    this.server = createServer({ cert: read("server.pem"), key: read("server.key.pem") }, (asked, answer) => this.pass(asked, answer));
    this.server.on("upgrade", (asked, stream) => {
      if (asked.url === "/v1/console") feed(accept(asked, stream));
      else stream.destroy();
    });
  }

  async start() {
    await new Promise((done) => this.server.listen(0, "127.0.0.1", done));
    this.url = `https://127.0.0.1:${this.server.address().port}`;
  }

  /** With the caller's own Host, by which the gateway knows its pages. */
  pass(asked, answer) {
    const onward = request(this.gateway.url + asked.url, { method: asked.method, headers: asked.headers, ca: this.gateway.ca }, (got) => {
      answer.writeHead(got.statusCode, got.headers);
      got.pipe(answer);
    });
    onward.on("error", () => answer.destroy());
    asked.pipe(onward);
  }

  end() {
    this.server.close();
    this.server.closeAllConnections();
  }
}

function accept(asked, stream) {
  const key = createHash("sha1").update(asked.headers["sec-websocket-key"] + GUID).digest("base64");
  stream.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${key}\r\n\r\n`);
  stream.setNoDelay(true);
  const socket = { onMessage() {}, onClose() {}, send: (text) => stream.write(frameOf(Buffer.from(text))) };
  let held = Buffer.alloc(0);
  stream.on("data", (chunk) => {
    held = Buffer.concat([held, chunk]);
    for (let frame = readFrame(held); frame !== null; frame = readFrame(held)) {
      held = held.subarray(frame.length);
      if (frame.kind === TEXT) socket.onMessage(frame.text);
      if (frame.kind === CLOSE) stream.end();
    }
  });
  stream.on("error", () => stream.destroy());
  stream.on("close", () => socket.onClose());
  return socket;
}

function frameOf(body) {
  const head = body.length < 126 ? Buffer.from([0x81, body.length])
    : body.length < 65_536 ? Buffer.from([0x81, 126, body.length >> 8, body.length & 255]) : Buffer.alloc(10);
  if (head.length === 10) {
    head.writeUInt16BE(0x817f, 0);
    head.writeBigUInt64BE(BigInt(body.length), 2);
  }
  return Buffer.concat([head, body]);
}

/** A whole frame of a page, which are short and masked; null = not there yet. */
function readFrame(bytes) {
  if (bytes.length < 6) return null;
  let [size, at] = [bytes[1] & 127, 2];
  if (size === 126) [size, at] = [bytes.readUInt16BE(2), 4];
  if (size === 127) throw new Error("a page says nothing that long");
  if (bytes.length < at + 4 + size) return null;
  const mask = bytes.subarray(at, at + 4);
  const body = Buffer.from(bytes.subarray(at + 4, at + 4 + size)).map((byte, index) => byte ^ mask[index & 3]);
  return { kind: bytes[0] & 15, text: body.toString(), length: at + 4 + size };
}
