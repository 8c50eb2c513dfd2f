"""A fleet whose nodes are labelled at once, told in virtual time: no more are in change than may be, and each gets its turn."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from agent.execute.fleet import FleetHands, LeaderHands
from agent.model import labels
from agent.model.fleet import LEADER, Window, Word, slot_name
from agent.observe.fleet import leader_of, slot_of
from agent.plan.fleet import LEASE_SECONDS
from tests.fakes.fleet import EPOCH, Fleet
from tests.fakes.world import Kill, Killed, Moment, NodeWorld, h100

SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))
pytestmark = pytest.mark.looptime(idle_timeout=1e9)


def _nodes(count: int) -> list[NodeWorld]:
    return [NodeWorld(h100(SEVEN), name=f"gpu-{number:02}") for number in range(count)]


def _status(world: NodeWorld) -> tuple[str, str]:
    found = json.loads(world.node["metadata"]["annotations"].get(labels.STATUS, "{}"))
    return found.get("reason", ""), found.get("message", "")


async def test_fifty_nodes_three_at_once_the_leader_and_two_holders_killed_on_the_way() -> None:
    """Never more than three are cordoned, all are done, and the two that died in mid-change go on where they were. No two
    agents have the same time."""
    fleet = Fleet("3", *_nodes(50), skew=86400.0)
    for name in fleet.nodes:
        fleet.start(name)
    fleet.label("2x3g.40gb")
    await fleet.run(300, lambda: len(fleet.done()) >= 5)
    leader = fleet.leader
    assert leader
    await fleet.kill(leader)
    await fleet.run(30, lambda: bool(fleet.leader))
    assert fleet.leader not in ("", leader)
    await fleet.run(60, lambda: len(fleet.cordoned) >= 2)
    holders = fleet.cordoned[:2]
    for name in holders:
        if name in fleet.agents:
            await fleet.kill(name)
    await fleet.run(100)
    assert set(holders) <= set(fleet.cordoned)
    del fleet.leases.items[slot_name(holders[0])]  # by hand; its node has a record
    await fleet.run(20)
    assert len(fleet.leases.slots()) > 10
    for name in (leader, *holders):
        if name not in fleet.agents:
            fleet.start(name)
    await fleet.run(3000, lambda: len(fleet.done()) == 50)
    assert len(fleet.done()) == 50
    assert fleet.most == 3
    await fleet.run(120)
    assert (fleet.leases.slots(), fleet.leases.items[LEADER]["spec"].get("holderIdentity")) == ([], None)
    said = [write for world in fleet.nodes.values() for write in world.node_writes if "fleet-slot" in str(write)]
    assert len(said) <= 2 * 50 + 5, "no leader yet; so many of so many: a wait is two writes of its node"
    await fleet.end()


async def test_killed_at_any_effect_of_node_or_lease_both_nodes_get_their_turn_and_no_lease_is_left() -> None:
    """The first node leads, grants to itself and to the other, and holds; another process goes on wherever it died."""
    undisturbed = await _two_nodes(None)
    kinds = set(undisturbed)
    assert {"lease.create", "lease.patch", "lease.delete", "patch", "create"} <= kinds
    moments: tuple[Moment, ...] = ("before", "after")
    for number in range(len(undisturbed)):
        for moment in moments:
            await _two_nodes(Kill(number, moment))


async def _two_nodes(kill: Kill | None) -> list[str]:
    fleet = Fleet("1", *_nodes(2), counted=True)
    fleet.label("2x3g.40gb")
    first, *_ = fleet.nodes
    fleet.nodes[first].effects.kill = kill
    for name in fleet.nodes:
        fleet.build(name)
    for _ in range(400):
        for name in fleet.nodes:
            await _passes(fleet, name)
        await fleet.second()
        if len(fleet.done()) == 2 and not fleet.leases.slots():
            break
    assert kill is None or fleet.nodes[first].effects.kill is None, "it died"
    assert (len(fleet.done()), fleet.leases.slots(), fleet.most) == (2, [], 1), kill
    await fleet.end()
    return fleet.nodes[first].effects.names


async def _passes(fleet: Fleet, name: str) -> None:
    """One of each loop; a process that dies is followed by another."""
    agent = fleet.agents[name]
    try:
        await agent.partition()
        await agent.fleet()
    except Killed:
        await fleet.kill(name)
        fleet.nodes[name].effects.kill = None
        fleet.build(name)


async def test_a_granted_slot_that_nobody_uses_is_looked_into_and_goes_to_the_next() -> None:
    """The agent of the node that waits longest has died: its wish is granted, and taken back when nothing came of it."""
    fleet = Fleet("1", *_nodes(3))
    dead, *alive = fleet.nodes
    await FleetHands(fleet.leases, fleet.now).ask(dead)
    fleet.nodes[dead].label(labels.STATE, "pending")
    await fleet.run(5)
    for name in alive:
        fleet.start(name)
    fleet.label("2x3g.40gb")
    began = fleet.now()
    await fleet.run(400, lambda: len(fleet.done()) == 2)
    assert sorted(fleet.done()) == sorted(alive)
    assert fleet.now() - began >= 60
    assert fleet.began == alive
    await fleet.run(5)
    assert fleet.leases.slots() == []
    fleet.start(dead)
    await fleet.run(100, lambda: len(fleet.done()) == 3)
    assert fleet.most == 1
    await fleet.end()


async def test_the_slot_of_a_node_that_is_gone_is_free() -> None:
    fleet = Fleet("1", *_nodes(2))
    hands = FleetHands(fleet.leases, fleet.now)
    gone = slot_of(await hands.ask("gpu-that-was"))
    assert gone is not None
    await hands.grant(gone)
    for name in fleet.nodes:
        fleet.start(name)
    fleet.label("2x3g.40gb")
    await fleet.run(300, lambda: len(fleet.done()) == 2)
    assert (len(fleet.done()), fleet.most) == (2, 1)
    await fleet.run(5)
    assert fleet.leases.slots() == []
    await fleet.end()


async def test_who_wants_nothing_any_more_leaves_the_queue() -> None:
    fleet = Fleet("1", *_nodes(3))
    for name in fleet.nodes:
        fleet.start(name)
    fleet.label("2x3g.40gb")
    await fleet.run(30, lambda: len(fleet.cordoned) == 1)
    holder, waits = fleet.cordoned[0], next(name for name in fleet.leases.slots() if name not in fleet.cordoned)
    fleet.nodes[holder].freeze_plugin = True
    await fleet.run(10)
    reason, message = _status(fleet.nodes[waits])
    assert (reason, message.partition(" for a slot: ")[2]) == ("fleet-slot", "1 of 1 nodes in change")
    fleet.nodes[waits].label(value=None)
    fleet.agents[waits].wake.set()
    await fleet.run(2)
    assert holder in fleet.leases.slots()
    assert waits not in fleet.leases.slots()
    fleet.nodes[holder].freeze_plugin = False
    await fleet.run(200, lambda: len(fleet.done()) == 2)
    assert waits not in fleet.began
    await fleet.end()


async def test_who_is_blocked_asks_for_no_slot() -> None:
    """A slot is for changes that could begin."""
    blocked, free = _nodes(2)
    blocked.add_pod("alone", blocked.device(0, 5), owner="")
    fleet = Fleet("1", blocked, free)
    for name in fleet.nodes:
        fleet.start(name)
    fleet.label("2x3g.40gb")
    await fleet.run(200, lambda: len(fleet.done()) == 1)
    asked = {name for verb, name in fleet.leases.requests if verb == "create"}
    assert slot_name("gpu-00") not in asked
    assert (_status(blocked)[0], _status(free)[0]) == ("blocked", "applied")
    await fleet.end()


async def test_nothing_begins_before_the_window_opens_and_what_has_begun_goes_on_when_it_closes() -> None:
    """It opens for a minute."""
    clock = datetime.fromtimestamp(EPOCH, UTC)
    times = [(clock + timedelta(minutes=minutes)).strftime("%H:%M") for minutes in (8, 9)]
    fleet = Fleet("1", *_nodes(20), window=Window.parse("-".join(times)))
    for name in fleet.nodes:
        fleet.start(name)
    fleet.label("2x3g.40gb")
    opening = (clock + timedelta(minutes=8)).replace(second=0).timestamp()
    await fleet.run(opening - fleet.now() - 2)
    assert fleet.began == []
    messages = {_status(world)[1].partition(" for a slot: ")[2] for world in fleet.nodes.values()}
    assert messages == {
        f"outside the maintenance window, which opens {datetime.fromtimestamp(opening, UTC):%Y-%m-%d %H:%M:%SZ}"
    }
    await fleet.run(120)
    begun = list(fleet.began)
    assert 1 < len(begun) < 20
    await fleet.run(600)
    assert (fleet.began, sorted(fleet.done()), fleet.most) == (begun, sorted(begun), 1)
    await fleet.end()


async def test_a_leader_that_is_cut_off_is_followed_and_grants_nothing_when_it_is_back() -> None:
    """Its requests hang, and fail after the other one leads."""
    fleet = Fleet("2", *_nodes(30))
    for name in fleet.nodes:
        fleet.start(name)
    fleet.label("2x3g.40gb")
    await fleet.run(60, lambda: len(fleet.done()) >= 3 and fleet.leader in fleet.leases.slots())
    old = fleet.leader
    fleet.cut_off.add(old)
    await fleet.run(30, lambda: fleet.leader != old)
    assert fleet.leader not in ("", old)
    await fleet.run(25)
    fleet.cut_off.clear()
    await fleet.run(1000, lambda: len(fleet.done()) == 30)
    assert (len(fleet.done()), fleet.most) == (30, 2)
    await fleet.end()


async def test_while_a_leader_cannot_say_anything_those_who_wait_ask_for_it_rarer_and_rarer() -> None:
    """Its lists fail, and perhaps because everybody asks. When it can, each has its turn."""
    fleet = Fleet("3", *_nodes(30))
    fleet.view_is_there = False
    for name in fleet.nodes:
        fleet.start(name)
    fleet.label("2x3g.40gb")
    looks = []
    for _ in range(4):
        before = len(fleet.leases.requests)
        await fleet.run(300)
        looks.append(len([name for verb, name in fleet.leases.requests[before:] if (verb, name) == ("get", LEADER)]))
    assert fleet.done() == []
    assert looks[0] <= 12 * 30
    assert looks[-1] <= 4 * 30
    fleet.view_is_there = True
    await fleet.run(1500, lambda: len(fleet.done()) == 30)
    assert (len(fleet.done()), fleet.most) == (30, 3)
    await fleet.end()


async def test_whoever_begins_to_wait_looks_for_the_leader_at_once() -> None:
    """However long ahead an earlier wait, of many, has set its next look: nobody may lead any more."""
    fleet = Fleet("3", *_nodes(1))
    fleet.start("gpu-00")
    hands = FleetHands(fleet.leases, fleet.now)
    ballot = LeaderHands(fleet.leases, LEADER, LEASE_SECONDS, fleet.now)
    far = leader_of(await ballot.lead(None, "far", None))
    fleet.label("2x3g.40gb")
    for _ in range(10):
        far = leader_of(await ballot.lead(far, "far", Word(2000, 3, 3)))
        await fleet.run(5)
    found = slot_of(await hands.find(slot_name("gpu-00")))
    assert found is not None
    await hands.grant(found)
    await fleet.run(60, lambda: len(fleet.done()) == 1)
    assert len(fleet.done()) == 1
    await ballot.resign(far)
    await fleet.run(5)
    fleet.label("7x1g.10gb")
    await fleet.run(20, lambda: fleet.leader == "gpu-00")
    assert fleet.leader == "gpu-00"
    await fleet.run(60, lambda: len(fleet.done()) == 1)
    assert fleet.done() == ["gpu-00"]
    await fleet.end()


async def test_a_grant_that_is_refused_keeps_nobody_behind_it_waiting() -> None:
    """An admission policy of somebody else's is about one Lease."""
    fleet = Fleet("1", *_nodes(4))
    fleet.refused.add(slot_name("gpu-00"))
    for name in fleet.nodes:
        fleet.start(name)
    fleet.label("2x3g.40gb")
    await fleet.run(200, lambda: len(fleet.done()) == 3)
    assert (sorted(fleet.done()), fleet.most) == (["gpu-01", "gpu-02", "gpu-03"], 1)
    assert fleet.leases.items[LEADER]["spec"]["leaseTransitions"] == 0
    fleet.refused.clear()
    await fleet.run(200, lambda: len(fleet.done()) == 4)
    assert (len(fleet.done()), fleet.most) == (4, 1)
    await fleet.end()


async def test_a_record_that_somebody_emptied_is_none() -> None:
    """`kubectl annotate node … warmslice.dev/operation=`: it takes no place, and the node's next change waits for its turn."""
    fleet = Fleet("1", *_nodes(3))
    for world in fleet.nodes.values():
        world.node["metadata"]["annotations"][labels.OPERATION] = ""
    for name in fleet.nodes:
        fleet.start(name)
    fleet.label("2x3g.40gb")
    await fleet.run(300, lambda: len(fleet.done()) == 3)
    assert (len(fleet.done()), fleet.most) == (3, 1)
    await fleet.end()


async def test_a_renewal_whose_answer_is_lost_does_not_end_the_lead() -> None:
    fleet = Fleet("1", *_nodes(6))
    for name in fleet.nodes:
        fleet.start(name)
    fleet.label("2x3g.40gb")
    await fleet.run(3)
    leader = fleet.leader
    fleet.lost.append(LEADER)
    await fleet.run(300, lambda: len(fleet.done()) == 6)
    assert (len(fleet.done()), fleet.most, fleet.lost) == (6, 1, [])
    assert (fleet.leader, fleet.leases.items[LEADER]["spec"]["leaseTransitions"]) == (leader, 0)
    await fleet.end()


async def test_a_grant_whose_answer_is_lost_is_not_made_to_another_one_too() -> None:
    fleet = Fleet("2", *_nodes(12))
    for name in fleet.nodes:
        fleet.start(name)
    fleet.label("2x3g.40gb")
    await fleet.run(3)
    fleet.lost += [slot_name(name) for name in fleet.leases.slots() if name not in fleet.cordoned]
    await fleet.run(900, lambda: len(fleet.done()) == 12)
    assert (len(fleet.done()), fleet.most) == (12, 2)
    await fleet.end()


async def test_while_leases_cannot_be_had_nobody_begins_and_who_has_begun_ends() -> None:
    fleet = Fleet("1", *_nodes(3))
    for name in fleet.nodes:
        fleet.start(name)
    fleet.label("2x3g.40gb")
    await fleet.run(60, lambda: len(fleet.cordoned) == 1)
    begun = fleet.cordoned
    fleet.leases.away = True
    await fleet.run(200)
    assert (fleet.began, fleet.done()) == (begun, begun)
    fleet.leases.away = False
    await fleet.run(600, lambda: len(fleet.done()) == 3)
    assert (len(fleet.done()), fleet.most) == (3, 1)
    await fleet.end()


async def test_more_grants_than_a_term_has_time_for_are_made_in_several() -> None:
    """Two hundred wishes of nodes that are only names, a tenth of a second each: the same leader grants them all."""
    (one,) = _nodes(1)
    fleet = Fleet("500", one)
    fleet.leases.seconds = 0.1
    hands = FleetHands(fleet.leases, fleet.now)
    for number in range(200):
        await hands.ask(f"name-{number}")
    fleet.start("gpu-00")
    fleet.label("2x3g.40gb")
    began = fleet.now()
    granted = [("patch", slot_name(f"name-{number}")) for number in range(200)]
    await fleet.run(60, lambda: set(granted) <= set(fleet.leases.requests))
    assert 20 < fleet.now() - began < 40
    await fleet.run(60, lambda: fleet.leases.slots() == [])
    assert fleet.leases.slots() == [], "there are no such nodes"
    assert fleet.leases.items[LEADER]["spec"]["leaseTransitions"] == 0
    await fleet.end()


async def test_ten_per_cent_of_twenty_are_two_at_once() -> None:
    fleet = Fleet("10%", *_nodes(20))
    for name in fleet.nodes:
        fleet.start(name)
    fleet.label("2x3g.40gb")
    await fleet.run(1500, lambda: len(fleet.done()) == 20)
    assert (len(fleet.done()), fleet.most) == (20, 2)
    await fleet.end()


async def test_what_led_to_the_wish_to_begin_stands_while_the_slot_is_waited_for() -> None:
    """A node that has not shown its layout for long has its clients started anew, in its turn: the time that it waited for
    the slot does not begin that wait anew."""
    holds, silent = _nodes(2)
    fleet = Fleet("1", holds, silent)
    holds.freeze_plugin = True
    for name in fleet.nodes:
        fleet.start(name)
    silent.label(value="7x1g.10gb")
    fleet.agents["gpu-01"].wake.set()
    await fleet.run(20, lambda: len(fleet.done()) == 1)
    silent.node["status"]["allocatable"] = {"nvidia.com/mig-1g.10gb": "3"}
    silent.freeze_plugin = True
    fleet.agents["gpu-01"].wake.set()
    await fleet.run(200)
    holds.label(value="2x3g.40gb")
    fleet.agents["gpu-00"].wake.set()
    await fleet.run(250)
    assert (fleet.cordoned, _status(silent)[0]) == (["gpu-00"], "fleet-slot")
    holds.freeze_plugin = False
    await fleet.run(60, lambda: fleet.cordoned == ["gpu-01"])
    silent.freeze_plugin = False
    await fleet.run(60, lambda: len(fleet.done()) == 2)
    assert (fleet.began, len(fleet.done())) == (["gpu-00", "gpu-01"], 2)
    await fleet.end()
