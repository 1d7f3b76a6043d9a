"""Runs schemathesis once for each role, each time at a fleet of its own. See `run` beside it."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fleet import CARS, ROLES, Fleet

SEED = 20261122
EVERYBODY = (*ROLES, "nobody")
# A request that fits the document is accepted, or refused for a reason of the present state. 410 and 422 are such reasons
# here (too late; an idempotency key that came before with something else), and 503 is when nothing can be promised.
REFUSALS = ["2xx", "3xx", "401", "403", "404", "409", "410", "422", "429", "503"]
# Operations that may answer 400 to what fits the document, because their rule is none that JSON Schema can tell.
RULES_BEYOND_SCHEMA = {
    "the sender's signature or time is part of it": [
        "POST /v1/payments/stripe", "POST /v1/payments/authorizations", "POST /v1/payments/captures",
        "POST /v1/payments/reversals", "POST /v1/payments/lithic", "POST /v1/payments/marqeta",
    ],
    "a WebSocket's handshake is no request of OpenAPI": ["GET /v1/console"],
    "what comes back from the provider must be of a log-in under way": ["GET /v1/session/oidc/callback"],
    "either of two fields, or one that another needs": [
        "POST /v1/session", "POST /v1/commands", "POST /v1/vehicles/{id}/commands", "GET /v1/stations",
    ],
    "a time after another": [
        "GET /v1/vehicles/available", "GET /v1/vehicles/{id}/history", "POST /v1/usage-requests", "POST /v1/card-rules/try",
        "GET /v1/decisions/export", "GET /v1/audit", "POST /v1/rentals/{id}/extend",
    ],
    "profiles of the configuration, time zones of the machine": [
        "POST /v1/vehicles", "PATCH /v1/vehicles/{id}", "POST /v1/stations", "PATCH /v1/stations/{id}",
    ],
    "names and texts are counted in bytes, and hold no card number": [
        "POST /v1/api-keys", "POST /v1/users", "POST /v1/cards", "PATCH /v1/cards/{id}",
    ],
    "a password is not the user's name, and the old one is right": ["PATCH /v1/users/{id}", "PUT /v1/session/password"],
    "the text is a language of its own: TOML, CSV, PKCS#10, COSE, signatures": [
        "POST /v1/card-rules", "POST /v1/stations/import", "POST /v1/vehicles/{id}/certificate",
        "POST /.well-known/est/simpleenroll", "POST /.well-known/est/simplereenroll",
        "POST /v1/keys/{id}/delegations", "POST /v1/keys/{id}/actions",
    ],
}
NOT_CHECKED = {
    # The peers' check needs log-ins that schemathesis knows how to do; tests/access_table.rs asks all of it.
    "object_level_authorization",
}


def ids(fleet):
    """Ids that exist, by what their path begins with."""
    listed = lambda path, field: [item[field] for item in fleet.must(200, "GET", path)["items"]]
    spare = fleet.must(201, "POST", "/v1/api-keys", {"name": "spare", "role": "auditor"})["api_key_id"]
    user = fleet.must(201, "POST", "/v1/users", {"name": "olga", "role": "operator", "password": "correct-horse-42"})
    return {
        "/v1/vehicles/{id}": [*CARS],
        "/v1/commands/{id}": listed("/v1/commands", "command_id"),
        "/v1/usage-requests/{id}": listed("/v1/usage-requests", "request_id"),
        "/v1/rentals/{id}": listed("/v1/rentals", "rental_id"),
        "/v1/keys/{id}": listed("/v1/keys", "key_id"),
        "/v1/api-keys/{id}": [spare],
        "/v1/users/{id}": [user["user_id"]],
        "/v1/cards/{id}": ["card-1", "card-3"],
        "/v1/stations/{id}": ["station-1"],
        "/v1/decisions/{id}": listed("/v1/decisions", "decision_id"),
        "/v1/confirmations/{id}": listed("/v1/decisions", "decision_id"),
        "/v1/alerts/{id}": listed("/v1/alerts", "alert_id"),
    }


def configuration(fleet, examples):
    """schemathesis.toml for this fleet: every check, the real ids in half of the requests, and the exceptions above."""
    text = json.dumps  # JSON's strings and lists are TOML's
    lines = [
        f"seed = {SEED}",
        "continue-on-failure = true",
        f"tls-verify = {text(fleet.ca)}",
        f"hooks = {text(str(Path(__file__).parent / 'hooks.py'))}",
        "[generation]",
        f"max-examples = {examples}",
        "deterministic = true",
        "[checks.positive_data_acceptance]",
        f"expected-statuses = {text(REFUSALS)}",
        *(f"[checks.{check}]\nenabled = false" for check in sorted(NOT_CHECKED)),
    ]
    known = ids(fleet)
    for number, values in enumerate(known.values()):
        lines += [f"[dictionaries.known{number}]", f"values = {text(values)}"]
    beyond = {operation for operations in RULES_BEYOND_SCHEMA.values() for operation in operations}
    for path, item in fleet.must(200, "GET", "/openapi.json")["paths"].items():
        for method in item:
            name = f"{method.upper()} {path}"
            number = next((n for n, prefix in enumerate(known) if path.startswith(prefix)), None)
            block = []
            if number is not None:
                block += [f'parameters = {{ "path.id" = {{ dictionary = "known{number}", probability = 0.6 }} }}']
            if name in beyond:
                block += [f"checks = {{ positive_data_acceptance = {{ expected-statuses = {text([*REFUSALS, '400'])} }} }}"]
                beyond.remove(name)
            if block:
                lines += ["[[operations]]", f"include-name = {text(name)}", *block]
    if beyond:
        raise RuntimeError(f"exceptions for operations that do not exist: {beyond}")
    return "\n".join(lines) + "\n"


def check(role, is_long):
    """True when schemathesis found nothing as this role; its report is in the reports' folder."""
    folder = Path(os.environ["REPORTS"]) / role
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with Fleet() as fleet:
        fleet.settle()
        (folder / "schemathesis.toml").write_text(configuration(fleet, 300 if is_long else 2))
        # The edges of every value as the one who gets furthest; they would say the same of each role. All of it with --long.
        phases = "examples,coverage,fuzzing,stateful" if is_long or role == "admin" else "examples,fuzzing,stateful"
        command = [
            str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(folder / "schemathesis.toml"),
            "run", fleet.http + "/openapi.json", "--checks", "all", "--phases", phases, "--report", "json",
            "--report-json-path", str(folder / "report.json"),
        ]
        if role != "nobody":
            command += ["--header", f"Authorization: Bearer {fleet.keys[role]}"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}, cwd=folder, check=False)
        (folder / "output.txt").write_text(done.stdout + done.stderr)
        (folder / "gateway.log").write_text("".join(fleet.log))
        lives = fleet.server.poll() is None
    summary = [line.strip() for line in done.stdout.splitlines() if " generated, " in line]
    took = time.monotonic() - started
    is_fine = done.returncode == 0 and lives
    print(f"{'ok    ' if is_fine else 'FAILED'} as {role}: {' '.join(summary)} ({took:.0f} s)", flush=True)
    if not is_fine:
        text = done.stdout + done.stderr
        begin = max(text.find("= FAILURES"), 0)
        print(text[begin : begin + 20_000])
        print(f"all of it: {folder / 'output.txt'}" + ("" if lives else "; THE GATEWAY ENDED"), flush=True)
    return is_fine


def main():
    arguments = sys.argv[1:]
    is_long = "--long" in arguments
    roles = [argument for argument in arguments if argument != "--long"] or EVERYBODY
    if unknown := set(roles) - set(EVERYBODY):
        sys.exit(f"no such role: {', '.join(unknown)}")
    # Two at once: the generator is one thread of Python and takes most of the time.
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda role: check(role, is_long), roles))
    failed = results.count(False)
    print(f"test result: {'FAILED' if failed else 'ok'}. {results.count(True)} passed; {failed} failed")
    sys.exit(1 if failed else 0)


main()
