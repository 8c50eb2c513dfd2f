"""Agents of many nodes in one process, each with its two roles, connections and watches, over GPUs in memory.

    python -m hack.bench.fleet_agents KUBECONFIG SOCKET FOLDER FIRST COUNT --resync-seconds 600 --jitter-seconds 10

Their connections are joined in one to SOCKET, since a process may not have as many files open as large fleets have watches. It
says ``watching`` when all have seen their node and its pods; with SIGUSR1 no watch is renewed any more. They start some after the
others, as a DaemonSet is rolled out: one processor would not answer all in time. Nobody scrapes them, so they serve no page.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec

import agent.adapters.watch
import agent.daemon
from agent.adapters.kube import JITTER_SECONDS, Kube
from agent.adapters.kubelet import KubeletIfAny
from agent.adapters.nvml import Hardware
from agent.daemon import Agent
from agent.partition_role import Machine
from agent.report import log
from agent.settings import Settings
from hack.joined import JoinedConnector, Joint, joint_to
from tests.fakes.world import Effects, GpusWithoutNvml, h100

SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))
NAMESPACE = "warmslice"
_AT_ONCE = 100
"""So many of them may not be watching yet while others start."""
USUAL_SECONDS = agent.adapters.watch.RESYNC_SECONDS
_NEVER_SECONDS = 24 * 3600.0


def node_name(number: int) -> str:
    return f"gpu-{number:05}"


def _settings(folder: Path, name: str, most: str) -> tuple[Settings, Settings]:
    common = Settings(
        node_name=name,
        layouts_file=str(folder / "layouts.yaml"),
        catalog_file=str(folder / "catalog.yaml"),
        namespace=NAMESPACE,
        state_directory=str(folder / "state" / name),
        status_socket="/proc/no-place/socket",
        telemetry_period_seconds=3600.0,
    )
    partition = msgspec.structs.replace(common, role="partition", max_unavailable=most, proc_directory=str(folder))
    # All nodes have the same disk, with the models on it already.
    cache = msgspec.structs.replace(
        common, role="cache", cache_directory=str(folder / "hub"), hub_endpoint="http://127.0.0.1:9", scrub_days=0
    )
    return partition, cache


async def _run(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _resync_every, _NEVER_SECONDS)
    joint = await joint_to(options.socket)
    agents: list[Agent] = []
    async with asyncio.TaskGroup() as tasks:
        for number in range(options.first, options.first + options.count):
            for one in await _agents(number, options, joint):
                agents.append(one)
                tasks.create_task(one.run())
            await _all_watch(agents[-_AT_ONCE - 2 : -_AT_ONCE])
        await _all_watch(agents)
        print("watching", flush=True)
        await stop.wait()
        for one in agents:
            one.stop()


async def _agents(number: int, options: argparse.Namespace, joint: Joint) -> list[Agent]:
    """The two of one node."""
    machine = Machine(cast("Hardware", GpusWithoutNvml(Effects(), [h100(SEVEN)])), KubeletIfAny(""))
    both = zip(_settings(options.folder, node_name(number), options.max_unavailable), (machine, None), strict=True)
    return [Agent(settings, await _connected(options, joint), there) for settings, there in both]


async def _connected(options: argparse.Namespace, joint: Joint) -> Kube:
    kube = await Kube.connect(str(options.kubeconfig), jitter_seconds=options.jitter_seconds)
    kube._configuration.client_session_kwargs |= {"connector": JoinedConnector(joint)}
    return kube


async def _all_watch(agents: Sequence[Agent]) -> None:
    while not all(one._node.synced and one._pods.synced for one in agents):  # noqa: ASYNC110  nobody tells
        await asyncio.sleep(0.05)


def _resync_every(seconds: float) -> None:
    agent.adapters.watch.RESYNC_SECONDS = seconds


@asynccontextmanager
async def _no_page(*_: object) -> AsyncIterator[str]:
    yield ""


def _shared_trust() -> None:
    """Agents of one process trust one authority: reading it once for each would be most of their memory."""
    made: dict[str, ssl.SSLContext] = {}
    make = ssl.create_default_context

    def shared(*arguments: Any, **named: Any) -> ssl.SSLContext:
        return made.setdefault(repr((arguments, named)), make(*arguments, **named))

    ssl.create_default_context = shared


def main(argv: Sequence[str] | None = None) -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kubeconfig", type=Path)
    parser.add_argument("socket", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--resync-seconds", type=float, default=USUAL_SECONDS)
    parser.add_argument("--jitter-seconds", type=float, default=JITTER_SECONDS)
    parser.add_argument("--max-unavailable", default="10%")
    options = parser.parse_args(argv)
    _resync_every(options.resync_seconds)
    setattr(agent.daemon, "serving", _no_page)  # noqa: B010  mypy knows it as another
    _shared_trust()
    # Ten million objects of so many agents would be gone through for seconds, again and again, and a leader among them would lose
    # its term; one agent has few.
    gc.disable()
    log.configure("error")
    asyncio.run(_run(options))


if __name__ == "__main__":
    main()
