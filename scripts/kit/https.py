"""HTTPS with kept connections, told exactly: what was surely not sent, what has no answer, and what was half an answer."""
import asyncio
import collections
import json
import ssl
import time
from urllib.parse import urlsplit

ANSWER_TIMEOUT_S = 40
IDLE_S = 50


class NotAnswered(Exception):
    """No byte of an answer came: the request may have been carried out, and with its idempotency key it can be repeated."""


class NotConnected(NotAnswered):
    """Nothing was sent."""


class HalfAnswer(Exception):
    """An answer began and did not end: what a server never may do."""


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers = status, headers
        try:
            self.body = json.loads(body) if body else None
        except ValueError as error:
            raise HalfAnswer(f"{status} with a body that is no JSON: {error}") from error

    def problem(self):
        kind = self.body.get("type", "") if self.status >= 400 and isinstance(self.body, dict) else ""
        return kind.removeprefix("urn:cardea:problem:")


def trust(ca):
    context = ssl.create_default_context(cafile=ca)
    context.check_hostname = False
    return context


class Line:
    """One connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer, self.used_at = reader, writer, time.monotonic()

    async def ask(self, head, body):
        try:
            self.writer.write(head + body)
            await self.writer.drain()
            first = await self.reader.readexactly(1)
        except (OSError, EOFError, ssl.SSLError) as error:
            raise NotAnswered(str(error)) from error
        try:
            head = (first + await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
            body = await self.rest(headers)
        except (OSError, EOFError, ssl.SSLError, asyncio.LimitOverrunError) as error:
            raise HalfAnswer(str(error)) from error
        return Answer(int(head[0].split()[1]), headers, body), headers.get("connection", "").lower() != "close"

    async def rest(self, headers):
        if headers.get("transfer-encoding", "") == "chunked":
            body = b""
            while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
                body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
            return body
        return await self.reader.readexactly(int(headers.get("content-length", 0)))


class Https:
    def __init__(self, base, ca, token):
        address = urlsplit(base)
        self.host, self.port, self.token = address.hostname, address.port, token
        self.tls, self.idle = trust(ca), collections.deque()

    async def connect(self):
        try:
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(self.host, self.port, ssl=self.tls, limit=8 * 1024 * 1024), 10)
        except (OSError, EOFError, ssl.SSLError, asyncio.TimeoutError) as error:
            raise NotConnected(str(error) or "no connection within 10 s") from error
        return Line(reader, writer)

    async def ask(self, method, path, body=None, headers=None, signed=None):
        """One request on a kept connection or a new one. `signed`: bytes that are sent as they are, without our token."""
        content = signed if signed is not None else b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}", f"Content-Length: {len(content)}"]
        if signed is None:
            lines.append(f"Authorization: Bearer {self.token}")
        if content:
            lines.append("Content-Type: application/json")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        # What the gateway is about to close for having been idle (75 s) is not used.
        fresh = time.monotonic() - IDLE_S
        while self.idle and self.idle[0].used_at < fresh:
            self.idle.popleft().writer.transport.abort()
        line = self.idle.pop() if self.idle else await self.connect()
        try:
            answer, stays = await asyncio.wait_for(line.ask(head, content), ANSWER_TIMEOUT_S)
        except asyncio.TimeoutError as error:
            line.writer.transport.abort()
            raise NotAnswered(f"{method} {path}: no answer within {ANSWER_TIMEOUT_S} s") from error
        except NotAnswered:
            # The others of that life of the gateway are as dead.
            line.writer.transport.abort()
            self.close()
            raise
        except BaseException:
            line.writer.transport.abort()
            raise
        if stays:
            line.used_at = time.monotonic()
            self.idle.append(line)
        else:
            line.writer.close()
        return answer

    async def until_answered(self, method, path, body=None, headers=None, signed=None, patience_s=60,
                             tell=lambda what, asked_at: None):
        """Repeats what has no answer yet or is told to come again (503), unchanged. `tell` hears of each such time, and when
        the request was sent."""
        deadline, pause = time.monotonic() + patience_s, 0.05
        while True:
            asked_at = time.monotonic()
            try:
                answer = await self.ask(method, path, body, headers, signed)
                if answer.status != 503 or time.monotonic() > deadline:
                    return answer
                tell("503", asked_at)
            except NotAnswered as error:
                tell("refused" if isinstance(error, NotConnected) else "closed unanswered", asked_at)
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(1, 2 * pause)

    def close(self):
        for line in self.idle:
            line.writer.transport.abort()
        self.idle.clear()
