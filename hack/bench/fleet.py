"""What a fleet costs its API server: at rest, while all nodes change, in a restart of the API server, after a catalog edit.

The real loops of every node's two agents, over GPUs in memory, in one process (large fleets: two); the development API server
in another, with its request log. Beside each figure stands what a model on paper says (fleet_model.py). The API server is a
Python program: its requests and bytes are what a real one would see, its memory and its times are its own. Connections are
joined in one, without TLS (hack.joined). At rest watches are renewed up to sixty times as often here as in a fleet, so that
ten seconds show ten minutes, and the figures are divided by that; afterwards they are not renewed, so that a change is counted
alone. Small fleets are labelled at once, and a tenth of them may be in change. Of 10,000 nodes fifteen are labelled in a second,
twenty may be in change, and ``reconnect_jitter_seconds`` is 100: that one Python program can answer. The API server restarts
twice: its watches break, and they end in order, as those of one that is told to stop.

    python -m hack.bench.fleet [--nodes 100 1000] [--full]      --full: 10,000 nodes too (an hour, 15 GB)
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.model import labels
from agent.model.fleet import LEADER, SLOT_PREFIX
from hack.bench.fleet_agents import NAMESPACE, node_name
from hack.bench.fleet_model import (
    AWAY_SECONDS,
    KUBELET_SECONDS,
    RESYNC_SECONDS,
    WATCHES,
    Model,
)
from hack.bench.node import CONFIG, STATE, ApiClient, until
from hack.hub.server import Hub
from hack.processes import Children, rss_mb
from tests.fakes.hub import tiny_model

MOST_BESIDE_PAPER, MOST_OF_A_PEAK = 1.1, 1.5
LARGE = 5000
FASTER, MOST_RENEWED_FASTER = 60.0, 40_000
"""What one Python program can answer sets how much faster the watches of so many nodes are renewed."""
LABELLED_A_SECOND, MOST_OF_LARGE = 15.0, "20"
"""Of large fleets: two cores that API server and all agents share answer no more. Smaller ones are labelled at once."""
MODEL = "org/tiny"
LAYOUTS = """\
version: v1
mig-configs:
  mixed: [{devices: all, mig-enabled: true, mig-devices: {3g.40gb: 1, 1g.10gb: 4}}]
"""
LABEL = f"{labels.MODEL_PREFIX}org--tiny"
_FILLER = 14_000
"""Bytes that make a node object as long as real ones are."""


@dataclass(slots=True)
class Seen:
    """What the API server was asked for in a while by agents."""

    entries: list[Mapping[str, Any]]
    seconds: float

    @property
    def verbs(self) -> Counter[str]:
        return Counter(entry["verb"] for entry in self.entries)

    @property
    def peak(self) -> int:
        """Most requests in one second."""
        return max(Counter(int(entry["at"]) for entry in self.entries).values(), default=0)

    @property
    def node_writes(self) -> int:
        return self.count("patch", "nodes/")

    def count(self, verb: str, beginning: str) -> int:
        """Requests about objects whose name begins so."""
        return len([e for e in self.entries if e["verb"] == verb and e["object"].startswith(beginning)])

    def per_second_at_rest(self, faster: float) -> float:
        """Renewals of watches come so much faster here than in a fleet; whatever else there is comes as it comes."""
        renewals = len([entry for entry in self.entries if _is_own_watch(entry)])
        return (renewals / faster + len(self.entries) - renewals) / self.seconds


@dataclass(slots=True)
class Result:
    """Measurements of one fleet."""

    nodes: int
    faster: float
    rest: Seen
    relabel: Seen
    restart: Seen
    stop: Seen
    catalog: Seen
    heartbeat_bytes: float
    server_mb: float

    @property
    def leaders(self) -> int:
        """Requests of whoever leads: terms, the view of all nodes and slots, grants (each node confirms its own once)."""
        leases = f"{NAMESPACE}/leases"
        seen = [e for e in self.relabel.entries if e["verb"] in ("list", "watch") and "fieldSelector" not in e["query"]]
        whole = [e for e in seen if e["object"] in ("nodes", leases)]
        renewals = self.relabel.count("patch", f"{leases}/{LEADER}")
        return len(whole) + renewals + self.relabel.count("patch", f"{leases}/{SLOT_PREFIX}") - self.nodes

    @property
    def looks(self) -> int:
        """For the leader, by all who wait."""
        return self.relabel.count("get", f"{NAMESPACE}/leases/{LEADER}")

    @property
    def reports_kb_per_second(self) -> float:
        return self.heartbeat_bytes / 1000 * self.nodes / KUBELET_SECONDS


class Fleet:
    """So many nodes, all watching."""

    def __init__(self, folder: Path, children: Children, nodes: int, commit: str) -> None:
        self._folder = folder
        self._children = children
        self._nodes = nodes
        self._commit = commit
        self.faster = min(FASTER, MOST_RENEWED_FASTER / nodes)
        half = nodes // 2 if nodes >= LARGE else 0
        shares = range(half), range(half, nodes)
        self._agents = {f"agents-{share.start}": share for share in shares if share}
        self._api: ApiClient

    def start(self) -> float:
        """Returns the memory of the API server in MB before anybody watches."""
        for name, text in (("layouts", LAYOUTS), ("catalog", "models: []\n")):
            (self._folder / f"{name}.yaml").write_text(text, "utf-8")
        socket = str(self._folder / "joined")
        command = [sys.executable, "-m", "hack.devcluster", "--run-dir", str(self._folder), "--joined", socket]
        self._children.start("cluster", [*command, "--api-only", "--log-length", str(200 * self._nodes + 20_000)])
        kubeconfig = self._folder / "kubeconfig"
        until(lambda: kubeconfig.exists() and self._children.log("cluster") != "")
        self._api = ApiClient(kubeconfig)
        self._api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        for number in range(self._nodes):
            self._api.ask("POST", "/api/v1/nodes", _node(node_name(number)))
        before = rss_mb(self._children.pid("cluster"))
        agents = [sys.executable, "-m", "hack.bench.fleet_agents", str(kubeconfig), socket, str(self._folder)]
        jitter = ["--jitter-seconds", str(Model(self._nodes).jitter_seconds)]
        resync = ["--resync-seconds", str(RESYNC_SECONDS / self.faster)]
        most = ["--max-unavailable", MOST_OF_LARGE if self._nodes >= LARGE else "10%"]
        for name, share in self._agents.items():
            self._children.start(name, [*agents, str(share.start), str(len(share)), *resync, *jitter, *most])
        until(lambda: all("watching" in self._children.log(name) for name in self._agents), 3600.0)
        time.sleep(5.0)
        return before

    def measure(self) -> Result:
        before = self.start()
        memory = rss_mb(self._children.pid("cluster")) - before
        renewed_seconds = RESYNC_SECONDS / self.faster
        # Watches last from half to one and a half times as long: before, fewer end than in a fleet that has run for a while.
        time.sleep(renewed_seconds)
        with self._looking() as rest:
            time.sleep(renewed_seconds)
        for name in self._agents:
            os.kill(self._children.pid(name), signal.SIGUSR1)
        heartbeat = self._heartbeat()
        time.sleep(renewed_seconds * 1.6)
        with self._looking() as relabel:
            self._label_all()
            self._until_all(STATE, "success")
        restart, stop = (self._restarted(in_order) for in_order in ("false", "true"))
        with self._looking() as catalog:
            edited = f"models: [{{repository: {MODEL}, revision: {self._commit}}}]\n"
            (self._folder / "catalog.yaml").write_text(edited, "utf-8")
            self._until_all(LABEL, "ready")
        return Result(self._nodes, self.faster, rest, relabel, restart, stop, catalog, heartbeat, memory)

    def _restarted(self, in_order: str) -> Seen:
        """Until all watch again. Something has changed since they began to, as there always is."""
        self._api.ask("PATCH", f"/api/v1/namespaces/{NAMESPACE}", {"metadata": {"labels": {"restarts": in_order}}})
        with self._looking() as seen:
            since = self._api.last_request()
            self._api.ask("POST", f"/_dev/restart?forgets=true&away_s={AWAY_SECONDS:g}&in_order={in_order}", {})
            until(lambda: self._api.open_requests(since) >= WATCHES * self._nodes, 3600.0, self._look_seconds)
        return seen

    def _label_all(self) -> None:
        began, pause = time.monotonic(), 1 / LABELLED_A_SECOND if self._nodes >= LARGE else 0.0
        for number in range(self._nodes):
            time.sleep(max(0.0, began + number * pause - time.monotonic()))
            self._api.ask("PATCH", f"/api/v1/nodes/{node_name(number)}", {"metadata": {"labels": {CONFIG: "mixed"}}})

    @property
    def _look_seconds(self) -> float:
        """Between two looks at all nodes, which cost the API server something too."""
        return max(1.0, self._nodes / 1000)

    @contextmanager
    def _looking(self) -> Iterator[Seen]:
        since, began, seen = self._api.last_request(), time.monotonic(), Seen([], 0.0)
        yield seen
        seen.seconds = time.monotonic() - began
        seen.entries = [e for e in self._api.requests(since) if e["user_agent"].startswith("warmslice")]

    def _until_all(self, label: str, value: str) -> None:
        path = f"/api/v1/nodes?limit=1&labelSelector={label}%3D{value}"

        def missing() -> bool:
            listed = self._api.ask("GET", path)
            there = len(listed["items"]) + (listed["metadata"].get("remainingItemCount") or 0)
            return bool(there < self._nodes)

        until(lambda: not missing(), 7200.0, self._look_seconds)

    def _heartbeat(self) -> float:
        """Bytes that one kubelet's report makes the API server send to agents."""
        before = self._watch_bytes()
        reports = range(0, self._nodes, max(1, self._nodes // 50))
        for number in reports:
            status = {"status": {"conditions": [{"type": "Ready", "status": "True", "message": str(time.time())}]}}
            self._api.ask("PATCH", f"/api/v1/nodes/{node_name(number)}/status", status)
        time.sleep(2.0)
        return (self._watch_bytes() - before) / len(reports)

    def _watch_bytes(self) -> int:
        return sum(entry["bytes_sent"] for entry in self._api.requests(verb="watch"))


def _is_own_watch(entry: Mapping[str, Any]) -> bool:
    """A list or watch of an agent's own node, or of its pods."""
    own = "nodeName" in entry["query"] or ("metadata.name" in entry["query"] and "nodes" in entry["path"])
    return own and entry["verb"] in ("list", "watch")


def _node(name: str) -> dict[str, Any]:
    amounts = {"cpu": "64", "memory": "512Gi", "pods": "110"}
    images = [{"names": [f"registry.example.com/{'x' * 200}/{n}"], "sizeBytes": 10**9} for n in range(_FILLER // 250)]
    status = {
        "capacity": amounts,
        "allocatable": amounts,
        "conditions": [{"type": "Ready", "status": "True"}],
        "images": images,
    }
    return {"metadata": {"name": name}, "status": status}


async def _pulled(folder: Path) -> str:
    """A model on the disk that all nodes have; the commit."""
    served = folder / "served"
    served.mkdir()
    model = tiny_model(served, repository=MODEL)
    (folder / "pull.yaml").write_text(f"models: [{{repository: {MODEL}, revision: {model.commit}}}]\n", "utf-8")
    async with Hub({MODEL: model}) as hub:
        flags = [
            f"--catalog-file={folder / 'pull.yaml'}",
            f"--cache-directory={folder / 'hub'}",
            f"--hub-endpoint={hub.url}",
        ]
        command = [sys.executable, "-m", "agent", "cache", "pull", *flags, "--cache-reserve-ratio=0"]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        if await process.wait() != 0:
            raise SystemExit("the model could not be pulled")
    return model.commit


def _measured(nodes: int) -> Result:
    with tempfile.TemporaryDirectory(prefix="fleet-") as name, Children(Path(name)) as children:
        folder = Path(name)
        return Fleet(folder, children, nodes, asyncio.run(_pulled(folder))).measure()


@dataclass(frozen=True, slots=True)
class Row:
    """Of the whole fleet. ``most``: how many times the figure on paper is too much."""

    name: str
    measured: Callable[[Result], float]
    paper: Callable[[Model], float]
    most: float | None = MOST_BESIDE_PAPER

    def share(self, result: Result) -> float:
        """Of the limit; 0 where there is none."""
        return self.measured(result) / self.paper(Model(result.nodes)) / self.most if self.most is not None else 0.0


WHOLE = (
    Row("at rest, requests/s", lambda m: m.rest.per_second_at_rest(m.faster), lambda p: p.rest_per_second),
    Row("all nodes change, requests", lambda m: m.relabel.verbs.total(), lambda p: p.relabel_requests),
    Row("of these, writes of nodes", lambda m: m.relabel.node_writes, lambda p: p.node_writes, 1.0),
    Row("API server restarts, requests", lambda m: m.restart.verbs.total(), lambda p: p.restart_requests),
    Row("of these, most in a second", lambda m: m.restart.peak, lambda p: p.restart_peak, MOST_OF_A_PEAK),
    Row(
        "API server ends in order and restarts, requests", lambda m: m.stop.verbs.total(), lambda p: p.restart_requests
    ),
    Row("of these, most in a second", lambda m: m.stop.peak, lambda p: p.restart_peak, MOST_OF_A_PEAK),
    Row("catalog edited, model on disk, requests", lambda m: m.catalog.verbs.total(), lambda p: p.catalog_requests),
    Row("kubelets' reports, kB/s to agents", lambda m: m.reports_kb_per_second, lambda p: p.heartbeat_kb_per_second),
    Row("memory of the API server for watches, MB", lambda m: m.server_mb, lambda p: p.watch_memory_mb, None),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; 1 where something costs more than on paper."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args(argv)
    sizes = [*options.nodes, *([10_000] if options.full else [])]
    with ThreadPoolExecutor() as pool:
        # Side by side, but for the largest, which needs the machine: most of the time is waiting.
        results = list(pool.map(_measured, [nodes for nodes in sizes if nodes < LARGE]))
    results += [_measured(nodes) for nodes in sizes if nodes >= LARGE]
    _print_whole(results, [10_000] if sizes[-1] < 10_000 else [])
    _print_each(results)
    share, row = max(((row.share(one), row) for one in results for row in WHOLE), key=lambda pair: pair[0])
    print(
        f"limit of a row: {MOST_BESIDE_PAPER:g} times what is on paper; of a peak {MOST_OF_A_PEAK:g}, of writes 1, of memory none"
    )
    print(f"nearest to it, {share:.2f} of that: {row.name}")
    return int(share > 1)


def _print_whole(results: Sequence[Result], unmeasured: Sequence[int]) -> None:
    heads = [f"{one.nodes:,} measured | on paper" for one in results] + [f"{nodes:,} on paper" for nodes in unmeasured]
    print(" | ".join(["the whole fleet", *heads]))
    for row in WHOLE:
        cells = [f"{row.measured(one):,.1f} | {row.paper(Model(one.nodes)):,.1f}" for one in results]
        print(" | ".join([row.name, *cells, *(f"{row.paper(Model(nodes)):,.1f}" for nodes in unmeasured)]))
    print()


def _print_each(results: Sequence[Result]) -> None:
    print(" | ".join(["of one node", *(f"{one.nodes:,} nodes" for one in results), "last / first"]))
    rows = {
        "change, requests": [one.relabel.verbs.total() / one.nodes for one in results],
        "change, writes of the node": [one.relabel.node_writes / one.nodes for one in results],
        "change, of these to look for the leader": [one.looks / one.nodes for one in results],
        "change, of these the leader's": [one.leaders / one.nodes for one in results],
        "restart of the API server, requests": [one.restart.verbs.total() / one.nodes for one in results],
        "catalog edit, model on disk, requests": [one.catalog.verbs.total() / one.nodes for one in results],
        "report of its kubelet, kB sent": [one.heartbeat_bytes / 1000 for one in results],
        "API server's memory (Python), MB": [one.server_mb / one.nodes for one in results],
        "seconds until all watch again": [one.restart.seconds for one in results],
        "seconds until all have changed": [one.relabel.seconds for one in results],
    }
    for name, values in rows.items():
        print(
            " | ".join(
                [name, *(f"{value:.2f}" for value in values), f"{values[-1] / values[0]:.2f}" if values[0] else ""]
            )
        )
    print()


if __name__ == "__main__":
    sys.exit(main())
