"""What an agent costs that has nothing to do: API requests beside its watches, CPU and memory.

Both roles in one process on a node of two simulated GPUs whose layout is applied, beside a bare watch of the same node and its
pods by the same client library, in the same run. The limit is two requests a minute beyond the watches. Watches are renewed
about every five minutes, so a run of ten shows what one of two does not.

    python -m hack.bench.idle [--minutes 10]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hack.bench.node import CONFIG, BenchNode, until
from hack.processes import Children

LIMIT_PER_MINUTE = 2.0
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


def main() -> None:
    """Print the table; exit code 1 where the limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="idle-") as folder, Children(Path(folder)) as children:
        bench = _Bench(Path(folder), children)
        bench.start()
        rows = bench.measure(options.minutes)
    print("what | requests a minute | of them beside watches | CPU, % of a core | PSS, MB | threads")
    for row in rows:
        print(" | ".join(row))
    spent = float(rows[0][2])
    print(f"limit: {LIMIT_PER_MINUTE:g} a minute beside watches; the agent made {spent / LIMIT_PER_MINUTE:.2f} of that")
    sys.exit(spent > LIMIT_PER_MINUTE)


class _Bench:
    def __init__(self, folder: Path, children: Children) -> None:
        self._children = children
        self._node = BenchNode(folder, children)

    def start(self) -> None:
        """The cluster, the agent with its layout applied, the peer."""
        self._node.start_cluster()
        self._node.label({CONFIG: "all-balanced"})
        self._node.start_agent()
        self._children.start("peer", [sys.executable, "-c", WATCHES], self._node.environment)
        until(self._node.applied)
        time.sleep(5.0)

    def measure(self, minutes: float) -> list[tuple[str, ...]]:
        """A row for the agent and one for its peer."""
        last = max((entry["number"] for entry in self._requests(0)), default=0)
        before = {name: _cpu_seconds(self._children.pid(name)) for name in ("agent", "peer")}
        time.sleep(minutes * 60)
        seen = self._requests(last)
        rows = []
        for name, program in (("agent", "warmslice"), ("peer", "bare-watch")):
            verbs = Counter(entry["verb"] for entry in seen if entry["user_agent"].startswith(program))
            pid = self._children.pid(name)
            used = (_cpu_seconds(pid) - before[name]) / (minutes * 60)
            beside = verbs.total() - verbs["watch"]
            numbers = (verbs.total() / minutes, beside / minutes, used * 100, _pss_mb(pid))
            rows.append((name, *(f"{number:.2f}" for number in numbers), str(len(os.listdir(f"/proc/{pid}/task")))))
        return rows

    def _requests(self, since: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._node.ask("GET", f"/_dev/requests?since={since}")
        return found


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _pss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


if __name__ == "__main__":
    main()
