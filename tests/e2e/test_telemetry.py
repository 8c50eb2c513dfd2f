"""What a slice does, from the hardware to whoever scrapes: the right slice, the right pod, in time, however many look on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from hack.prometheus import serving as prometheus_serving
from tests.e2e.agent_node import NODE, AgentNode, agent_node
from tests.report.tools import prometheus

PERIOD_SECONDS = 1.0
LOOKING_SECONDS = 4.0
"""What looking itself may take on two processors that a cluster, an agent and two servers share."""
BUSY = "warmslice_slice_utilization_ratio"


async def series(node: AgentNode, name: str) -> dict[str, tuple[dict[str, str], float]]:
    """By MIG UUID."""
    text = await node.page("/metrics")
    found = [s for family in parse(text) for s in family.samples if s.name == name]
    return {sample.labels["mig_uuid"]: (sample.labels, sample.value) for sample in found}


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[AgentNode]:
    """Seven small slices, of which two pods hold one each."""
    async with agent_node(folder, "H100-80GB-SXM:2") as node:
        await node.start(telemetry_period_seconds=PERIOD_SECONDS)
        node.wish("small")
        await node.until("success", "small")
        await node.run_deployment("web", "nvidia.com/mig-1g.10gb", 2)
        yield node


async def looking_on(node: AgentNode, seen: list[dict[str, tuple[dict[str, str], float]]]) -> None:
    """A Prometheus server in a hurry."""
    while True:
        seen.append(await series(node, BUSY))
        await asyncio.sleep(0.1)  # real processes


async def held(node: AgentNode, pod: str) -> str:
    """The UUID of the slice that a pod holds, once the agent knows."""
    async with asyncio.timeout(10):
        while True:
            found = await series(node, "warmslice_slice_info")
            uuids = [uuid for uuid, (labels, _) in found.items() if labels["pod"] == pod]
            if uuids:
                return uuids[0]
            await asyncio.sleep(0.05)


def names(node: AgentNode) -> list[str]:
    return sorted(pod["metadata"]["name"] for pod in node.pods("web").values())


async def page_of(node: AgentNode, told: list[str]) -> None:
    """Somebody has the status page open: what its stream tells."""
    address = next(line["address"] for line in reversed(node.log()) if line["event"] == "started")
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}/api/v1/events") as stream:
        while line := await stream.content.readline():
            told.append(line.decode())


async def test_load_is_on_its_slice_and_pod_within_a_period_while_two_servers_and_a_page_look_on(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as node:
        first, second = names(node)
        busy, other = await held(node, first), await held(node, second)
        address = next(line["address"] for line in reversed(node.log()) if line["event"] == "started")
        seen: list[Any] = []
        told: list[str] = []
        with ExitStack() as servers:
            both = [
                servers.enter_context(prometheus_serving(prometheus(), tmp_path / name, {NODE: [address]}))
                for name in ("one", "two")
            ]
            others = [asyncio.create_task(work) for work in (looking_on(node, seen), page_of(node, told))]
            try:
                async with asyncio.timeout(30):
                    # A server takes some seconds to learn its targets.
                    while not all([await asyncio.to_thread(server.ask, BUSY) for server in both]):
                        await asyncio.sleep(0.1)
                node.gpus.run("util", "--device", busy, "--graphics", "0.8")
                began = time.monotonic()
                while not (found := await series(node, BUSY))[busy][1]:
                    await asyncio.sleep(0.02)
                assert time.monotonic() - began < PERIOD_SECONDS + LOOKING_SECONDS
                await asyncio.sleep(3 * PERIOD_SECONDS)
                found = await series(node, BUSY)
                async with asyncio.timeout(30):
                    # A scrape that took too long on a busy machine is made up for by the next.
                    while not all(
                        scraped := [await asyncio.to_thread(server.ask, f"{BUSY} > 0.79") for server in both]
                    ):
                        await asyncio.sleep(0.1)
            finally:
                for watching in others:
                    watching.cancel()
                await asyncio.wait(others)
        assert len(found) == 14
        assert found[busy][1] == pytest.approx(0.8, abs=0.01)
        assert (found[busy][0]["pod"], found[busy][0]["namespace"]) == (first, "default")
        assert {uuid: value for uuid, (_, value) in found.items() if value} == {busy: found[busy][1]}
        assert found[other][0]["pod"] == second
        for (one,) in scraped:
            assert (one["metric"]["mig_uuid"], one["metric"]["pod"]) == (busy, first)
            assert float(one["value"][1]) == pytest.approx(0.8, abs=0.01)
        assert [line for line in told if first in line and "80 %" in line], "the page shows it"
        # A value only ever rises to the new load: nobody saw a slice, or a number, that never was.
        values = [round(one[busy][1], 6) for one in seen if one]  # none before the second sample
        assert values == sorted(values)
        assert max(values) <= 0.81


async def test_after_a_recut_no_sample_mixes_old_and_new(tmp_path: Path) -> None:
    """The whole board was busy; what is made in the place of its slices never was."""
    async with serving(tmp_path) as node:
        before = await series(node, "warmslice_slice_info")
        for uuid in before:
            node.gpus.run("util", "--device", uuid, "--graphics", "1")
        await asyncio.sleep(2 * PERIOD_SECONDS)
        seen: list[Any] = []
        server = asyncio.create_task(looking_on(node, seen))
        try:
            node.wish("mixed")
            await node.until("success", "mixed")
            async with asyncio.timeout(30):
                while not seen or {labels["profile"] for labels, _ in seen[-1].values()} != {"1g.10gb", "3g.40gb"}:
                    await asyncio.sleep(0.1)
            await asyncio.sleep(1.5 * PERIOD_SECONDS)
        finally:
            server.cancel()
            await asyncio.wait([server])
        large = [(labels, value) for one in seen for labels, value in one.values() if labels["profile"] == "3g.40gb"]
        assert large, "the new slice was never seen"
        assert {value for _, value in large} == {0.0}
        assert {labels["profile"] for labels, _ in seen[-1].values()} == {"1g.10gb", "3g.40gb"}
        for one in seen:
            places = [(labels["gpu"], *map(int, labels["placement"].split(":"))) for labels, _ in one.values()]
            cells = [(gpu, start + n) for gpu, start, size in places for n in range(size)]
            assert len(cells) == len(set(cells)), "one memory slice in two slices at once"
