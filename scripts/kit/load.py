"""What people and the payment network do to a gateway all day, at a steady pace, over HTTPS and WebSockets.

Each request that promises something is repeated, unchanged, until it is answered: that is what idempotency keys are for.
"""
import asyncio
import base64
import collections
import hashlib
import hmac
import json
import random
import time
import uuid

from .console import Closed, Console
from .https import HalfAnswer, NotAnswered

# 32 bytes, in the form of Standard Webhooks.
OWN_KEY = b"soak".ljust(32, b".")
OWN_SECRET = "whsec_" + base64.b64encode(OWN_KEY).decode()
# The public key of RFC 8032's second test vector: somebody's phone.
HOLDER = {"kty": "OKP", "crv": "Ed25519", "x": "PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw"}
TTL_S = 60
BULK_OF = 500
# More than a car's record keeps of closed commands, and than the gateway keeps of answers to the payment network.
FILL_COMMANDS, FILL_PURCHASES, FILL_DECIDED = 40, 55_000, 50_000
# Refusals that belong to the trade when many ask at once.
EXPECTED = {"not-available", "vehicle-busy", "conflict", "expired"}
OUTSTANDING = 256


def rfc3339(at):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + ".000Z"


def signature(message, content):
    """Standard Webhooks, signed now."""
    now = str(int(time.time()))
    code = hmac.new(OWN_KEY, f"{message}.{now}.".encode() + content, hashlib.sha256).digest()
    return {"webhook-id": message, "webhook-timestamp": now, "webhook-signature": "v1," + base64.b64encode(code).decode()}


class Load:
    def __init__(self, https, promises, vehicles, cards, stations, rates, seed):
        self.https, self.promises, self.rates = https, promises, rates
        self.vehicles, self.cards, self.stations = vehicles, cards, stations
        self.dice = random.Random(seed)
        self.rentable = [vehicle for vehicle in vehicles if vehicle not in set(cards)]
        self.answers, self.faults, self.retries = collections.Counter(), [], collections.Counter()
        self.consoles, self.console_frames, self.console_ends = 0, 0, collections.Counter()
        # When each request was sent that the gateway closed the connection of without an answer.
        self.unanswered = []
        self.tasks, self.skipped, self.is_over = set(), 0, False

    # Requests

    async def ask(self, name, method, path, body=None, signed=None, headers=None, key=None):
        """The answer when it is a success, else None; everything is counted."""
        headers = dict(headers or {}, **({"Idempotency-Key": key} if key else {}))
        try:
            answer = await self.https.until_answered(method, path, body, headers, signed, tell=self.asks_again)
        except HalfAnswer as error:
            return self.fault(f"{name}: half an answer: {error}")
        except NotAnswered as error:
            return self.fault(f"{name}: never answered: {error}")
        self.answers[f"{name} {answer.status} {answer.problem()}".strip()] += 1
        if answer.status // 100 == 2:
            return answer.body
        if answer.status != 409 or answer.problem() not in EXPECTED:
            self.fault(f"{name}: {method} {path} {body}: {answer.status} {answer.body}")
        return None

    def asks_again(self, why, asked_at):
        self.retries[why] += 1
        if why == "closed unanswered":
            self.unanswered.append(asked_at)

    def fault(self, what):
        self.faults.append(what)

    async def command(self):
        vehicle, key = self.dice.choice(self.vehicles), str(uuid.uuid4())
        body = self.dice.choice([{"type": "lock"}, {"type": "unlock"}, {"type": "locate"}, {"type": "report_state"},
                                 {"type": "disable_function", "function": "climate"},
                                 {"type": "enable_function", "function": "climate"}]) | {"ttl_s": TTL_S}
        path = f"/v1/vehicles/{vehicle}/commands"
        if done := await self.ask("command", "POST", path, body, key=key):
            self.promises.command(done)
            self.repeat(path, body, key, None, "command_id", done["command_id"])

    async def bulk(self):
        done = await self.to_many(self.dice.sample(self.vehicles, min(BULK_OF, len(self.vehicles))))
        for item in done["items"] if done else ():
            if "command_id" in item:
                self.promises.command({**item, "type": "report_state", "expires_at": rfc3339(time.time() + TTL_S)})
            else:
                self.answers[f"bulk item {item['problem'].get('type', '')}"] += 1

    async def to_many(self, vehicles):
        body = {"vehicle_ids": vehicles, "type": "report_state", "ttl_s": TTL_S}
        return await self.ask("bulk", "POST", "/v1/commands", body, key=str(uuid.uuid4()))

    async def rental(self):
        """Asked for, used from afar, ended by its renter or with its key taken back."""
        now, key = time.time(), str(uuid.uuid4())
        body = {"vehicle_id": self.dice.choice(self.rentable), "profile": "cabin", "renter": f"renter-{self.dice.randrange(500)}",
                "from": rfc3339(now), "until": rfc3339(now + 3600), "holder_key": HOLDER}
        made = await self.ask("rental", "POST", "/v1/usage-requests", body, key=key)
        if not made or "rental_id" not in made:
            return
        self.repeat("/v1/usage-requests", body, key, None, "rental_id", made["rental_id"])
        key_id = made["key"]["key_id"]
        rental = {"vehicle_id": body["vehicle_id"], "renter": body["renter"], "key_id": key_id, "is_ended": False}
        given = {"vehicle_id": body["vehicle_id"], "permits": made["key"]["permits"], "is_ended": False}
        self.promises.rentals[made["rental_id"]], self.promises.keys[key_id] = rental, given
        await asyncio.sleep(self.dice.uniform(2, 20))
        used = await self.ask("key action", "POST", f"/v1/keys/{key_id}/actions", {"function": "unlock_doors"},
                              key=str(uuid.uuid4()))
        if used:
            self.promises.command(used)
        await asyncio.sleep(self.dice.uniform(1, 10))
        if self.dice.random() < 0.3 and await self.ask("key revoked", "DELETE", f"/v1/keys/{key_id}?effect=immediate",
                                                       key=str(uuid.uuid4())) is not None:
            given["is_ended"] = True
        if await self.ask("rental end", "POST", f"/v1/rentals/{made['rental_id']}/end", key=str(uuid.uuid4())):
            rental["is_ended"] = given["is_ended"] = True

    async def purchase(self):
        """The question at the pump, and when it was approved the posting some time later."""
        authorization = "a-" + "".join(self.dice.choices("abcdefghijklmnop", k=24))
        # Where the car may be, where it surely is not, and mostly a station that nobody knows.
        station = self.dice.choices([*self.stations, "net-unknown"], [3, 1, 6])[0]
        body = {"authorization_id": authorization, "card_ref": f"ic_{self.dice.choice(self.cards)}", "at": rfc3339(time.time()),
                "amount_minor": self.dice.randrange(1_000, 9_000), "currency": "EUR", "partial_allowed": True,
                "merchant": {"network_id": station, "terminal_id": "1", "name": "Soak", "mcc": "5542"}}
        decided = await self.signed("authorisation", "/v1/payments/authorizations", body, "decision_id")
        if not decided:
            return
        if "decision_id" not in decided:
            # Promised nothing: the network heard the configured fallback, marked as such.
            self.answers["authorisation by the fallback"] += 1
            return
        self.promises.decisions[decided["decision_id"]] = decided
        if decided["settlement"] != "enabled":
            return
        await asyncio.sleep(self.dice.uniform(1, 15))
        body = {"authorization_id": authorization, "litres": round(self.dice.uniform(5, 45), 2), "product": "petrol",
                "amount_minor": body["amount_minor"]}
        if await self.signed("capture", "/v1/payments/captures", body, "posting_id"):
            self.promises.captures[decided["decision_id"]] = True

    async def signed(self, name, path, body, named):
        content, message = json.dumps(body).encode(), f"msg_{uuid.uuid4().hex}"
        done = await self.ask(name, "POST", path, signed=content, headers=signature(message, content))
        if done and named in done:
            self.repeat(path, None, message, content, named, done[named])
        return done

    def repeat(self, path, body, key, signed, named, told):
        if self.dice.random() < 0.2:
            # As its sender would: with the same idempotency key, or signed anew.
            headers = lambda: signature(key, signed) if signed is not None else {"Idempotency-Key": key}
            self.promises.repeatable.append((path, body, headers, signed, named, told))

    async def look(self):
        """Reads that a fleet's own systems make all day."""
        vehicle = self.dice.choice(self.vehicles)
        path = self.dice.choice([f"/v1/vehicles/{vehicle}", "/v1/vehicles?limit=100", "/v1/alerts?limit=50", "/v1/rentals?limit=50",
                                 "/v1/decisions?limit=50", f"/v1/vehicles/{vehicle}/history?from={rfc3339(time.time() - 600)}",
                                 "/v1/vehicles/available?near=45.07,7.68&profile=cabin", "/v1/audit?limit=50"])
        await self.ask(f"GET {path.split('?')[0].replace(vehicle, '{id}')}", "GET", path)

    # Consoles

    async def console(self):
        """One after the other: read and left in order, read and gone, or stalled until the gateway ends it."""
        while not self.is_over:
            try:
                socket = await Console.open(self.https)
            except Closed as error:
                self.console_ends[f"not opened: {str(error)[:40]}"] += 1
                await asyncio.sleep(1)
                continue
            self.consoles += 1
            try:
                await self.session(socket)
            except Closed as error:
                self.console_ends[f"closed by the gateway: {str(error)[:40]}"] += 1
                socket.vanish()
            finally:
                self.consoles -= 1
                self.console_frames += socket.frames

    async def session(self, socket):
        kind = self.dice.choices(["leaves", "vanishes", "stalls"], [5, 3, 2])[0]
        socket.say({"type": "subscribe", "form": self.dice.choice(["summary", "full"])})
        end = time.monotonic() + self.dice.uniform(10, 60)
        while time.monotonic() < end and not self.is_over:
            await socket.hear_for(5)
            if self.dice.random() < 0.02:
                socket.say({"type": "command", "id": "c", "vehicle_id": self.dice.choice(self.vehicles),
                            "command": {"type": "locate", "ttl_s": TTL_S}})
        if kind == "stalls":
            await asyncio.sleep(75)
            socket.vanish()
        elif kind == "leaves":
            await socket.leave()
        else:
            socket.vanish()
        self.console_ends[kind] += 1

    # Pace

    async def steadily(self, work, rate):
        """Starts `work` so often a second, whether or not the ones before are done, up to a limit."""
        due = time.monotonic()
        while not self.is_over and rate > 0:
            due += self.dice.expovariate(rate)
            await asyncio.sleep(max(0, due - time.monotonic()))
            if len(self.tasks) >= OUTSTANDING + 30 * self.rates["rental"]:
                self.skipped += 1
                continue
            task = asyncio.create_task(work())
            self.tasks.add(task)
            task.add_done_callback(self.done)

    def done(self, task):
        self.tasks.discard(task)
        if not task.cancelled() and task.exception():
            self.fault(f"the load itself failed: {task.exception()!r}")

    async def fill(self, seconds):
        """What is kept up to a number, the newest commands of each car and the newest answers to the payment network, is
        full when this ends: what grows afterwards is something else. These commands are not asked for again."""
        buying = asyncio.create_task(self.steadily(self.purchase, FILL_PURCHASES / seconds))
        try:
            for _ in range(FILL_COMMANDS):
                begun = time.monotonic()
                await self.to_many(self.vehicles)
                await asyncio.sleep(max(0, begun + seconds / FILL_COMMANDS - time.monotonic()))
        finally:
            buying.cancel()
        if len(self.promises.decisions) < FILL_DECIDED:
            self.fault(f"the warm-up was too short to fill the gateway: {len(self.promises.decisions)} of {FILL_DECIDED} "
                       "purchases were decided in it")

    async def run(self, seconds, fill_s=0):
        works = {"command": self.command, "bulk": self.bulk, "rental": self.rental, "purchase": self.purchase, "look": self.look}
        running = [asyncio.create_task(self.steadily(work, self.rates[name])) for name, work in works.items()]
        running += [asyncio.create_task(self.console()) for _ in range(self.rates["consoles"])]
        if fill_s:
            filling = asyncio.create_task(self.fill(fill_s))
            filling.add_done_callback(self.done)
        await asyncio.sleep(seconds)
        self.is_over = True
        done, late = await asyncio.wait(running, timeout=120)
        for task in done:
            if task.exception():
                self.fault(f"the load itself failed: {task.exception()!r}")
        for task in late:
            task.cancel()
        if self.tasks:
            await asyncio.wait(set(self.tasks), timeout=120)
