"""The release build with a fleet of its own, and what plays its cars: what bench and soak start and end.

CARDEA and CARDEA_SIMULATOR name other programs than target/release's.
"""
import json
import os
import signal
import socket
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CARDEA = os.environ.get("CARDEA", f"{ROOT}/target/release/cardea")
SIMULATOR = os.environ.get("CARDEA_SIMULATOR", f"{ROOT}/target/release/cardea-simulator")
SECRET = "whsec_bench"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(port, process):
    for _ in range(200):
        if process.poll() is not None:
            sys.exit(f"a server ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit("a server did not listen within 10 s")


class Gateway:
    """A gateway over the fleet in a folder, made there at first; limits on single cars are raised, since one client plays
    many. `ports`: those of http, mqtt and metrics, for one that is to be found again after a restart. `name`: of its log,
    where several share the fleet."""

    def __init__(self, folder, sets=(), ports=(0, 0, 0), name="gateway"):
        self.fleet = os.path.join(folder, "fleet")
        if not os.path.exists(self.fleet):
            made = subprocess.run([CARDEA, "init", "--dir", self.fleet], check=True, capture_output=True, text=True)
            with open(os.path.join(folder, "admin"), "w") as file:
                file.write(json.loads(made.stdout)["admin_key"])
        with open(os.path.join(folder, "admin")) as file:
            self.admin_key = file.read()
        listens = [f"{part}.listen=127.0.0.1:{port}" for part, port in zip(("http", "mqtt", "metrics"), ports)]
        values = [*listens, f'payments.stripe.secrets=["{SECRET}"]', "http.rate_per_s=100000", "http.rate_burst=100000",
                  "mqtt.rate_per_s=100000", "mqtt.rate_burst=100000", *sets]
        self.command = [CARDEA, "serve", "--config", f"{self.fleet}/cardea.toml"]
        for value in values:
            self.command += ["--set", value]
        self.log = open(os.path.join(folder, f"{name}.log"), "a")
        self.ca, self.ca_key = f"{self.fleet}/certs/ca.pem", f"{self.fleet}/certs/ca.key.pem"
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the gateway did not start; see {self.log.name}")
        ready = json.loads(line)
        self.http, self.mqtt, self.metrics = ready["http"], ready["mqtt"], ready["metrics"]

    def fleet_args(self):
        return ["--mqtt", self.mqtt, "--ca", self.ca, "--ca-key", self.ca_key]

    def http_args(self):
        return ["--http", self.http, "--http-ca", self.ca, "--admin-key", self.admin_key]

    def stop(self):
        end(self.process)


def end(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def simulate(*arguments):
    command = [SIMULATOR, "bench", "--json", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout)
