"""Several gateways of one fleet over NATS servers, with a balancer in front: what scripts/cluster starts and ends.

The NATS servers are made by scripts/kit/nats, the gateways by kit.gateway; CARDEA names another program than the release's.
"""
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

from .gateway import ROOT, Gateway, end

READY_WITHIN_S = 60


def steady_port():
    """A port nobody listens on, below the range that the system gives to those who connect: it stays free while its owner
    is down."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def usual_port(port):
    """This one if nobody has it, else another."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            return port
        except OSError:
            return steady_port()


class Nats:
    """NATS servers with JetStream, counted from 0."""

    def __init__(self, folder, servers=3):
        kit = f"{ROOT}/scripts/kit/nats"
        self.kit, self.folder = kit, folder
        self.binary = subprocess.run([kit, "install"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        made = subprocess.run([kit, "make", folder, "--servers", str(servers)], check=True, stdout=subprocess.PIPE, text=True)
        self.made = json.loads(made.stdout)
        self.processes = [self.launch(i) for i in range(servers)]
        subprocess.run([kit, "ready", folder], check=True)

    def launch(self, i):
        return subprocess.Popen([self.binary, "-c", f"{self.folder}/nats-{i + 1}.conf"])

    def sets(self):
        made = self.made
        return [f"cluster.servers={json.dumps(made['servers'])}", f"cluster.ca={made['ca']}",
                f"cluster.user={made['user']}", f"cluster.password={made['password']}",
                f"cluster.system_user={made['system_user']}", f"cluster.system_password={made['system_password']}",
                f"cluster.replicas={len(made['servers'])}"]

    def leader(self, stream):
        """The number of the server that leads the stream; None while nobody is known to."""
        for port, process in zip(self.made["monitors"], self.processes):
            if process.poll() is not None:
                continue
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/jsz?accounts=true&streams=true", timeout=2) as answer:
                    accounts = json.load(answer).get("account_details", [])
            except OSError:
                continue
            for detail in (detail for account in accounts for detail in account.get("stream_detail", [])):
                if detail["name"] == stream and detail.get("cluster", {}).get("leader"):
                    return int(detail["cluster"]["leader"].removeprefix("nats-")) - 1
        return None

    def restart(self, i):
        self.processes[i] = self.launch(i)

    def stop(self):
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            end(process)


def gateways(folder, nats, count=3, sets=()):
    """Nodes gw-1, gw-2, ... of one fleet: the same certificates, signing key and admin key, and a data folder each.
    One is started when it is asked for."""
    for number in range(1, count + 1):
        name = f"gw-{number}"
        ports = (steady_port(), steady_port(), steady_port())
        node = Gateway(folder, [*nats.sets(), f"cluster.node={name}", f"data.dir={folder}/{name}", *sets], ports, name=name)
        node.ports, node.name = ports, name
        yield node


def is_ready(node):
    try:
        with urllib.request.urlopen(f"{node.metrics}/readyz", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def metric(node, name):
    """The sum over its labels."""
    with urllib.request.urlopen(f"{node.metrics}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.replace("{", " ").split(" ")[0] == name)


def wait_until(what, is_so, within_s=READY_WITHIN_S):
    """How long it took."""
    begun = time.monotonic()
    while not is_so():
        if time.monotonic() > begun + within_s:
            raise TimeoutError(f"not within {within_s} s: {what}")
        time.sleep(0.05)
    return time.monotonic() - begun


def find(program):
    """Its path. Debian keeps some in /usr/sbin, which not every user's PATH has."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin")


def may_install():
    return shutil.which("apt-get") and os.geteuid() == 0


def install(package):
    print(f"== installing {package}", file=sys.stderr)
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], check=True, env=environment,
                   stdout=sys.stderr)


def install_haproxy():
    if not find("haproxy"):
        if not may_install():
            sys.exit("please install haproxy")
        install("haproxy")
    return find("haproxy")


# A gateway that is not ready gets no new connections. Those it has stay: were the NATS servers away, every gateway would be
# unready at once, and cars that are thrown out then have nowhere to go. TLS goes through: the gateways see the cars'
# certificates themselves.
CONFIG = """defaults
    mode tcp
    retries 3
    option redispatch 1
    timeout connect 1s
    timeout client 5m
    timeout server 5m
    timeout check 1s
    option httpchk GET /readyz
    default-server inter 500ms fall 2 rise 1
"""


class Balancer:
    """haproxy before the gateways: `https` and `mqtt` are where it listens."""

    def __init__(self, folder, nodes, https=8443, mqtt=8883):
        https, mqtt = usual_port(https), usual_port(mqtt)
        text = CONFIG
        for name, port, place, balance in (("https", https, 0, "roundrobin"), ("mqtt", mqtt, 1, "leastconn")):
            text += f"listen {name}\n    bind 127.0.0.1:{port}\n    balance {balance}\n"
            for node in nodes:
                text += f"    server {node.name} 127.0.0.1:{node.ports[place]} check port {node.ports[2]}\n"
        path = f"{folder}/haproxy.cfg"
        with open(path, "w") as file:
            file.write(text)
        self.https, self.mqtt = f"https://127.0.0.1:{https}", f"127.0.0.1:{mqtt}"
        self.log = open(f"{folder}/haproxy.log", "a")
        self.process = subprocess.Popen([install_haproxy(), "-db", "-f", path], stdout=self.log, stderr=self.log)
        wait_until("the balancer listens", lambda: self.listens(https))

    def listens(self, port):
        if self.process.poll() is not None:
            sys.exit(f"the balancer ended; see {self.log.name}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def stop(self):
        end(self.process)
