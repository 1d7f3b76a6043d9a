"""Scans both ports at once and reads testssl's findings. See `run` beside it."""

import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fleet import Fleet

# Protocols, cipher categories, forward secrecy, server preference, and the known weaknesses that are of TLS itself. The
# certificate is of the fleet's own CA, and its trust is not the question.
SCANS = ("--protocols", "--std", "--fs", "--vulnerable")
FINE = {"OK", "INFO", "DEBUG"}
# What testssl says of every server without it, and why it is no weakness here.
KNOWN = {
    "engine_problem": "it is about the scanner's own OpenSSL",
    "BREACH": "it asks for compressed pages, and no secret stands in one",
}
# A scan that looked at less found nothing because it did not look.
EXPECTED = {"SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2", "TLS1_3", "heartbleed", "ROBOT", "secure_renego", "SWEET32", "LUCKY13"}


def scan(name, address):
    """What is wrong with the port, a line each."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        command = ["testssl", "--quiet", "--color", "0", "--warnings", "off", *SCANS]
        command += ["--jsonfile", str(found), address]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=600)
        try:
            findings = json.loads(found.read_text())
        except (OSError, ValueError):
            return [f"{name}: testssl wrote no findings: {done.stdout[-2000:]}{done.stderr[-2000:]}"]
    missing = EXPECTED - {finding["id"] for finding in findings}
    wrong = [f"{name}: {one} was not looked at" for one in sorted(missing)]
    for finding in findings:
        if finding["severity"] not in FINE and finding["id"] not in KNOWN:
            wrong.append(f"{name}: {finding['id']} is {finding['severity']}: {finding['finding']}")
    offered = {finding["id"]: finding["finding"] for finding in findings}
    for protocol in ("TLS1_2", "TLS1_3"):
        if not offered.get(protocol, "").startswith("offered"):
            wrong.append(f"{name}: {protocol} is not offered")
    print(f"{name}: {len(findings)} findings, {len(wrong)} of them wrong", flush=True)
    return wrong


def main():
    started = time.monotonic()
    with Fleet() as fleet:
        ports = {"https": fleet.http.removeprefix("https://"), "mqtt": fleet.mqtt}
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(scan, ports, ports.values()))
        lives = fleet.server.poll() is None
    wrong = [line for lines in results for line in lines]
    if not lives:
        wrong.append("the gateway ended")
    print(*wrong, sep="\n")
    failed = sum(bool(lines) for lines in results) + (not lives)
    print(f"scanned in {time.monotonic() - started:.0f} s")
    print(f"test result: {'FAILED' if failed else 'ok'}. {len(results) - failed} passed; {failed} failed")
    sys.exit(1 if failed else 0)


main()
