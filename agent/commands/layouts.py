"""`warmslice layouts --here`: what this host's GPUs can still become."""

from __future__ import annotations

from dataclasses import replace

from agent.commands.here import Here
from agent.model.errors import RetryError
from agent.model.reach import Reach
from agent.reconcile.reach import reach_of
from agent.settings import Settings


async def layouts_here(settings: Settings) -> Reach:
    """By NVML and PodResources, and the API server where there is a way to it. RetryError where the kubelet does not say."""
    async with Here.open(settings) as here:
        seen = await here.look()
    if seen.owners is None:
        raise RetryError(f"who holds which slice is not known: {seen.owners_error}")
    return replace(reach_of(seen), unknown="" if here.asks_cluster else here.WITHOUT_CLUSTER)
