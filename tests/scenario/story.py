"""A node in memory and the agent on it, for stories that begin, go wrong, and end."""

from __future__ import annotations

import contextlib
import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.model import labels
from agent.model.errors import AgentError
from agent.model.steps import End, Step
from tests.fakes.world import NodeWorld, agent_on, h100, settle

SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))


@dataclass(frozen=True, slots=True)
class Found:
    """A node as its owner knows it: what no agent may leave otherwise. ``slices`` are MIG UUIDs by GPU and slot, ``pods`` the
    UIDs of all pods but the device plugin's.
    """

    labels: dict[str, str]
    annotations: dict[str, str]
    cordoned: bool
    modes: tuple[bool | None, ...]
    slices: dict[tuple[int, str], tuple[str, ...]]
    pods: frozenset[str]
    advertised: dict[str, int]


class Story:
    """The world, and an agent that can be started anew. ``layouts`` are entries of its file."""

    def __init__(self, world: NodeWorld, file: Path | None = None, layouts: str = "{}") -> None:
        self.world = world
        if file is not None:
            world.layouts_file = str(file)
            self.edit(layouts)
        self.restart()

    def edit(self, layouts: str) -> None:
        """Write the layouts file."""
        Path(self.world.layouts_file).write_text(f"version: v1\nmig-configs: {layouts}\n", "utf-8")

    def remove_layouts(self) -> None:
        """The layouts file is away."""
        Path(self.world.layouts_file).unlink()

    def restart(self) -> None:
        """Another process of the agent."""
        self.partition, self.hands = agent_on(self.world)

    # -- what happens ---------------------------------------------------------------------------------------------

    async def turns(self, count: int, seconds: float = 1.0) -> None:
        """Passes with time between them; one that fails is followed by the next."""
        for _ in range(count):
            with contextlib.suppress(AgentError):
                await self.partition()
            self.world.tick(seconds)

    async def until_taken(self, kind: type[Step], seconds: float = 0.5, passes: int = 60) -> None:
        """Passes until a step of that kind was taken."""
        for _ in range(passes):
            if any(isinstance(step, kind) for step in self.hands.taken):
                return
            await self.turns(1, seconds)
        raise AssertionError(f"no {kind.__name__} among {self.hands.taken}")

    async def until_said(self, *verdict: str) -> None:
        """Passes until that is the verdict."""
        for _ in range(200):
            if self.verdict == verdict:
                return
            await self.turns(1)
        raise AssertionError(f"never {verdict}: {self.verdict}")

    async def settled(self) -> None:
        """Until the agent has nothing more to do."""
        await settle(self.world, self.partition)

    # -- how it stands --------------------------------------------------------------------------------------------

    @property
    def status(self) -> dict[str, Any]:
        """The agent's words on the node."""
        found: dict[str, Any] = json.loads(self.world.node["metadata"]["annotations"].get(labels.STATUS, "{}"))
        return found

    @property
    def verdict(self) -> tuple[str, str]:
        """State, as the label has it, and reason."""
        return self.world.node["metadata"]["labels"].get(labels.STATE, ""), self.status.get("reason", "")

    @property
    def end(self) -> End:
        """How the last change ended."""
        return next(step for step in reversed(self.hands.taken) if isinstance(step, End))

    @property
    def layout(self) -> list[list[str]]:
        """The slots of each GPU."""
        return [list(map(str, gpu.layout)) for gpu in self.world.gpus.gpus.values()]

    def found(self) -> Found:
        """What the node is beside the agent's own label and status; the wish may change too."""
        metadata, gpus = copy.deepcopy(self.world.node["metadata"]), self.world.gpus.gpus.values()
        return Found(
            {k: v for k, v in metadata["labels"].items() if k not in (labels.CONFIG, labels.STATE)},
            {k: v for k, v in metadata["annotations"].items() if k != labels.STATUS},
            bool(self.world.node["spec"].get("unschedulable")),
            tuple(gpu.mig_enabled for gpu in gpus),
            {
                (gpu.index, f"{i.shape or i.profile}@{i.placement}"): tuple(c.uuid for c in i.compute)
                for gpu in gpus
                for i in gpu.instances
            },
            frozenset(uid for uid in self.world.pods if uid not in self.world.uids("nvidia-device-plugin")),
            {name: int(count) for name, count in self.world.node["status"]["allocatable"].items() if count != "0"},
        )


def drained(deploy_labels: bool = True, cordoned: bool = False, dra: bool = False) -> NodeWorld:
    """Seven small slices; one pod must go, one must stay, on the way to 4x1g + 1x3g."""
    world = NodeWorld(h100(SEVEN), deploy_labels=deploy_labels, dra=dra)
    world.add_pod("stays", world.device(0, 1))
    world.add_pod("goes", world.device(0, 5))
    if cordoned:
        world.cordon()
    world.label(value="4x1g.10gb_1x3g.40gb")
    return world


def mode_on(dra: bool = False) -> NodeWorld:
    """A GPU outside MIG that a pod has as a whole, on the way to 4x1g + 1x3g."""
    world = NodeWorld(replace(h100(), mig_enabled=False, mig_pending=False), dra=dra)
    world.add_pod("whole", next(iter(world.gpus.gpus)))
    world.label(value="1x3g.40gb_4x1g.10gb")
    return world
