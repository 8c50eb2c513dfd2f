"""Acts of the partition loop, one method per kind of step. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, assert_never

from agent.execute.node_patch import Patch, patch_for, saying
from agent.model.mig import Placement, Shape
from agent.model.node import Node, PodRef
from agent.model.steps import (
    AnnounceReboot,
    Begin,
    Create,
    Destroy,
    End,
    Evict,
    Pause,
    Prepare,
    Reboot,
    Recordon,
    Refresh,
    RestartClient,
    Resume,
    SetMode,
    Step,
    Trim,
    Turn,
)


class Cluster(Protocol):
    """The writes that a change needs of the API server."""

    async def patch_node(self, name: str, patch: Patch) -> dict[str, Any]:
        """Merge-patch; ConflictError when the version is stale. Returns the node."""

    async def evict(self, pod: PodRef) -> None:
        """BudgetError while a budget forbids it."""

    async def delete_pod(self, pod: PodRef) -> None:
        """Delete exactly this pod."""


class Gpus(Protocol):
    """The changes that NVML makes."""

    async def create(self, gpu: str, placement: Placement, shape: Shape) -> None: ...

    async def destroy(self, gpu: str, placement: Placement, profile: str) -> None: ...

    async def trim(self, gpu: str, placement: Placement, profile: str, parts: tuple[Placement, ...]) -> None: ...

    async def set_mode(self, gpu: str, enabled: bool, others: Mapping[str, str]) -> None: ...


class Host(Protocol):
    """Commands on the host around a change."""

    async def prepare(self) -> None:
        """Run the configured commands that come before a change; RetryError when one fails."""

    async def refresh(self) -> None:
        """Run the configured commands for capability nodes and CDI; RetryError when one fails."""

    async def reboot(self) -> None:
        """Run the configured command that reboots this machine; RefusedError when it fails."""


class Hands:
    """Performs steps. Each may be repeated without harm, and each may be the last before a kill."""

    def __init__(self, cluster: Cluster, gpus: Gpus, host: Host) -> None:
        self._cluster = cluster
        self._gpus = gpus
        self._host = host

    async def perform(self, step: Step, node: Node, said: Patch) -> dict[str, Any] | None:
        """Take one step; the node as the API server has it now, where the step wrote it."""
        match step:
            case Begin() | Recordon() | Turn() | Pause() | AnnounceReboot() | Resume() | End():
                return await self._cluster.patch_node(node.name, patch_for(step, node, said))
            case Evict(pod):
                await self._cluster.evict(pod)
            case RestartClient(pod):
                await self._cluster.delete_pod(pod)
            case SetMode(gpu, enabled, others):
                await self._gpus.set_mode(gpu, enabled, dict(others))
            case Destroy(gpu, placement, profile):
                await self._gpus.destroy(gpu, placement, profile)
            case Trim(gpu, placement, profile, parts):
                await self._gpus.trim(gpu, placement, profile, parts)
            case Create(gpu, placement, shape):
                await self._gpus.create(gpu, placement, shape)
            case Reboot():
                await self._host.reboot()
            case Prepare():
                await self._host.prepare()
            case Refresh():
                await self._host.refresh()
            case _:
                assert_never(step)
        return None

    async def say(self, node: Node, said: Patch) -> dict[str, Any]:
        """Write a status on the node, and nothing else."""
        return await self._cluster.patch_node(node.name, saying(node, said))
