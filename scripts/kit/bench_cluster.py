"""The same work on one machine's own store, and on a cluster of one and of three: `scripts/bench cluster`.

All of it runs on this one machine: three gateways and three NATS servers share its cores and its disk, so that the figures
for three are what a cluster costs, not what it can do on machines of its own.
"""
import json
import os
import subprocess

from .cluster import Nats, gateways
from .gateway import ROOT, SECRET, Gateway, simulate


def appends(sets, seconds):
    command = ["cargo", "bench", "--quiet", "--locked", "--bench", "appends", "--", "--seconds", str(seconds)]
    for value in sets:
        command += ["--set", value]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])["rows"]


class Engine:
    """Where records are kept, with the gateways over it."""

    def __init__(self, folder, servers):
        self.folder, self.servers = folder, servers
        os.makedirs(folder, exist_ok=True)
        self.nats = Nats(os.path.join(folder, "nats"), servers) if servers else None
        self.sets = self.nats.sets() if self.nats else []
        if servers == 1:
            self.sets = [*self.sets, "cluster.accept_unsafe=true"]

    def appends(self, seconds):
        return appends([*self.sets, "cluster.node=bench", "cluster.stream=BENCH"] if self.nats else [], seconds)

    def start(self):
        if not self.nats:
            return [Gateway(self.folder)]
        extra = ["cluster.accept_unsafe=true"] if self.servers == 1 else []
        return list(gateways(self.folder, self.nats, self.servers, extra))

    def stop(self):
        if self.nats:
            self.nats.stop()


def commands(asked, has_cars, cars, seconds):
    """`asked`: the gateway that gets the requests; `has_cars`: the one that the cars are connected to."""
    simulate("register", "--cars", cars, *asked.http_args())
    run = simulate("command-latency", "--cars", cars, "--rate", 500, "--seconds", seconds,
                   *has_cars.fleet_args(), *asked.http_args())
    return {"p50_ms": run["arrival"]["p50_us"] / 1000, "p99_ms": run["arrival"]["p99_us"] / 1000,
            "lost": run["not_arrived"] + run["failures"]}


def cards(asked, has_cars, count, seconds):
    simulate("register", "--cars", count, "--cards", count, "--rentals", *asked.http_args())
    run = simulate("card-decisions", "--cards", count, "--seconds", seconds, "--secret", SECRET, "--rate", 500,
                   *asked.http_args(), *has_cars.fleet_args())
    return {"p50_ms": run["latency"]["p50_us"] / 1000, "p99_ms": run["latency"]["p99_us"] / 1000, "lost": run["errors"]}


def measure(folder, quick):
    cars, seconds = (50, 3) if quick else (500, 10)
    table = []
    for name, servers in (("local store", 0), ("cluster of 1", 1), ("cluster of 3", 3)):
        print(f"{name} ...", flush=True)
        engine = Engine(os.path.join(folder, f"engine-{servers}"), servers)
        row = {"engine": name, "appends": engine.appends(2 if quick else 5)}
        nodes = engine.start()
        try:
            row["commands"] = commands(nodes[0], nodes[0], cars, seconds)
            if len(nodes) > 1:
                row["commands_elsewhere"] = commands(nodes[1], nodes[0], cars, seconds)
            row["cards"] = cards(nodes[0], nodes[0], cars, seconds)
        finally:
            for node in nodes:
                node.stop()
            engine.stop()
        table.append(row)
    return table


def show(table):
    columns = [("engine", lambda row: row["engine"])]
    for index, writers in enumerate((1, 16, 64, 256)):
        columns.append((f"appends/s, {writers} at once", lambda row, index=index: f"{row['appends'][index]['appends_per_s']:,.0f}"))
    columns.append(("append p99, 64 at once", lambda row: f"{row['appends'][2]['p99_us'] / 1000:.1f} ms"))
    for key, title in (("commands", "command p50 / p99, 500/s"), ("commands_elsewhere", "asked at another gateway"),
                       ("cards", "card decision p50 / p99, 500/s")):
        columns.append((title, lambda row, key=key: f"{row[key]['p50_ms']:.2f} / {row[key]['p99_ms']:.1f} ms"
                        + (f", {row[key]['lost']} lost" if row[key]["lost"] else "") if key in row else ""))
    for title, cell in columns:
        print(f"{title:32}" + "".join(f"{cell(row):>28}" for row in table))
