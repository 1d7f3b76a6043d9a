"""A console's WebSocket (RFC 6455, no extensions), good or bad: it reads and acknowledges, or it stalls, or it vanishes."""
import asyncio
import base64
import json
import os
import ssl


class Closed(Exception):
    pass


class Console:
    def __init__(self, reader, writer):
        self.reader, self.writer, self.frames, self.bytes = reader, writer, 0, 0
        self.hearing = None

    @classmethod
    async def open(cls, https):
        try:
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(https.host, https.port, ssl=https.tls, limit=64 * 1024), 10)
            key = base64.b64encode(os.urandom(16)).decode()
            writer.write((f"GET /v1/console HTTP/1.1\r\nHost: {https.host}:{https.port}\r\nUpgrade: websocket\r\n"
                          f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
                          f"Authorization: Bearer {https.token}\r\n\r\n").encode())
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        except (OSError, EOFError, ssl.SSLError, asyncio.TimeoutError) as error:
            raise Closed(str(error)) from error
        status = int(head.split()[1])
        if status != 101:
            writer.transport.abort()
            raise Closed(f"answered {status}")
        return cls(reader, writer)

    def send(self, opcode, payload):
        mask = os.urandom(4)
        size = len(payload)
        head = bytes([0x80 | opcode, 0x80 | size]) if size < 126 else bytes([0x80 | opcode, 0xFE]) + size.to_bytes(2, "big")
        self.writer.write(head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload)))

    def say(self, frame):
        self.send(1, json.dumps(frame).encode())

    async def hear(self):
        """The next JSON frame, acknowledged when it is a batch; pings are answered."""
        while True:
            try:
                first, second = await self.reader.readexactly(2)
                size = second & 0x7F
                if size > 125:
                    size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
                payload = await self.reader.readexactly(size)
            except (OSError, EOFError, ssl.SSLError) as error:
                raise Closed(str(error)) from error
            self.bytes += size
            if first & 0x0F == 8:
                raise Closed(payload[2:].decode(errors="replace"))
            if first & 0x0F == 9:
                self.send(10, payload)
            if first != 0x81:
                continue
            self.frames += 1
            frame = json.loads(payload)
            if "seq" in frame:
                self.say({"type": "ack", "seq": frame["seq"]})
            return frame

    async def hear_for(self, seconds):
        """The next JSON frame, or None when there is none in time. A frame that has begun is never given up in the middle."""
        self.hearing = self.hearing or asyncio.ensure_future(self.hear())
        done, _ = await asyncio.wait({self.hearing}, timeout=seconds)
        if not done:
            return None
        heard, self.hearing = self.hearing, None
        return heard.result()

    async def leave(self):
        """A close as it should be."""
        self.send(8, (1000).to_bytes(2, "big"))
        try:
            while True:
                if await self.hear_for(5) is None:
                    break
        except Closed:
            pass
        self.vanish()

    def vanish(self):
        if self.hearing:
            self.hearing.cancel()
        self.writer.transport.abort()
