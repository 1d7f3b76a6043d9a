"""Asks for a vehicle that is free, unlocks it, and follows the command until the car has said what became of it.

usage: CARDEA_URL=https://… CARDEA_API_KEY=ck_… [CARDEA_CA=ca.pem] python3 unlock.py [VEHICLE]

Needs nothing but Python's standard library.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid

FINAL = {"succeeded", "failed", "rejected", "expired", "cancelled", "superseded", "unknown"}


class Problem(Exception):
    """What the gateway says when it does not do what it was asked (RFC 9457)."""

    def __init__(self, body: dict, retry_after_s: int | None):
        super().__init__(f"{body['title']} ({body['status']}): {body['detail']}")
        self.slug = body["type"].removeprefix("urn:cardea:problem:")
        self.retry_after_s = retry_after_s


class Cardea:
    """The calls that this example needs."""

    def __init__(self, url: str, api_key: str, ca: str | None = None):
        self._url = url.rstrip("/")
        self._api_key = api_key
        self._tls = ssl.create_default_context(cafile=ca)

    def call(self, method: str, path: str, body: dict | None = None, idempotency_key: str | None = None) -> dict:
        request = urllib.request.Request(self._url + path, method=method)
        request.add_header("Authorization", f"Bearer {self._api_key}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if idempotency_key:
            request.add_header("Idempotency-Key", idempotency_key)
        try:
            with urllib.request.urlopen(request, timeout=40, context=self._tls) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            retry_after_s = error.headers.get("Retry-After")
            raise Problem(json.load(error), int(retry_after_s) if retry_after_s else None) from None

    def free_vehicle(self) -> str | None:
        items = self.call("GET", "/v1/vehicles/available?limit=1")["items"]
        return items[0]["vehicle_id"] if items else None

    def unlock(self, vehicle: str) -> dict:
        """The command when it is final. `succeeded` means that the car said so; `unknown`, that no word came."""
        path = f"/v1/vehicles/{urllib.parse.quote(vehicle)}/commands?wait_ms=10000"
        # Sent again with the same key, the request is answered from the record and nothing happens twice.
        command = self.call("POST", path, {"type": "unlock", "ttl_s": 60}, idempotency_key=str(uuid.uuid4()))
        while command["state"] not in FINAL:
            print(f"{vehicle}: {command['state']}")
            command = self.call("GET", f"/v1/commands/{command['command_id']}?wait_ms=10000")
        return command


def main() -> int:
    cardea = Cardea(os.environ["CARDEA_URL"], os.environ["CARDEA_API_KEY"], os.environ.get("CARDEA_CA"))
    try:
        vehicle = sys.argv[1] if len(sys.argv) > 1 else cardea.free_vehicle()
        if vehicle is None:
            print("no vehicle is free", file=sys.stderr)
            return 1
        command = cardea.unlock(vehicle)
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    print(f"{vehicle}: {command['state']}")
    return 0 if command["state"] == "succeeded" else 1


if __name__ == "__main__":
    sys.exit(main())
