"""The law of the loop: any wishes, in any order, with the agent killed anywhere, come to an end that is right.

Whatever was asked and whenever the agent died: a wish that can be had is reached, one that cannot is refused or blocked; what
cannot be moved is never touched; and the node is given back as it was found.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from hypothesis import given, note, settings
from hypothesis import strategies as st

from agent.model import labels
from agent.model.mig import Gpu, GpuWish, Layout
from agent.observe.paper import gpu_on_paper
from agent.plan.geometry import completions
from agent.plan.placement import Tenants, solve
from tests.fakes.world import Kill, Killed, Moment, NodeWorld, agent_on
from tests.strategies import having, layouts

BOARD = "H100-80GB-SXM"


@st.composite
def worlds(draw: st.DrawFn) -> tuple[NodeWorld, list[str]]:
    """One or two GPUs with layouts, slices held by movable and immovable pods; and some wishes."""
    papers = [gpu_on_paper(BOARD, index=index) for index in range(draw(st.integers(1, 2)))]
    deploy_labels = draw(st.booleans())
    # A node whose label promises a device plugin that never comes ends failed: another story.
    plugin = deploy_labels or draw(st.booleans())
    gpus = [having(paper, draw(layouts(paper))) for paper in papers]
    world = NodeWorld(*gpus, deploy_labels=deploy_labels, plugin=plugin)
    note(f"{[[str(slot) for slot in gpu.layout] for gpu in gpus]} deploy labels {deploy_labels}, plugin {plugin}")
    if draw(st.booleans()):
        world.cordon()
    for gpu in world.gpus.gpus.values():
        for slot, instance in zip(gpu.layout, gpu.instances, strict=True):
            holder = draw(st.sampled_from(["nobody", "nobody", "ReplicaSet", "DaemonSet"]))
            if holder != "nobody":
                world.add_pod(f"{holder.lower()}-{gpu.index}-{slot.placement.start}", instance.compute[0].uuid, holder)
    wishes = draw(st.lists(st.one_of(_feasible(papers[0]), st.sampled_from(_IMPOSSIBLE)), min_size=1, max_size=3))
    note(f"holders {[pod['metadata']['name'] for pod in world.pods.values()]}, wishes {wishes}")
    return world, wishes


_IMPOSSIBLE = ["2x3g.40gb_1x2g.20gb", "1x3g.71gb", "nobody-knows", "9y1g", "2x1g.10gb.me"]


@st.composite
def _feasible(draw: st.DrawFn, paper: Gpu) -> str:
    counts = Counter(slot.shape.profile.replace("+", ".") for slot in draw(layouts(paper)))
    return "_".join(f"{count}x{profile}" for profile, count in sorted(counts.items())) or "enabled"


@settings(max_examples=80, deadline=None)
@given(worlds(), st.data())
def test_every_story_ends_right(story: tuple[NodeWorld, list[str]], data: st.DataObject) -> None:
    world, wishes = story
    before = _found(world)
    immovable = _immovable(world)
    asyncio.run(_tell(world, wishes, data))
    assert _found(world) == before
    for uid, (uuid, slot) in immovable.items():
        assert uid in world.pods
        assert slot in world.gpus.gpus[uuid].layout
        assert ("destroy", uuid, slot.shape.profile, str(slot.placement)) not in world.gpus.log
    assert all(i.compute for gpu in world.gpus.gpus.values() for i in gpu.instances)
    _right_end(world, wishes[-1], immovable)


async def _tell(world: NodeWorld, wishes: list[str], data: st.DataObject) -> None:
    """Wishes come while earlier ones are still being worked on; the agent dies now and then."""
    for number, wish in enumerate(wishes):
        world.label(value=wish)
        last = number == len(wishes) - 1
        passes = 120 if last else data.draw(st.integers(0, 8))
        deaths = data.draw(st.integers(0, 2))
        if deaths:
            _arm(world, data)
        partition, _ = agent_on(world)
        for _ in range(passes):
            try:
                wait = await partition()
            except Killed:
                world.effects.kill = None
                deaths -= 1
                if deaths:
                    _arm(world, data)
                partition, _ = agent_on(world)
                wait = 1.0
            world.tick(min(max(wait, 0.5), 5.0))
        world.effects.kill = None


def _arm(world: NodeWorld, data: st.DataObject) -> None:
    ahead = data.draw(st.integers(0, 12))
    moment: Moment = data.draw(st.sampled_from(("before", "after", "middle")))
    world.effects.kill = Kill(len(world.effects.names) + ahead, moment)


def _found(world: NodeWorld) -> dict[str, Any]:
    """What has to be as it was."""
    metadata = world.node["metadata"]
    ours = {labels.CONFIG, labels.STATE}
    return {
        "labels": {key: value for key, value in metadata["labels"].items() if key not in ours},
        "annotations": {key: value for key, value in metadata["annotations"].items() if key != labels.STATUS},
        "unschedulable": bool(world.node["spec"].get("unschedulable")),
    }


def _immovable(world: NodeWorld) -> dict[str, tuple[str, Any]]:
    held = {}
    for uid, pod in world.pods.items():
        if pod["metadata"]["name"].startswith("daemonset-"):
            for gpu in world.gpus.gpus.values():
                for slot, instance in zip(gpu.layout, gpu.instances, strict=True):
                    if instance.compute[0].uuid == world.devices[uid]:
                        held[uid] = (gpu.uuid, slot)
    return held


def _right_end(world: NodeWorld, wish: str, immovable: dict[str, tuple[str, Any]]) -> None:
    """By a second way: try all layouts that have the wish's shapes and the immovable slices."""
    state = world.node["metadata"]["labels"][labels.STATE]
    if wish in _IMPOSSIBLE:
        assert state == "failed"
        return
    possible = all(_ways(gpu, wish, immovable) for gpu in world.gpus.gpus.values())
    assert state == ("success" if possible else "pending")
    if possible:
        for gpu in world.gpus.gpus.values():
            assert gpu.layout in _ways(gpu, wish, immovable)


def _ways(gpu: Gpu, wish: str, immovable: dict[str, tuple[str, Any]]) -> list[Layout]:
    from agent.desired.inline import parse_inline, shapes_of

    held = {slot for uuid, slot in immovable.values() if uuid == gpu.uuid}
    shapes = () if wish == "enabled" else shapes_of(gpu, parse_inline(wish), wish)
    return [layout for layout in completions(gpu, shapes) if held <= set(layout)]


def test_the_second_way_agrees_on_an_easy_case() -> None:
    gpu = gpu_on_paper(BOARD)
    assert solve(gpu, GpuWish(True, ()), Tenants()) is not None
    assert _ways(gpu, "enabled", {}) == [()]
