"""Whatever happens to a guest that needs a reboot for its MIG mode: reboots, restarts of the agent, wishes that come and go.

In the end the node is given back, no mode is pending that nobody wants, and no wish has had the machine rebooted twice.
"""

from __future__ import annotations

import contextlib

from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.model import labels
from agent.model.errors import ConflictError
from agent.plan.way import Policy
from tests.fakes.world import NodeWorld, agent_on
from tests.scenario.test_mode_changes import given_back, guest, layout, off, pending, verdict

WISHES = {"withdraw": None, "halves": "2x3g.20gb", "whole": "1x7g.40gb", "disable": "disabled"}
EVENTS = st.sampled_from([*WISHES, "reboot", "restart", "write"])


@example(events=[("reboot", 1), ("halves", 2), ("whole", 1)], commanded=True, memory="stubborn", goes=True)
@settings(max_examples=60)
@given(
    events=st.lists(st.tuples(EVENTS, st.integers(1, 12)), max_size=6),
    commanded=st.booleans(),
    memory=st.sampled_from(["good", "stubborn", "forgetful"]),
    goes=st.booleans(),
)
async def test_the_node_is_given_back_and_nothing_is_left_that_nobody_wants(
    events: list[tuple[str, int]], commanded: bool, memory: str, goes: bool
) -> None:
    world = guest(off(), off(1))
    world.gpus.stubborn, world.gpus.forgetful = memory == "stubborn", memory == "forgetful"
    ended: list[set[str]] = [set()]  # boots that the command was to end, by the wish that stood then

    def command() -> None:
        ended[-1].add(world.boot.id)
        if goes:
            world._go_soon()

    world.on_reboot_command = command
    policy = Policy(reboots=commanded, reboot_seconds=30.0, patience_seconds=30.0, advertise_seconds=30.0)
    partition, _ = agent_on(world, policy)
    for event, passes in [*events, ("restart", 150)]:
        match event:
            case "reboot":
                world.reboot()
                partition, _ = agent_on(world, policy)
            case "restart":
                partition, _ = agent_on(world, policy)
            case "write":
                world._bump()
            case wish:
                if world.node["metadata"]["labels"].get(labels.CONFIG) != WISHES[wish]:
                    ended.append(set())
                world.label(value=WISHES[wish])
        for _ in range(passes):
            boot = world.boot.id
            wait = 1.0
            with contextlib.suppress(ConflictError):
                wait = await partition()
            world.tick(min(max(wait, 0.5), 20.0))
            if world.boot.id != boot:
                partition, _ = agent_on(world, policy)
    assert max(map(len, ended)) <= 1
    # A machine that never goes is asked to again and again, with the node cordoned meanwhile.
    assert given_back(world) or (commanded and not goes)
    _check_end(world, helps=memory == "good" and commanded and goes)


def _check_end(world: NodeWorld, helps: bool) -> None:
    wish = world.node["metadata"]["labels"].get(labels.CONFIG)
    wants = {None: None, "disabled": False}.get(wish, True)
    for number, gpu in enumerate(world.gpus.gpus.values()):
        if gpu.mig_pending and not gpu.mig_enabled:
            assert wants is True, f"GPU {number} would get a mode that nobody asks for"
    if wants is None:
        return
    reached = all((layout(world, number) == ["off"]) is not wants for number in range(2))
    if wants and reached:
        reached = all(len(layout(world, number)) == (2 if wish == "2x3g.20gb" else 1) for number in range(2))
    assert (verdict(world)[0] == "success") == reached, (verdict(world), pending(world))
    assert reached or not helps, verdict(world)
