"""Everything one pass of the partition loop looks at, read from the doors. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from agent.model.errors import RetryError
from agent.model.mig import Gpu
from agent.model.node import Boot, Budget, DeviceOwner, Node, Offers, Pod
from agent.model.snapshot import Snapshot
from agent.observe.claims import Claims
from agent.observe.cluster import budget_of, node_of, pod_of
from agent.observe.paper import with_other_names
from agent.observe.processes import OriginOf, with_origins


class Known(Protocol):
    """Objects kept up to date by a watch."""

    @property
    def objects(self) -> tuple[Mapping[str, Any], ...]: ...

    @property
    def synced(self) -> bool: ...


class Gpus(Protocol):
    """NVML's reads."""

    async def read(self) -> tuple[Gpu, ...]: ...

    async def release(self) -> None: ...


class Kubelet(Protocol):
    """PodResources."""

    async def owners(self) -> tuple[DeviceOwner, ...]: ...


class World:
    """The node's doors, for reading. ``budgets`` lists PodDisruptionBudgets; it is asked only when pods have to move.

    ``boot`` is the kernel's word. The node object has the boot id too, but after a reboot it shows that of the boot before
    until the kubelet has written it.
    """

    def __init__(
        self,
        node: Known,
        pods: Known,
        gpus: Gpus,
        kubelet: Kubelet,
        claims: Claims,
        origin_of: OriginOf,
        budgets: Callable[[], Any],
        boot: Callable[[], Boot],
        now: Callable[[], float],
    ) -> None:
        self._node = node
        self._pods = pods
        self._gpus = gpus
        self._kubelet = kubelet
        self._claims = claims
        self._origin_of = origin_of
        self._budgets = budgets
        self._boot = boot
        self._now = now

    def node(self) -> Node | None:
        """Our node as last seen; None before it was."""
        objects = self._node.objects
        if not objects:
            return None
        node = node_of(objects[0])
        return replace(node, boot_id=self._boot().id or node.boot_id)

    async def snapshot(self, node: Node) -> Snapshot:
        """The world around that node, without budgets. RetryError while the driver, or the list of pods, is not there."""
        if not self._pods.synced:
            raise RetryError("the pods of this node are not known yet")
        gpus = tuple(with_other_names(gpu) for gpu in await self._gpus.read())
        pods = tuple(pod_of(item) for item in self._pods.objects)
        offers = await self._claims.offers(pods)
        owners, error = await owners_of(self._kubelet, self._claims, pods, offers)
        gpus = with_origins(gpus, pods, self._origin_of)
        return Snapshot(self._now(), node, gpus, pods, owners, error, boot_began=self._boot().began, offers=offers)

    async def budgets(self) -> tuple[Budget, ...]:
        """Every disruption budget of the cluster."""
        return tuple(budget_of(item) for item in await self._budgets())

    async def release(self) -> None:
        """Close NVML, so that a driver can be unloaded."""
        await self._gpus.release()


async def owners_of(
    kubelet: Kubelet, claims: Claims, pods: tuple[Pod, ...], offers: Offers | None
) -> tuple[tuple[DeviceOwner, ...] | None, str]:
    """(who has which device, why that is not known)."""
    try:
        return await claims.owners(await kubelet.owners(), pods, offers), ""
    except RetryError as error:
        return None, str(error)


def read_layouts(path: str) -> tuple[str, str]:
    """(text of the layouts file, why it cannot be read)."""
    try:
        return Path(path).read_text("utf-8"), ""
    except FileNotFoundError:
        return "", f"there is no layouts file {path}"
    except (OSError, UnicodeDecodeError) as error:
        return "", f"layouts file {path}: {error}"
