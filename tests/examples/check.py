"""Runs each example as its reader would. See `run` beside it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from fleet import Fleet

EXAMPLES = Path("examples").resolve()
# What the examples' README asks for, and no more.
SCOPES = ["vehicles:read", "commands:read", "commands:write"]


def run(fleet, command, *arguments, key):
    environment = {
        **os.environ, "CARDEA_URL": fleet.http, "CARDEA_API_KEY": key, "CARDEA_CA": fleet.ca,
        "NODE_EXTRA_CA_CERTS": fleet.ca,
    }
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, timeout=120, check=False)


def typescript(fleet):
    """The program, made with types from the document of this very gateway."""
    folder = EXAMPLES / "typescript"
    (folder / "openapi.json").write_text(json.dumps(fleet.must(200, "GET", "/openapi.json")))
    for script in ("types", "check"):
        done = subprocess.run(["npm", "run", "--silent", script], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"npm run {script}: {done.stdout}{done.stderr}")
    return ["node", str(folder / "dist" / "unlock.js")]


def wrong_with(fleet, command, key, stranger):
    """What the example does not do as it should, a line each."""
    wrong = []

    def claim(what, is_so, done):
        if not is_so:
            wrong.append(f"{what}: exit code {done.returncode}\n{done.stdout}{done.stderr}")

    done = run(fleet, command, key=key)
    claim("a free vehicle is unlocked", done.returncode == 0 and done.stdout.strip().endswith(": succeeded"), done)
    done = run(fleet, command, "CAR-2", key=key)
    claim("the vehicle that is named", done.returncode == 0 and "CAR-2: succeeded" in done.stdout, done)
    done = run(fleet, command, "NO-SUCH-CAR", key=key)
    claim("a problem is shown", done.returncode == 1 and "no such thing (404): " in done.stderr, done)
    done = run(fleet, command, key="ck_unknown")
    claim("a wrong key is told", done.returncode == 1 and "(401): the API key is not known" in done.stderr, done)
    done = run(fleet, command, "CAR-1", key=stranger)
    claim("a narrower key is told", done.returncode == 1 and "commands:write" in done.stderr, done)
    return wrong


def main():
    wanted = {"curl": ["curl", "jq", "openssl", "bash"], "python": ["python3"], "typescript": ["node", "npm"]}
    passed = failed = 0
    with Fleet() as fleet:
        fleet.drive()
        new = {"name": "example", "role": "operator", "scopes": SCOPES}
        key = fleet.must(201, "POST", "/v1/api-keys", new)["api_key"]
        stranger = fleet.must(201, "POST", "/v1/api-keys", {**new, "scopes": ["vehicles:read"]})["api_key"]
        commands = {
            "curl": lambda: [str(EXAMPLES / "curl" / "unlock.sh")],
            "python": lambda: [sys.executable, str(EXAMPLES / "python" / "unlock.py")],
            "typescript": lambda: typescript(fleet),
        }
        for name, needs in wanted.items():
            if missing := [program for program in needs if not shutil.which(program)]:
                print(f"SKIPPED: the {name} example needs {', '.join(missing)}")
                continue
            wrong = wrong_with(fleet, commands[name](), key, stranger)
            print(f"{'FAILED' if wrong else 'ok    '} {name}", *wrong, sep="\n", flush=True)
            passed, failed = passed + (not wrong), failed + bool(wrong)
    print(f"test result: {'FAILED' if failed else 'ok'}. {passed} passed; {failed} failed")
    sys.exit(1 if failed else 0)


main()
