"""Agents in the test's own process: each with its own connections and watches, and all that a process has but the hardware."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

import msgspec

from agent.adapters.kube import Kube
from agent.daemon import Agent
from agent.partition_role import Machine
from agent.settings import Settings
from tests.fakes.devcluster import DevCluster


@asynccontextmanager
async def agents_in_memory(
    cluster: DevCluster, names: Collection[str], settings: Callable[[str], Settings], machine: Callable[[], Machine]
) -> AsyncIterator[None]:
    """One for each node of ``names``."""
    kubes = [await Kube.connect(str(cluster.kubeconfig()), jitter_seconds=0.5) for _ in names]
    agents = [
        Agent(msgspec.structs.replace(settings(name), node_name=name), kube, machine())
        for name, kube in zip(names, kubes, strict=True)
    ]
    try:
        async with asyncio.TaskGroup() as tasks:
            for agent in agents:
                tasks.create_task(agent.run())
            try:
                yield
            finally:
                for agent in agents:
                    agent.stop()
    finally:
        for kube in kubes:
            await kube.close()
