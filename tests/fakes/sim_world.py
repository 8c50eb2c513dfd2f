"""One GPU node whose GPUs are simulated ones behind the agent's own door; node, pods and kubelet are in memory.

Time is the node's own. What the GPUs really have is asked of the simulator, past the door and past any fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent.adapters import command
from agent.adapters.nvml import Hardware
from agent.execute.mig import Gpus
from agent.model import labels
from agent.model.mig import ComputeInstance, Gpu, GpuInstance, GpuProcess, Placement, Shape
from agent.model.node import Origin
from tests.fakes.simgpu import SimulatedGpus
from tests.fakes.world import MemoryGpus, NodeWorld

_KEPT = (
    "time",
    "node",
    "pods",
    "devices",
    "_serial",
    "_plugin_sees",
    "_holding",
    "boot",
    "_going",
    "_ends",
    "_remaining",
    "further",
    "idle",
    "grace",
    "remains",
)


class SimCards(MemoryGpus):
    """The GPUs of a simulated node. ``gpus`` is what the simulator shows, as of the last ``look``."""

    def __init__(self, world: NodeWorld, simulated: SimulatedGpus, hardware: Hardware) -> None:
        super().__init__(world.effects, ())
        self.before_change: Callable[[], None] = lambda: None
        self.on_release: Callable[[], None] = lambda: None
        self._simulated = simulated
        self._hardware = hardware
        self._changes = Gpus(hardware, self.release, command.reset_gpus)
        self.look()

    def look(self) -> None:
        self.gpus = {gpu.uuid: gpu for gpu in map(_gpu, self._simulated.show()["gpus"])}

    async def read(self) -> tuple[Gpu, ...]:
        return await self._hardware.read()

    async def release(self) -> None:
        await self._hardware.release()
        self.on_release()

    async def set_mode(self, gpu: str, enabled: bool, others: Mapping[str, str]) -> None:
        self.before_change()
        await self._changes.set_mode(gpu, enabled, others)

    async def destroy(self, gpu: str, placement: Placement, profile: str) -> None:
        self.before_change()
        await self._changes.destroy(gpu, placement, profile)

    async def create(self, gpu: str, placement: Placement, shape: Shape) -> None:
        self.before_change()
        await self._changes.create(gpu, placement, shape)

    async def trim(self, gpu: str, placement: Placement, profile: str, parts: tuple[Placement, ...]) -> None:
        self.before_change()
        await self._changes.trim(gpu, placement, profile, parts)

    def set_processes(self, uuid: str, processes: tuple[GpuProcess, ...]) -> None:
        """Who runs on a GPU is the simulator's business: ``SimWorld`` attaches processes."""


class SimWorld(NodeWorld):
    """``holders`` are processes that stand for those of pods; each pod that holds a device has one of them."""

    gpus: SimCards

    def __init__(self, simulated: SimulatedGpus, hardware: Hardware, holders: tuple[int, ...]) -> None:
        self._simulated = simulated
        self._holders = holders
        self._holding: dict[str, int] = {}
        super().__init__(plugin=False)
        self.gpus = SimCards(self, simulated, hardware)
        self._plugin = True
        self.tick()

    def memory(self) -> dict[str, Any]:
        """All that outlives the agent, but the GPUs."""
        return {name: getattr(self, name) for name in _KEPT}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Be the world that another process had."""
        for name, value in memory.items():
            setattr(self, name, value)

    def reboot(self) -> None:
        """The simulator knows what a reboot leaves of the GPUs."""
        self._simulated.run("reboot")
        super().reboot()
        self._holding.clear()
        self.gpus.look()

    def whole(self, gpu: int) -> str:
        """The UUID of a GPU, which is what a pod holds of an undivided one."""
        return list(self.gpus.gpus)[gpu]

    def has(self, gpu: int) -> tuple[str, ...]:
        """The instances of a GPU in words; one without compute is called an orphan."""
        self.gpus.look()
        found = list(self.gpus.gpus.values())[gpu]
        if not found.mig_enabled:
            return ("MIG off",)
        return tuple(f"{i.shape or f'orphan {i.profile}'}@{i.placement}" for i in found.instances)

    def origin(self, pid: int) -> Origin | None:
        """In which pod a process runs; those of the pods that have ended are nobody's."""
        return Origin(tuple(uid for uid, own in self._holding.items() if own == pid))

    def _follow_pods(self) -> None:
        """Attach and detach processes, so that pods that hold a device run one there."""
        for uid in [uid for uid in self._holding if uid not in self.devices]:
            self._simulated.detach(self._holding.pop(uid))
        for uid in [uid for uid in self.devices if uid not in self._holding]:
            self._holding[uid] = next(pid for pid in self._holders if pid not in self._holding.values())
            self._simulated.attach(self.devices[uid], self._holding[uid])

    def _shown_now(self) -> dict[str, int]:
        self.gpus.look()
        return super()._shown_now()


def given_back(world: NodeWorld, labels_before: Mapping[str, str]) -> str:
    """What is still as a change has it; empty when the node is as it was found."""
    metadata, spec = world.node["metadata"], world.node["spec"]
    wrong = [f"label {key}" for key, value in labels_before.items() if metadata["labels"].get(key) != value]
    wrong += [f"annotation {key}" for key in labels.AUTOSCALER_GUARDS if key in metadata["annotations"]]
    return ", ".join([*wrong, *(["cordon"] if spec.get("unschedulable") else [])])


def _gpu(shown: Mapping[str, Any]) -> Gpu:
    """A GPU as `simgpu show --json` tells it."""
    mode = shown["mode"]
    return Gpu(
        uuid=shown["uuid"],
        index=shown["index"],
        name=shown["name"],
        pci_device_id="",
        memory_mib=shown["memory_mib"],
        mig_enabled=bool(mode["current"]),
        mig_pending=bool(mode["pending"]),
        resetless=False,
        instances=tuple(map(_instance, sorted(shown["instances"], key=lambda one: int(one["start"])))),
    )


def _instance(shown: Mapping[str, Any]) -> GpuInstance:
    compute = tuple(
        ComputeInstance(ci["ci_id"], ci["size"], ci["profile"] == shown["profile"], ci["mig_uuid"], ci["start"])
        for ci in sorted(shown["cis"], key=lambda one: int(one["start"]))
    )
    return GpuInstance(shown["gi_id"], shown["profile"], Placement(shown["start"], shown["size"]), compute)
