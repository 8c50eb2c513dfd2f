"""What leaves the hub when many nodes want one model: directly, through a caching mirror, and through it with fetch tokens.

Agents of the cache role, a process each, on nodes of a development API server; the local hub counts the bytes that it sends; the
mirror is olah, as it is installed from PyPI. All start at once. Nodes fetch at the same time from when the log of one says that
the model is being fetched until it says that it is on disk. On paper the same for a thousand nodes and a model of 16 GB.

    python -m hack.bench.egress [--nodes 6] [--megabytes 48] [--at-once 2]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from agent.model import labels
from hack.bench.node import ApiClient, until
from hack.hub.mirror import front
from hack.hub.server import Hub
from hack.hub.third_parties import NotToBeHadError
from hack.processes import Children
from tests.fakes.hub import tiny_model

MODEL = "org/wanted"
NAMESPACE = "warmslice"
LABEL = f"{labels.MODEL_PREFIX}org--wanted"
PAPER_NODES, PAPER_GB = 1000, 16.0
MOST_THROUGH_A_MIRROR = 1.5


@dataclass(frozen=True, slots=True)
class Way:
    """How nodes come to the model. ``at_once``: 0 for no limit."""

    name: str
    mirror: bool
    at_once: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """``sent``: bytes that left the hub, as a multiple of the model. ``most``: nodes that fetched at the same time."""

    way: Way
    sent: float
    requests: int
    most: int
    seconds: float


async def _measured(way: Way, nodes: int, size: int) -> Result:
    with tempfile.TemporaryDirectory(prefix="egress-") as name, Children(Path(name)) as children:
        folder = Path(name)
        (folder / "served").mkdir()
        model = tiny_model(folder / "served", repository=MODEL, weights_bytes=size)
        async with Hub({MODEL: model}) as hub, front(hub.url, folder, way.mirror) as endpoint:
            began = time.monotonic()
            await asyncio.to_thread(_fetch_all, folder, children, way, nodes, endpoint)
            seconds = time.monotonic() - began
            sent = hub.counters.body_bytes / size
            return Result(way, sent, hub.counters.requests.total(), _most_at_once(children, nodes), seconds)


def _fetch_all(folder: Path, children: Children, way: Way, nodes: int, endpoint: str) -> None:
    """Returns when each of them has it."""
    (folder / "catalog.yaml").write_text(f"models: [{{repository: {MODEL}}}]\n", "utf-8")
    children.start("cluster", [sys.executable, "-m", "hack.devcluster", "--run-dir", str(folder), "--api-only"])
    kubeconfig = folder / "kubeconfig"
    until(lambda: kubeconfig.exists() and children.log("cluster") != "")
    api = ApiClient(kubeconfig)
    api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    for number in range(nodes):
        api.ask("POST", "/api/v1/nodes", {"metadata": {"name": f"node-{number}"}})
        agent = [sys.executable, "-m", "agent", "run", "--role=cache", f"--node-name=node-{number}"]
        agent += [
            f"--kubeconfig={kubeconfig}",
            f"--catalog-file={folder / 'catalog.yaml'}",
            "--cache-listen=127.0.0.1:0",
        ]
        agent += [
            f"--cache-directory={folder / f'hub-{number}'}",
            f"--hub-endpoint={endpoint}",
            f"--namespace={NAMESPACE}",
        ]
        agent += [f"--fetch-at-once={way.at_once}", "--cache-reserve-ratio=0"]
        agent += [f"--status-socket={folder / f'{number}.sock'}", f"--state-directory={folder / f'state-{number}'}"]
        children.start(f"node-{number}", agent)
    path = f"/api/v1/nodes?labelSelector={LABEL}%3Dready"
    until(lambda: len(api.ask("GET", path)["items"]) == nodes, 300.0, what="not every node got the model")


def _most_at_once(children: Children, nodes: int) -> int:
    moments: list[tuple[float, int]] = []
    for number in range(nodes):
        lines = [json.loads(line) for line in children.log(f"node-{number}").splitlines()]
        at = {
            line["reason"]: datetime.fromisoformat(line["ts"]).timestamp() for line in lines if line["event"] == "model"
        }
        moments += [(at["model-fetching"], 1), (at["model-ready"], -1)]
    now = most = 0
    for _, change in sorted(moments):
        now += change
        most = max(most, now)
    return most


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; 1 where more nodes fetched at once than might."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=6)
    parser.add_argument("--megabytes", type=int, default=48)
    parser.add_argument("--at-once", type=int, default=2)
    options = parser.parse_args(argv)
    ways = [Way("directly", mirror=False), Way("through olah", mirror=True)]
    ways.append(Way(f"through olah, fetch_at_once {options.at_once}", mirror=True, at_once=options.at_once))
    try:
        results = [asyncio.run(_measured(way, options.nodes, options.megabytes * 1_000_000)) for way in ways]
    except NotToBeHadError as error:
        print(f"olah is not to be had here: {error}")
        return 1
    print(
        f"{options.nodes} nodes, {options.megabytes} MB | sent by the hub / model | beside directly | requests | most at once | s"
    )
    for one in results:
        ratio = one.sent / results[0].sent
        print(f"{one.way.name} | {one.sent:.2f} | {ratio:.2f} | {one.requests} | {one.most} | {one.seconds:.0f}")
    print()
    print(
        f"{PAPER_NODES:,} nodes, {PAPER_GB:g} GB, on paper | TB by the hub | hours at 10 Gbit/s | TB by one mirror | hours"
    )
    for one in results:
        by_hub = PAPER_GB * (one.sent if one.way.mirror else PAPER_NODES)
        by_mirror = PAPER_GB * PAPER_NODES if one.way.mirror else 0.0
        cells = [f"{gb / 1000:.2f} | {gb * 8 / 10 / 3600:.2f}" for gb in (by_hub, by_mirror)]
        print(" | ".join([one.way.name, *cells]))
    over = results[-1].most / options.at_once
    print(f"limit: {options.at_once} nodes at once; {over:.2f} of that")
    often = max(one.sent for one in results if one.way.mirror) / MOST_THROUGH_A_MIRROR
    print(f"limit: {MOST_THROUGH_A_MIRROR:g} times the model by the hub through a mirror; {often:.2f} of that")
    return int(over > 1 or often > 1)


if __name__ == "__main__":
    sys.exit(main())
