"""How long a scrape takes when twenty come at once: the agent beside nvitop-exporter, on the same simulated GPUs in the same run.

    python -m hack.bench.scrape [--seconds 20] [--scrapers 20]

Eight H100 of seven slices each, and a catalog of fifty models whose hub does not answer: all are wanted and none is ready.
Scrapers ask as Prometheus does, over connections that stay where a server lets them (nvitop-exporter's, Python's wsgiref, closes
each and has few that wait: of its longest times some are its backlog), all at the same moment; then the other program is asked.
A time is from the request until the last byte. Scrapers, both programs and the cluster share this machine's processors. Exit
code 1 where the agent's p99 is above the limit of 50 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from hack.bench.node import CONFIG, BenchNode, until
from hack.ports import free_port
from hack.processes import Children

LIMIT_SECONDS = 0.050
GPUS = "H100-80GB-SXM:8"
SLICES = 56
MODELS = 50
NOBODY = "http://127.0.0.1:9"
AGENT, PEER = "warmslice", "nvitop-exporter"
_PAUSE_SECONDS = 0.1
_HEADERS = {
    "Accept": "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    "Accept-Encoding": "gzip",
    "User-Agent": "Prometheus/2.53.0",
}


@dataclass(slots=True)
class Target:
    """One program's page, and what scraping it took."""

    name: str
    url: str
    seconds: list[float] = field(default_factory=list)
    bytes: int = 0

    def row(self) -> tuple[str, ...]:
        """Numbers of scrapes, series and bytes, p50, p99 and the longest."""
        with urllib.request.urlopen(self.url) as answer:
            page = answer.read().decode()
        series = sum(not line.startswith("#") for line in page.splitlines())
        times = (_at(self.seconds, 0.5), _at(self.seconds, 0.99), max(self.seconds))
        return (self.name, str(len(self.seconds)), str(series), str(self.bytes), *(f"{t * 1000:.1f}" for t in times))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--scrapers", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scrape-") as folder, Children(Path(folder)) as children:
        agent, peer = _start(Path(folder), children)
        asyncio.run(_scrape((agent, peer), options.scrapers, options.seconds))
        print("what | scrapes | series | bytes of an answer | p50, ms | p99, ms | longest, ms")
        for target in (agent, peer):
            print(" | ".join(target.row()))
    ratios = [_at(agent.seconds, share) / _at(peer.seconds, share) for share in (0.5, 0.99)]
    print(f"{AGENT} takes {ratios[0]:.2f} (p50) and {ratios[1]:.2f} (p99) of the time that {PEER} takes")
    slowest = _at(agent.seconds, 0.99)
    print(f"limit: p99 of {LIMIT_SECONDS * 1000:g} ms; the agent's is {slowest / LIMIT_SECONDS:.2f} of that")
    sys.exit(slowest > LIMIT_SECONDS)


def _start(folder: Path, children: Children) -> tuple[Target, Target]:
    """Both programs, once they show every slice and every model."""
    node = BenchNode(folder, children, GPUS)
    catalog = "".join(f"- {{repository: bench/model-{number}}}\n" for number in range(MODELS))
    (folder / "catalog.yaml").write_text(f"models:\n{catalog}", "utf-8")
    node.start_cluster()
    node.label({CONFIG: "all-1g.10gb"})
    node.start_agent(f"--hub-endpoint={NOBODY}", "--cache-reserve-ratio=0")
    until(node.applied)
    program = str(Path(sys.executable).parent / "nvitop-exporter")
    port = free_port()
    children.start("peer", [program, "--bind-address", "127.0.0.1", "--port", str(port)], node.environment)
    agent = Target(AGENT, f"http://{node.address('agent')}/metrics")
    peer = Target(PEER, f"http://127.0.0.1:{port}/metrics")
    until(lambda: _shows(agent.url, r"warmslice_slice_utilization_ratio\{.*") >= SLICES)
    until(lambda: _shows(agent.url, r"warmslice_model_ready\{.*") >= MODELS)
    until(lambda: _shows(peer.url, r"MIG-[0-9a-f-]{36}") >= SLICES)
    return agent, peer


def _shows(url: str, pattern: str) -> int:
    """How many different ones are on the page."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return len(set(re.findall(pattern, answer.read().decode())))
    except OSError:
        return 0


async def _scrape(targets: Sequence[Target], scrapers: int, seconds: float) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=_HEADERS, auto_decompress=False) as session:
        for target in targets:  # connections are made, and nothing is measured
            await asyncio.gather(*(_one(session, target) for _ in range(scrapers)))
            target.seconds.clear()
        late = time.monotonic() + seconds
        while time.monotonic() < late:
            for target in targets:
                await asyncio.gather(*(_one(session, target) for _ in range(scrapers)))
                await asyncio.sleep(_PAUSE_SECONDS)


async def _one(session: aiohttp.ClientSession, target: Target) -> None:
    began = time.perf_counter()
    async with session.get(target.url) as answer:
        answer.raise_for_status()
        target.bytes = len(await answer.read())
    target.seconds.append(time.perf_counter() - began)


def _at(times: Sequence[float], share: float) -> float:
    """The time that so large a share of them keeps below."""
    return statistics.quantiles(times, n=100, method="inclusive")[round(share * 100) - 1]


if __name__ == "__main__":
    main()
