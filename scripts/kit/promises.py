"""What was answered with success, and whether it still holds."""
import asyncio
import collections
import time

# A command that is over. `unknown` is an end with a name: sent, and no word of the car until it expired.
FINAL = {"succeeded", "failed", "rejected", "expired", "cancelled", "superseded", "unknown"}
# After its end a command is swept within seconds; a busy machine gets more.
SWEPT_WITHIN_S = 30
AT_ONCE = 32
# Answers that are asked for again with the same idempotency key.
REPEATED = 500


class Promises:
    def __init__(self):
        self.commands = {}
        self.rentals = {}
        self.keys = {}
        self.decisions = {}
        self.captures = {}
        self.repeatable = collections.deque(maxlen=REPEATED)
        self.broken = []
        self.commands_by_state = collections.Counter()

    def breaks(self, what):
        self.broken.append(what)

    def command(self, body):
        self.commands[body["command_id"]] = body

    def latest_end(self):
        """Unix time after which every command must be over."""
        return max((unix(body["expires_at"]) for body in self.commands.values()), default=0) + SWEPT_WITHIN_S

    async def check(self, https):
        """Asks for everything again."""
        jobs = [(self.check_command, item) for item in self.commands.items()]
        jobs += [(self.check_rental, item) for item in self.rentals.items()]
        jobs += [(self.check_key, item) for item in self.keys.items()]
        jobs += [(self.check_decision, item) for item in self.decisions.items()]
        jobs += [(self.check_repeat, item) for item in self.repeatable]
        waiting = iter(jobs)

        async def work():
            for check, item in waiting:
                await check(https, item)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        return len(jobs)

    async def get(self, https, path):
        answer = await https.until_answered("GET", path)
        if answer.status != 200:
            self.breaks(f"GET {path}: {answer.status} {answer.problem()}, and it was promised")
            return None
        return answer.body

    async def check_command(self, https, item):
        command_id, told = item
        found = await self.get(https, f"/v1/commands/{command_id}")
        if not found:
            return
        self.commands_by_state[found["state"]] += 1
        # Bulk answers name the vehicle only.
        for name in ("vehicle_id", "type"):
            if name in told and found[name] != told[name]:
                self.breaks(f"command {command_id}: {name} was {told[name]} and is {found[name]}")
        is_over_time = time.time() > unix(found["expires_at"]) + SWEPT_WITHIN_S
        if found["state"] not in FINAL and is_over_time:
            self.breaks(f"command {command_id} is stuck: {found['state']} after {found['expires_at']}: {found['history']}")

    async def check_rental(self, https, item):
        rental_id, told = item
        found = await self.get(https, f"/v1/rentals/{rental_id}")
        if not found:
            return
        for name in ("vehicle_id", "renter", "key_id"):
            if found.get(name) != told[name]:
                self.breaks(f"rental {rental_id}: {name} was {told[name]} and is {found.get(name)}")
        if told["is_ended"] and found["state"] in ("booked", "active", "requested"):
            self.breaks(f"rental {rental_id} was ended and is {found['state']}")

    async def check_key(self, https, item):
        key_id, told = item
        found = await self.get(https, f"/v1/keys/{key_id}")
        if not found:
            return
        if found["vehicle_id"] != told["vehicle_id"] or sorted(found["permits"]) != sorted(told["permits"]):
            self.breaks(f"key {key_id} is another than was promised: {found}")
        if told["is_ended"] and found["state"] not in ("revoked", "expired"):
            self.breaks(f"key {key_id} was ended and is {found['state']}")

    async def check_decision(self, https, item):
        decision_id, told = item
        found = await self.get(https, f"/v1/decisions/{decision_id}")
        if not found:
            return
        if found["outcome"] != told["outcome"]:
            self.breaks(f"decision {decision_id} was {told['outcome']} and is {found['outcome']}")
        if decision_id in self.captures and not (found.get("reconciliation") or {}).get("postings"):
            self.breaks(f"decision {decision_id}: its capture was taken and is gone: {found.get('reconciliation')}")

    async def check_repeat(self, https, item):
        """The same request once more gets the same answer and does nothing."""
        path, body, headers, signed, named, told = item
        again = await https.until_answered("POST", path, body, headers(), signed)
        if again.status // 100 != 2 or again.body.get(named) != told:
            self.breaks(f"POST {path} once more: {again.status} {again.body}, the first answer had {named} {told}")


def unix(text):
    """Seconds of an RFC 3339 time in UTC."""
    whole, _, rest = text.rstrip("Z").partition(".")
    seconds = time.mktime(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) - time.timezone
    return seconds + float(f"0.{rest or 0}")
