"""What an agent costs that has nothing to do: memory, CPU, wake-ups, threads, descriptors, API requests beside its watches.

Its two roles as two processes, each with a pod's service account where a mount namespace of its own can be had (else with a
kubeconfig, whose reader costs 9 MB more), on a node of simulated GPUs that are cut into slices. Beside them in the same run a
bare watch of the same node and its pods by the same client library, as its documentation shows it, and nvitop-exporter.

PSS divides a page by all processes that have it, and here others have Python's too. So there is also what the two roles would
have if nobody else were there: their private pages, and each shared page once. The limits hold for their sum, with the default
settings. Watches are renewed about every ten minutes, so a run of more shows what one of two does not.

    python -m hack.bench.idle [--minutes 2] [--gpus 8]
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hack.bench.node import CONFIG, BenchNode, until
from hack.ports import free_port
from hack.processes import Children

MOST_MB = 90.0
MOST_CPU_PERCENT = 0.3
MOST_REQUESTS_A_MINUTE, MOST_WATCHES_A_MINUTE = 2.0, 1.0
MOST_SECONDS_TO_READY = 3.0
ROLES = ("partition", "cache")
WATCHES = """
import asyncio, os
from kubernetes.aio import client, config, watch
async def follow(call, **what):
    while True:
        async with watch.Watch().stream(call, **what) as events:
            async for _ in events:
                pass
async def main():
    await config.load_kube_config()
    async with client.ApiClient() as api:
        api.user_agent = "bare-watch"
        core = client.CoreV1Api(api)
        await asyncio.gather(
            follow(core.list_node, field_selector="metadata.name=gpu-1"),
            follow(core.list_pod_for_all_namespaces, field_selector="spec.nodeName=gpu-1"),
        )
asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process, in MB. ``shared``: file pages that others have too, by file."""

    pss: float
    private: float
    shared: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Row:
    """What a program used while it was looked at."""

    name: str
    cpu_percent: float
    wakes: float
    memory: tuple[Memory, ...]
    threads: int
    files: int
    requests: Counter[str] | None
    minutes: float

    @property
    def watches(self) -> float:
        """Opened in a minute; None of ``requests``: not told apart from others'."""
        return self.requests["watch"] / self.minutes if self.requests is not None else 0.0

    @property
    def beside_watches(self) -> float:
        return self.requests.total() / self.minutes - self.watches if self.requests is not None else 0.0

    @property
    def alone(self) -> float:
        """MB if these processes were the only ones."""
        most: dict[str, float] = {}
        for one in self.memory:
            for file, size in one.shared.items():
                most[file] = max(most.get(file, 0.0), size)
        return sum(one.private for one in self.memory) + sum(most.values())

    def cells(self) -> tuple[str, ...]:
        numbers = (sum(one.pss for one in self.memory), self.alone, self.cpu_percent, self.wakes)
        requests = [f"{n:.2f}" if self.requests is not None else "" for n in (self.watches, self.beside_watches)]
        counts = (str(self.threads), str(self.files))
        return (self.name, *(f"{n:.2f}" for n in numbers), *counts, *requests)


class Bench:
    """``gpus`` H100, cut into seven slices each."""

    def __init__(self, folder: Path, children: Children, gpus: int) -> None:
        self._children = children
        self._node = BenchNode(folder, children, f"H100-80GB-SXM:{gpus}")
        self.ready: dict[str, float] = {}

    def start(self) -> None:
        """The cluster, the agent with its layout applied, the peers."""
        self._node.start_cluster()
        self._node.label({CONFIG: "all-1g.10gb"})
        self._node.start_roles()
        until(self._node.applied)
        for role in ROLES:
            # A second start, on a node that has its layout: the first one made it.
            self._children.end(role)
            began = time.monotonic()
            self._node.start_role(role)
            until(partial(self._is_ready, role), every=0.01)
            self.ready[role] = time.monotonic() - began
        self._children.start("bare watch", [sys.executable, "-c", WATCHES], self._node.environment)
        exporter = [str(Path(sys.executable).parent / "nvitop-exporter"), "--bind-address", "127.0.0.1"]
        self._children.start("nvitop-exporter", [*exporter, "--port", str(free_port())], self._node.environment)
        time.sleep(10.0)

    def _is_ready(self, role: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._node.address(role)}/readyz", timeout=1.0) as answer:
                return bool(answer.status == 200)
        except (OSError, ValueError):
            return False

    def measure(self, minutes: float) -> list[Row]:
        """A row for both roles together, one for each, and the peers."""
        programs = {"warmslice": ROLES, **{name: (name,) for name in (*ROLES, "bare watch", "nvitop-exporter")}}
        agents = {"warmslice": "warmslice", "bare watch": "bare-watch"}
        pids = {name: tuple(map(self._children.pid, parts)) for name, parts in programs.items()}
        since = self._node.last_request()
        before = {name: (_cpu_seconds(those), _wakes(those)) for name, those in pids.items()}
        time.sleep(minutes * 60)
        seen, rows = self._node.requests(since), []
        for name, those in pids.items():
            cpu, wakes = _cpu_seconds(those) - before[name][0], _wakes(those) - before[name][1]
            agent = agents.get(name)
            asked = [entry["verb"] for entry in seen if agent and entry["user_agent"].startswith(agent)]
            requests = Counter(asked) if agent else None
            threads = sum(len(os.listdir(f"/proc/{pid}/task")) for pid in those)
            files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in those)
            share, rate = cpu / (minutes * 60) * 100, wakes / (minutes * 60)
            memory = tuple(map(_memory, those))
            rows.append(Row(name, share, rate, memory, threads, files, requests, minutes))
        return rows


def _cpu_seconds(pids: Sequence[int]) -> float:
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split() for pid in pids]
    return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")


def _wakes(pids: Sequence[int]) -> int:
    files = [file for pid in pids for file in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(
        int(re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", file.read_text(), re.MULTILINE)[0]) for file in files
    )


def _memory(pid: int) -> Memory:
    """From smaps: what is private is in no other process."""
    pss = private = 0.0
    shared: defaultdict[str, float] = defaultdict(float)
    file = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0]:
            file = f"{words[5] if len(words) > 5 else ''} {words[2]}"
        elif words[0] == "Pss:":
            pss += int(words[1]) / 1024
        elif words[0].startswith("Private_"):
            private += int(words[1]) / 1024
        elif words[0] in ("Shared_Clean:", "Shared_Dirty:"):
            shared[file] += int(words[1]) / 1024
    return Memory(pss, private, shared)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 where a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--gpus", type=int, default=2)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="idle-") as folder, Children(Path(folder)) as children:
        bench = Bench(Path(folder), children, options.gpus)
        bench.start()
        rows = bench.measure(options.minutes)
    head = (
        "PSS, MB",
        "MB if alone",
        "CPU, % of a core",
        "wake-ups/s",
        "threads",
        "files",
        "watches/min",
        "other requests/min",
    )
    print(" | ".join((f"{options.gpus} GPUs, {7 * options.gpus} slices", *head)))
    for row in rows:
        print(" | ".join(row.cells()))
    print()
    print("start to ready | s")
    for role, seconds in bench.ready.items():
        print(f"{role} | {seconds:.2f}")
    both = rows[0]
    limits = {
        f"{MOST_MB:g} MB for both roles": max(sum(one.pss for one in both.memory), both.alone) / MOST_MB,
        f"{MOST_CPU_PERCENT:g} % of a core": both.cpu_percent / MOST_CPU_PERCENT,
        f"{MOST_REQUESTS_A_MINUTE:g} requests a minute beside watches": both.beside_watches / MOST_REQUESTS_A_MINUTE,
        f"{MOST_WATCHES_A_MINUTE:g} watch opened a minute": both.watches / MOST_WATCHES_A_MINUTE,
        f"{MOST_SECONDS_TO_READY:g} s to ready": max(bench.ready.values()) / MOST_SECONDS_TO_READY,
    }
    for limit, share in limits.items():
        print(f"limit: {limit}; {share:.2f} of that")
    return int(max(limits.values()) > 1)


if __name__ == "__main__":
    sys.exit(main())
