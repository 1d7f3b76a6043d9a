"""The real gateway with a fleet in it, for tests that are not written in Rust.

CARDEA and SIMULATOR name the programs. Everything listens on free loopback ports and is gone when the `with` block ends:

    with Fleet() as fleet:
        fleet.settle()          # cars that drive, a renter with a key, a card, a purchase
        fleet.call("GET", "/v1/vehicles", role="auditor")

Only Python's standard library is needed.
"""

import hashlib
import hmac
import json
import os
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

ROLES = ("admin", "operator", "renter", "auditor")
STRIPE_SECRET = "whsec_fleet_test_stripe"
OWN_SECRET = "whsec_ZmxlZXQtdGVzdC1vd24tc2VjcmV0LTAxMjM0NTY3ODk="
CARS = ("CAR-1", "CAR-2", "CAR-3")
# A public key for a phone that never signs; the curve's base point.
HOLDER_KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY",
    "y": "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU",
}
PATIENCE_S = 60


class Fleet:
    def __init__(self, *settings):
        """`settings` are like `http.workers=1`."""
        self.settings = settings
        self.children = []
        self.log = []

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="cardea-fleet-")
        self.home = Path(self.folder.name) / "fleet"
        made = self._run(os.environ["CARDEA"], "init", "--dir", self.home)
        made = json.loads(made.strip().splitlines()[-1])
        self.config, self.ca, self.keys = made["config"], made["ca"], {"admin": made["admin_key"]}
        self.tls = ssl.create_default_context(cafile=self.ca)
        try:
            self._serve()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait()
        self.folder.cleanup()

    def _run(self, *command):
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{command[:2]} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def _start(self, *command):
        child = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.children.append(child)
        threading.Thread(target=lambda: self.log.extend(child.stderr), daemon=True).start()
        return child

    def _serve(self):
        sets = [f"{part}.listen=127.0.0.1:0" for part in ("http", "mqtt", "metrics")]
        secrets = {"stripe": STRIPE_SECRET, "own": OWN_SECRET, "lithic": OWN_SECRET, "marqeta": "fleet:test-marqeta-secret"}
        sets += [f'payments.{form}.secrets=["{secret}"]' for form, secret in secrets.items()]
        sets += self.settings
        arguments = [part for setting in sets for part in ("--set", setting)]
        self.server = self._start(os.environ["CARDEA"], "serve", "--config", self.config, *arguments)
        line = self.server.stdout.readline()
        if not line:
            self.server.wait()
            raise RuntimeError("the gateway did not start:\n" + "".join(self.log))
        ready = json.loads(line)
        self.http, self.mqtt, self.metrics = ready["http"], ready["mqtt"], ready["metrics"]

    def call(self, method, path, body=None, role="admin", headers=None):
        """`(status, body)`; `role` may be None, and headers outweigh it."""
        headers = {**({"Authorization": f"Bearer {self.keys[role]}"} if role else {}), **(headers or {})}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if data is not None:
            headers.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(self.http + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, context=self.tls, timeout=30) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def must(self, status, method, path, body=None, role="admin", headers=None):
        """The body of an answer with this status."""
        got, answer = self.call(method, path, body, role, headers)
        if got != status:
            raise RuntimeError(f"{method} {path}: {got} instead of {status}: {answer}")
        return answer

    def until(self, what, claim):
        deadline = time.monotonic() + PATIENCE_S
        while not (found := claim()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what}: not within {PATIENCE_S} s\n" + "".join(self.log[-40:]))
            time.sleep(0.05)  # poll
        return found

    def drive(self):
        """Cars that move about, each with its own certificate."""
        certs = self.home / "cars"
        for car in CARS:
            self._run(os.environ["CARDEA"], "enroll", "--config", self.config, "--vehicle", car, "--out", certs / car)
            lending = {"profiles": ["cabin", "drive"], "windows": [], "approval": "auto"}
            self.must(201, "POST", "/v1/vehicles", {"vehicle_id": car, "name": f"Van {car}", "tank_litres": 60, "lending": lending})
        self._start(os.environ["SIMULATOR"], "drive", "--mqtt", self.mqtt, "--certs", certs, "--rate", "5")
        online = lambda car: self.must(200, "GET", f"/v1/vehicles/{car}")["link"]["state"] == "online"
        self.until("every car is online", lambda: all(online(car) for car in CARS))

    def settle(self):
        """A fleet that has lived: keys of each role, rentals of two renters, commands, a card, purchases, an alert."""
        for role in ROLES[1:]:
            new = {"name": f"a {role}", "role": role, "subject": "anna" if role == "renter" else role}
            self.keys[role] = self.must(201, "POST", "/v1/api-keys", new)["api_key"]
        self.drive()
        at = lambda minutes: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60 * minutes))
        wish = {"profile": "drive", "from": at(-1), "until": at(120), "holder_key": HOLDER_KEY}
        self.rental = self.must(201, "POST", "/v1/usage-requests", {**wish, "vehicle_id": "CAR-1"}, role="renter")
        self.must(201, "POST", "/v1/usage-requests", {**wish, "vehicle_id": "CAR-2", "renter": "bob"})
        lock = self.must(202, "POST", "/v1/vehicles/CAR-3/commands", {"type": "report_state"}, role="operator")
        self.command = lock["command_id"]
        for card, car in (("card-1", "CAR-1"), ("card-3", "CAR-3")):
            self.must(201, "POST", "/v1/cards", {"card_id": card, "network_ref": f"ic_{card}", "vehicle_id": car})
        position = {"latitude": 45.07, "longitude": 7.68}
        station = {"station_id": "station-1", "name": "Station One", "position": position, "terminals": [{"network_id": "net"}]}
        self.must(201, "POST", "/v1/stations", station)
        # The second one's car is rented by nobody, which declines the purchase and opens an alert.
        for number, card in enumerate(("card-1", "card-3")):
            self.buy(f"iauth_{number}", card)
        self.until("decisions are listed", lambda: self.must(200, "GET", "/v1/decisions")["items"])
        self.until("an alert is open", lambda: self.must(200, "GET", "/v1/alerts")["items"])

    def buy(self, purchase, card):
        """A purchase at a station nobody knows, signed as Stripe signs; `(status, body)`."""
        now = int(time.time())
        merchant = {
            "category": "automated_fuel_dispensers", "category_code": "5542", "name": "ELSEWHERE FUEL", "network_id": "far",
            "terminal_id": "t1", "country": "IT", "postal_code": "00100", "city": "Roma",
        }
        pending = {"amount": 6240, "currency": "eur", "is_amount_controllable": True, "merchant_amount": 6240}
        card = {"id": f"ic_{card}", "last4": "4242", "status": "active"}
        purchase = {
            "id": purchase, "amount": 6240, "currency": "eur", "created": now, "card": card, "merchant_data": merchant,
            "pending_request": pending,
        }
        event = {"id": f"evt_{uuid.uuid4().hex}", "type": "issuing_authorization.request", "created": now, "data": {"object": purchase}}
        body = json.dumps(event).encode()
        tag = hmac.new(STRIPE_SECRET.encode(), f"{now}.".encode() + body, hashlib.sha256).hexdigest()
        return self.call("POST", "/v1/payments/stripe", body, role=None, headers={"Stripe-Signature": f"t={now},v1={tag}"})
