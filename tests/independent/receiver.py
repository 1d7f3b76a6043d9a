"""What the notifier's tests tell: a webhook receiver that can fail, hang and lie, and a mail server, both not ours.

Run with two ports' files and a folder. Signatures are verified by the official `standardwebhooks` package, e-mails are
taken by `aiosmtpd` over TLS and decoded by Python's own `email`. What was received is written to `webhooks.ndjson` and
`mails.ndjson` in the folder; `mode-<path>` in it says how the webhook at `/<path>` behaves (absent = well).
The first line on standard output says the ports.
"""

import asyncio
import email
import email.policy
import json
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from aiosmtpd.smtp import SMTP, AuthResult
from standardwebhooks import Webhook

FOLDER = Path(sys.argv[1])
SETTINGS = json.loads((FOLDER / "settings.json").read_text())
LOCK = threading.Lock()
STARTED = time.monotonic()


def note(name, item):
    item["ms"] = int((time.monotonic() - STARTED) * 1000)
    with LOCK, open(FOLDER / name, "a", encoding="utf-8") as file:
        file.write(json.dumps(item, ensure_ascii=False) + "\n")


def mode(path):
    try:
        return (FOLDER / f"mode-{path}").read_text().strip()
    except FileNotFoundError:
        return "well"


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        path = self.path.strip("/")
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        behaviour = mode(path)
        verified = []
        for secret in SETTINGS["secrets"]:
            try:
                Webhook(secret).verify(body, dict(self.headers))
                verified.append(True)
            except Exception:  # noqa: BLE001 - whatever is wrong with it, it is not verified
                verified.append(False)
        event = json.loads(body)
        note(
            "webhooks.ndjson",
            {"path": path, "mode": behaviour, "verified": verified, "event": event, "id": self.headers["webhook-id"],
             "type": self.headers["content-type"]},
        )
        getattr(self, behaviour.split(":")[0], self.well)(behaviour)

    def answer(self, status, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def well(self, _):
        self.answer(204)

    def status(self, behaviour):
        self.answer(int(behaviour.split(":")[1]))

    def redirect(self, behaviour):
        self.answer(307, [("Location", "/elsewhere")])

    def hang(self, behaviour):
        # Until the other side goes.
        self.connection.settimeout(60)
        try:
            self.connection.recv(1)
        except OSError:
            pass
        self.close_connection = True

    def close_early(self, behaviour):
        self.close_connection = True

    def garbage(self, behaviour):
        self.wfile.write(b"\x00\xff this is no HTTP\r\n\r\n")
        self.close_connection = True

    def wrong_length(self, behaviour):
        """A 200 that promises more than it gives: it was taken all the same."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nx")
        self.close_connection = True

    def slow_garbage(self, behaviour):
        """A 200 whose body never ends."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(600):
                self.wfile.write(b"4\r\n\x00\xff\x00\xff\r\n")
                time.sleep(0.05)
        except OSError:
            pass
        self.close_connection = True


class Mails:
    async def handle_DATA(self, server, session, envelope):
        if mode("mail") == "refuse":
            return "451 4.3.0 not now"
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        note(
            "mails.ndjson",
            {
                "to": envelope.rcpt_tos,
                "from": envelope.mail_from,
                "subject": str(message["subject"]),
                "raw_subject_is_ascii": all(byte < 128 for byte in envelope.content.split(b"\r\n\r\n")[0]),
                "id": message["message-id"],
                "auto": message["auto-submitted"],
                "text": message.get_content(),
                "tls": session.ssl is not None,
                "user": getattr(session, "auth_data", None) and session.auth_data.login.decode(),
            },
        )
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    is_right = (data.login, data.password) == (b"cardea", b"mail-secret")
    return AuthResult(success=is_right, auth_data=data)


def serve_mail(loop, implicit):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(SETTINGS["cert"], SETTINGS["key"])
    options = {"hostname": "127.0.0.1", "authenticator": authenticate, "auth_required": True, "loop": loop}
    if implicit:
        # The connection is encrypted before aiosmtpd sees it, so that it does not know.
        options["auth_require_tls"] = False
    else:
        options |= {"tls_context": context, "require_starttls": True}
    serving = loop.create_server(
        lambda: SMTP(Mails(), **options), "127.0.0.1", 0, ssl=context if implicit else None
    )
    return loop.run_until_complete(serving).sockets[0].getsockname()[1]


def main():
    webhooks = ThreadingHTTPServer(("127.0.0.1", SETTINGS.get("port", 0)), Receiver)
    webhooks.daemon_threads = True
    if SETTINGS.get("https"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(SETTINGS["cert"], SETTINGS["key"])
        webhooks.socket = context.wrap_socket(webhooks.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=webhooks.serve_forever, daemon=True).start()
    loop = asyncio.new_event_loop()
    mail = {"starttls": serve_mail(loop, False), "implicit": serve_mail(loop, True)}
    ports = {"webhooks": webhooks.server_address[1], **mail}
    threading.Thread(target=loop.run_forever, daemon=True).start()
    print(json.dumps(ports), flush=True)
    sys.stdin.read()


main()
