"""The changes that are disturbed: a node as it is, a wish, and how each GPU may look in the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.adapters.nvml import Hardware
from tests.fakes.sim_world import SimWorld
from tests.fakes.simgpu import H100, SimulatedGpus
from tests.fakes.world import slot_of

A100 = "A100-SXM4-40GB"
SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))
MIXED = "1g.10gb@0:1 1g.10gb@1:1 1g.10gb@2:1 1g.10gb@3:1 3g.40gb@4:4"
OFF = "MIG off"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A pod that holds the slice at a memory slice and a compute slice of a GPU; ``start`` None: the whole GPU."""

    name: str
    gpu: int
    start: int | None = None
    compute: int = 0


@dataclass(frozen=True, slots=True)
class Story:
    """``before`` and ``after`` are the instances of each GPU, in words. Pods called ``stays`` must not be moved.

    ``standing`` is a fault of the driver that belongs to the story; then what comes first is the way back, and the wish
    is reached when it is tried again. ``session``: another client has the driver open until ours lets go of it. ``guest``: the
    GPUs are passed through to a virtual machine, and there is a command that reboots it.
    """

    name: str
    before: tuple[str, ...]
    wish: str
    after: tuple[str, ...]
    tenants: tuple[Tenant, ...] = ()
    board: str = H100
    standing: tuple[str, ...] = ()
    session: bool = False
    guest: bool = False

    async def furnish(self, node: SimulatedGpus, hardware: Hardware) -> None:
        """Make the instances that are there before."""
        for gpu, words in zip(await hardware.read(), self.before, strict=True):
            if words == OFF:
                await hardware.set_mode(gpu.uuid, enabled=False)
                continue
            for slot in map(slot_of, words.split()):
                await hardware.create(gpu.uuid, slot.placement, slot.shape)
        await hardware.release()
        for uuid in node.gpu_uuids() if self.guest else ():
            node.run("virtualization", "--gpu", uuid, "--kind", "passthrough")

    def simulate(self, folder: Path) -> SimulatedGpus:
        """The node without any instance yet."""
        folder.mkdir()
        return SimulatedGpus.create(folder, f"{self.board}:{len(self.before)}", mig=True)

    def begin(self, world: SimWorld) -> None:
        """Pods come, and the wish."""
        for tenant in self.tenants:
            start = tenant.start
            whole = world.whole(tenant.gpu) if start is None else ""
            world.add_pod(tenant.name, whole or world.device(tenant.gpu, start or 0, tenant.compute))
        world.label(value=self.wish)


STORIES = (
    Story(
        "drain",
        (SEVEN, MIXED),
        "4x1g.10gb_1x3g.40gb",
        (MIXED, MIXED),
        (Tenant("stays", 0, 1), Tenant("goes", 0, 5), Tenant("stays", 1, 4)),
    ),
    Story(
        "another split",
        ("1c+1c+1c.3g.40gb@0:4 3g.40gb@4:4",),
        "1x2c.3g.40gb_1x1c.3g.40gb_1x3g.40gb",
        ("2c+1c.3g.40gb@0:4 3g.40gb@4:4",),
        (Tenant("stays", 0, 0, 2), Tenant("goes", 0, 0, 0)),
    ),
    Story("mode on, Ampere", (OFF,), "2x3g.20gb", ("3g.20gb@0:4 3g.20gb@4:4",), (Tenant("goes", 0),), board=A100),
    Story("mode on by reset, Ampere", (OFF,), "2x3g.20gb", ("3g.20gb@0:4 3g.20gb@4:4",), board=A100, session=True),
    Story("mode on by reboot, Ampere", (OFF,), "2x3g.20gb", ("3g.20gb@0:4 3g.20gb@4:4",), board=A100, guest=True),
    Story("mode on, Hopper", (OFF,), "2x3g.40gb", ("3g.40gb@0:4 3g.40gb@4:4",)),
    Story("mode off, Hopper", ("3g.40gb@4:4",), "disabled", (OFF,)),
    Story(
        "rollback",
        (SEVEN,),
        "4x1g.10gb_1x3g.40gb",
        (MIXED,),
        (Tenant("stays", 0, 1),),
        standing=("nvmlDeviceCreateGpuInstanceWithPlacement", "--code", "INSUFFICIENT_RESOURCES", "--count", "1"),
    ),
)
