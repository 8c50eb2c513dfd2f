"""How long a change takes, by who has it in hand: the agent, the pods that leave, the device plugin, the GPUs.

A node of simulated GPUs in a development cluster, with an idle agent of both roles. The layout label is edited, again and
again; times are those of the API server's request log, of watches beside the agent's, and of the agent's log. What is the
agent's own runs from the moment that the world is ready for its next step until that step begins. Then eight GPUs are cut into
three slices each while every call that changes one takes a second, with a driver that works on GPUs side by side and with one
that does not, beside one GPU alone.

    python -m hack.bench.latency [--rounds 10] [--call-seconds 1]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from agent.model import labels
from hack.bench.node import CONFIG, BenchNode, until
from hack.processes import Children

FIRST_PATCH_SECONDS = 0.3
OWN_SECONDS = 0.5
LONGEST_GPU = 1.3
CHANGES = (
    "nvmlDeviceCreateGpuInstanceWithPlacement",
    "nvmlGpuInstanceCreateComputeInstance",
    "nvmlGpuInstanceCreateComputeInstanceWithPlacement",
    "nvmlComputeInstanceDestroy",
    "nvmlGpuInstanceDestroy",
)
SMALL, LARGE = "nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb"


@dataclass
class Seen:
    """What passed by in one change, in seconds since the epoch."""

    edited: float = 0.0
    begun: float = 0.0
    evicted: float = 0.0
    gone: float = 0.0
    paused: float = 0.0
    stopped: float = 0.0
    resumed: float = 0.0
    shown: float = 0.0
    ended: float = 0.0
    cuts: list[tuple[float, float]] = field(default_factory=list)

    @property
    def cut_from(self) -> float:
        return min(begin for begin, _ in self.cuts)

    @property
    def cut_to(self) -> float:
        return max(end for _, end in self.cuts)

    @property
    def phases(self) -> dict[str, tuple[float, bool]]:
        """Seconds of each, and whether they are the agent's own."""
        ready = self.gone or self.begun
        phases = {"label edited to first patch": (self.begun - self.edited, True)}
        if self.evicted:
            phases["first patch to eviction"] = (self.evicted - self.begun, True)
            phases["pods leave"] = (self.gone - self.evicted, False)
            phases["pods gone to device plugin paused"] = (self.paused - ready, True)
        phases["device plugin stops"] = (max(0.0, self.stopped - self.paused), False)
        phases["stopped to first call"] = (max(0.0, self.cut_from - max(self.stopped, self.paused)), True)
        phases["GPUs are cut"] = (self.cut_to - self.cut_from, False)
        phases["cut to device plugin resumed"] = (self.resumed - self.cut_to, True)
        phases["device plugin starts and shows it"] = (self.shown - self.resumed, False)
        phases["shown to success"] = (self.ended - self.shown, True)
        return phases

    @property
    def own(self) -> float:
        return sum(seconds for seconds, own in self.phases.values() if own)

    @property
    def whole(self) -> float:
        return self.ended - self.edited


class Bench:
    """One node, its agent at rest, and who watches it."""

    def __init__(self, folder: Path, children: Children, gpus: str) -> None:
        self.node = BenchNode(folder, children, gpus)
        self._children = children
        self._events: list[tuple[float, dict[str, Any]]] = []

    def start(self, layout: str) -> None:
        """With this layout applied."""
        self.node.start_cluster("--pod-start", "0.1", "--pod-stop", "0.1", "--status-interval", "0.5")
        for path in ("/api/v1/nodes", "/api/v1/pods"):
            threading.Thread(target=self._follow, args=(path,), daemon=True).start()
        self.node.label({CONFIG: layout})
        self.node.start_agent()
        until(self.node.applied)
        time.sleep(1.0)

    def slow(self, seconds: float) -> None:
        """Every call that changes a GPU takes that long."""
        for function in CHANGES:
            self.node.simulator("latency", "--function", function, "--ms", str(int(seconds * 1000)))

    def change(self, layout: str, resources: Mapping[str, int]) -> Seen:
        """Edit the label; when all has come that is to come of it. ``resources``: what the node shows in the end."""
        since, first = self.node.last_request(), len(self._events)
        lines = len(self._children.log("agent").splitlines())
        seen = Seen(edited=time.time())
        self.node.label({CONFIG: layout})
        until(lambda: _has_ended([item["object"] for _, item in self._events[first:]]), 300.0, 0.02)
        events = self._events[first:]
        nodes = [(at, item["object"]) for at, item in events if item["object"]["kind"] == "Node"]
        pods = [(at, item) for at, item in events if item["object"]["kind"] == "Pod" and item["type"] == "DELETED"]
        seen.begun = next(at for at, node in nodes if labels.OPERATION in _annotations(node))
        seen.ended = next(at for at, node in nodes if at > seen.begun and labels.OPERATION not in _annotations(node))
        paused = [at for at, node in nodes if _labels(node).get(labels.DEVICE_PLUGIN) == labels.PAUSED]
        seen.paused = paused[0] if paused else seen.begun
        seen.resumed = next(
            at for at, node in nodes if at > seen.paused and _labels(node).get(labels.DEVICE_PLUGIN) == "true"
        )
        seen.shown = next(at for at, node in nodes if at > seen.resumed and _shows(node, resources))
        evictions = [one["at"] for one in self.node.requests(since) if one["object"].endswith("/eviction")]
        seen.evicted = max(evictions, default=0.0)
        seen.gone = max((at for at, item in pods if not _is_plugin(item)), default=0.0)
        seen.stopped = min((at for at, item in pods if _is_plugin(item)), default=0.0)
        for line in self._children.log("agent").splitlines()[lines:]:
            said = json.loads(line)
            if said["event"] == "step.done" and "gpu" in said:
                end = datetime.fromisoformat(said["ts"]).timestamp()
                seen.cuts.append((end - said["seconds"], end))
        return seen

    def _follow(self, path: str) -> None:
        # The node's last watch ends with the cluster.
        with contextlib.suppress(OSError, http.client.HTTPException), self.node.watched(path) as events:
            for item in events:
                self._events.append((time.time(), item))


def _annotations(item: Mapping[str, Any]) -> Mapping[str, str]:
    return item["metadata"].get("annotations") or {}


def _labels(item: Mapping[str, Any]) -> Mapping[str, str]:
    return item["metadata"].get("labels") or {}


def _has_ended(items: Sequence[Mapping[str, Any]]) -> bool:
    under_way = [labels.OPERATION in _annotations(node) for node in items if node["kind"] == "Node"]
    return True in under_way and not under_way[-1]


def _is_plugin(event: Mapping[str, Any]) -> bool:
    return "device-plugin" in event["object"]["metadata"]["name"]


def _shows(node: Mapping[str, Any], resources: Mapping[str, int]) -> bool:
    shown = {name: int(count) for name, count in (node["status"].get("allocatable") or {}).items() if "mig" in name}
    return {name: count for name, count in shown.items() if count} == dict(resources)


@contextmanager
def _bench(gpus: str, layout: str) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="latency-") as folder, Children(Path(folder)) as children:
        bench = Bench(Path(folder), children, gpus)
        bench.start(layout)
        yield bench


def _without_pods(rounds: int) -> list[Seen]:
    with _bench("H100-80GB-SXM:2", "7x1g.10gb") as bench:
        layouts = [("2x3g.40gb", {LARGE: 4}), ("7x1g.10gb", {SMALL: 14})]
        return [bench.change(*layouts[number % 2]) for number in range(rounds)]


def _with_pods(rounds: int) -> list[Seen]:
    """Each time two pods of a Deployment hold slices that have to go; there is no room for their successors until the end."""
    with _bench("H100-80GB-SXM:2", "7x1g.10gb") as bench:
        found = []
        for _ in range(rounds):
            bench.node.deploy("holders", SMALL, 14)
            found.append(bench.change("2x3g.40gb", {LARGE: 4}))
            bench.node.remove("holders")
            bench.change("7x1g.10gb", {SMALL: 14})
        return found


def _eight(seconds: float, gpus: int, parallel: bool) -> Seen:
    """From empty to three slices on each."""
    with _bench(f"H100-80GB-SXM:{gpus}", "enabled") as bench:
        bench.node.simulator("parallel", "on" if parallel else "off")
        bench.slow(seconds)
        return bench.change("3x2g.20gb", {"nvidia.com/mig-2g.20gb": 3 * gpus})


def _print_phases(name: str, found: Sequence[Seen]) -> None:
    print(f"{name} ({len(found)} changes), ms | whose | median | least | most")
    for phase in found[0].phases:
        times = [one.phases[phase][0] for one in found]
        _row(phase, "agent" if found[0].phases[phase][1] else "", times)
    _row("the agent's own share", "agent", [one.own for one in found])
    _row("whole", "", [one.whole for one in found])
    print()


def _row(name: str, whose: str, times: Sequence[float]) -> None:
    print(
        f"{name} | {whose} | "
        + " | ".join(f"{t * 1000:.0f}" for t in (statistics.median(times), min(times), max(times)))
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; 1 where a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--call-seconds", type=float, default=1.0)
    options = parser.parse_args(argv)
    idle, drained = _without_pods(options.rounds), _with_pods((options.rounds + 1) // 2)
    _print_phases("two GPUs, nobody on them", idle)
    _print_phases("two GPUs, pods on every slice", drained)
    seconds = options.call_seconds
    alone, parallel, serial = _eight(seconds, 1, True), _eight(seconds, 8, True), _eight(seconds, 8, False)
    print(f"calls of {seconds:g} s | GPUs are cut, s | whole change, s | beside one GPU")
    for name, seen in (("one GPU", alone), ("eight, side by side", parallel), ("eight, one at a time", serial)):
        print(f"{name} | {seen.cut_to - seen.cut_from:.1f} | {seen.whole:.1f} | {seen.whole / alone.whole:.2f}")
    first = max(statistics.median(one.begun - one.edited for one in found) for found in (idle, drained))
    own = max(statistics.median(one.own for one in found) for found in (idle, drained))
    ratio = parallel.whole / alone.whole
    print(
        f"limit: {FIRST_PATCH_SECONDS * 1000:g} ms from label to first patch; {first / FIRST_PATCH_SECONDS:.2f} of that"
    )
    print(f"limit: {OWN_SECONDS * 1000:g} ms for the agent's own share; {own / OWN_SECONDS:.2f} of that")
    print(f"limit: {LONGEST_GPU:g} times one GPU for eight side by side; {ratio / LONGEST_GPU:.2f} of that")
    return int(first > FIRST_PATCH_SECONDS or own > OWN_SECONDS or ratio > LONGEST_GPU)


if __name__ == "__main__":
    sys.exit(main())
