"""The start-up gate on a node in memory, from its registration to its first pods, with kills and other writers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from agent.execute.gate import GateHands
from agent.model import labels
from agent.model.cache import CacheReport, DiskUse, FetchTotals, ModelReport, ModelState
from agent.model.errors import RetryError
from agent.observe.cluster import node_of, pod_of
from agent.plan.gate import GateRules
from agent.reconcile.gate import GateKeeper, GateSight
from tests.fakes.world import Fault, Kill, Killed, Moment, NodeWorld, agent_on, h100, settle

SECONDS = 900.0
GATE = {"key": labels.WARMING, "effect": "NoSchedule"}
OTHERS = [
    {"key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "true", "effect": "NoSchedule"},
    {"key": labels.WARMING, "effect": "NoExecute", "timeAdded": "2026-11-26T00:00:00Z"},
]
TAINTS = [OTHERS[0], GATE, OTHERS[1]]
BROKEN = "model catalog: cannot be read: gone"


class Counts:
    def __init__(self) -> None:
        self.waits: list[str] = []
        self.opened: list[str] = []

    def gate_waits(self, reasons: Sequence[str]) -> None:
        self.waits = list(reasons)

    def gate_opened(self, outcome: str) -> None:
        self.opened.append(outcome)


class _Nowhere:
    """The watch of this world is the world."""

    def put(self, item: dict[str, Any]) -> None:
        return


class Site:
    """A node that was registered with the taint, and how its gated model stands. ``keeper`` is the agent's while it lives."""

    def __init__(self, *gpus: Any, **options: Any) -> None:
        self.world = NodeWorld(*(gpus or (h100(),)), **options)
        self.taint(TAINTS)
        self.model: ModelState | None = ModelState.FETCHING
        self.refusal: str | None = None
        self.counts = Counts()
        self.opened_at: list[float] = []
        self.kills = 0
        self.world.effects.witness = self._witness
        self.between: Any = lambda: None
        self.restart()

    def restart(self) -> None:
        """Another process: it knows what the node says."""
        world = self.world
        sight = GateSight(lambda: node_of(world.node), lambda: [pod_of(pod) for pod in world.pods.values()])
        rules = GateRules(labels.CONFIG, SECONDS)
        self.keeper = GateKeeper(
            sight, GateHands(world), _Nowhere(), world, self.counts, rules, lambda: self.world.time
        )

    def taint(self, taints: list[dict[str, str]]) -> None:
        """What somebody else does."""
        self.world._patch({"spec": {"taints": taints}}, admin=True)

    async def look(self) -> float | None:
        models = (
            () if self.model is None else (_report("big", self.model), _report("extra", ModelState.FAILED, gate=False))
        )
        self.keeper.learn(_cached(() if self.refusal else models, self.refusal, self.world.time))
        return await self.keeper.keep()

    async def looks(self, count: int, seconds: float = 1.0) -> None:
        for _ in range(count):
            await self.look()
            self.world.tick(seconds)

    async def apply(self, layout: str = "7x1g.10gb") -> None:
        """The partition role, to its end."""
        self.world.label(value=layout)
        await settle(self.world, agent_on(self.world)[0])

    def _witness(self, name: str, about: tuple[Any, ...]) -> None:
        if name == "patch" and "taints" in about[0].get("spec", {}):
            self.opened_at.append(self.world.time)
            self.between()

    @property
    def taints(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = self.world.node["spec"].get("taints", [])
        return found

    @property
    def record(self) -> dict[str, Any]:
        """Empty where there is none."""
        found: dict[str, Any] = json.loads(self.world.node["metadata"]["annotations"].get(labels.GATE, "{}"))
        return found

    @property
    def writes(self) -> list[dict[str, Any]]:
        """Of the gate's."""
        return [one for one in self.world.node_writes if labels.GATE in one["metadata"]["annotations"]]

    def events(self) -> list[tuple[str, str, str]]:
        found = [event for event in self.world.events if event["action"] == "Gate"]
        return [(event["type"], event["reason"], event["message"]) for event in found]


def _report(name: str, state: ModelState, gate: bool = True) -> ModelReport:
    return ModelReport(name, f"acme/{name}", "main", None, state, "x", "x", 1, 1, 0.0, None, gate)


def _cached(models: tuple[ModelReport, ...], refusal: str | None, now: float) -> CacheReport:
    return CacheReport(now, models, refusal, DiskUse(0, 0), None, FetchTotals(), (), {}, None)


async def test_the_taint_goes_once_when_layout_slices_and_models_are_there() -> None:
    site = Site()
    site.world.label(value="7x1g.10gb")
    await site.looks(3)
    assert (site.counts.waits, site.record["waits_for"]) == (["layout", "models"], "layout")
    await site.apply()
    await site.looks(3)
    assert (site.counts.waits, site.record["waits_for"]) == (["models"], "models")
    assert site.taints == TAINTS
    site.model = ModelState.READY
    await site.looks(5)
    assert site.taints == OTHERS
    assert site.record == {}
    assert len(site.opened_at) == 1
    # One when it was seen, one for the other reason, one that opens.
    assert len(site.writes) == 3
    assert (site.counts.waits, site.counts.opened) == ([], ["ready"])
    [(kind, reason, message)] = site.events()
    assert (kind, reason) == ("Normal", "GateOpened")
    assert message.startswith("layout '7x1g.10gb' is applied and shown, gated models are ready: big; pods may come")


async def test_a_plugin_that_shows_nothing_yet_keeps_it_shut() -> None:
    """Its pod was not let onto the node, say: then the layout counts as applied by the hardware's word alone."""
    site = Site(plugin=False, deploy_labels=False)
    site.model = ModelState.READY
    await site.apply()
    await site.looks(2)
    assert site.counts.waits == ["allocatable"]
    assert site.keeper.waits_for_driver
    site.world.node["status"]["allocatable"] = {"nvidia.com/mig-1g.10gb": "7"}
    await site.look()
    assert site.counts.opened == ["ready"]


async def test_where_a_dra_driver_runs_no_allocatable_is_waited_for() -> None:
    site = Site(dra=True)
    site.model = ModelState.READY
    await site.apply()
    assert "nvidia.com/mig-1g.10gb" not in site.world.node["status"]["allocatable"]
    await site.look()
    assert site.counts.opened == ["ready"]


async def test_after_the_deadline_pods_may_come_and_what_was_missing_is_said() -> None:
    site = Site()
    site.world.label(value="7x1g.10gb")
    began = site.world.time
    for _ in range(100):
        wait = await site.look()
        if wait is None:
            break
        site.world.tick(wait)
    # Nothing happened, and no look was asked for between the first and the last.
    assert site.opened_at == [began + SECONDS]
    assert site.taints == OTHERS
    assert site.counts.opened == ["deadline"]
    [(kind, reason, message)] = site.events()
    assert (kind, reason) == ("Warning", "GateOpenedLate")
    assert "layout '7x1g.10gb' is not applied in this boot" in message
    assert "gated model big is fetching" in message


async def test_a_catalog_that_cannot_be_read_is_waited_for_until_the_deadline() -> None:
    site = Site()
    site.refusal = BROKEN
    await site.look()
    assert site.record == {"since": site.world.time, "waits_for": "catalog", "message": BROKEN}
    site.refusal, site.model = None, ModelState.READY
    await site.look()
    assert site.counts.opened == ["ready"]
    late = Site()
    late.refusal = BROKEN
    await late.looks(91, 10.0)
    assert late.counts.opened == ["deadline"]
    assert BROKEN in late.events()[0][2]


async def test_before_the_first_report_of_the_models_it_stays_shut() -> None:
    site = Site()
    await site.keeper.keep()
    assert site.counts.waits == ["catalog"]


async def test_a_taint_that_is_set_meanwhile_is_not_lost() -> None:
    """Somebody writes between our look and our write: the write is refused, and the next look has that taint."""
    site = Site()
    site.model = None
    mine = {"key": "example.org/mine", "value": "x", "effect": "NoExecute"}

    def somebody() -> None:
        site.between = lambda: None
        site.taint([*TAINTS, mine])

    site.between = somebody
    assert await site.look() == 0.5
    assert site.taints == [*TAINTS, mine]
    assert site.counts.opened == []
    await site.look()
    assert site.taints == [*OTHERS, mine]
    assert site.counts.opened == ["ready"]


async def test_a_taint_that_is_set_again_later_is_gated_anew() -> None:
    site = Site()
    site.model = None
    await site.looks(2, 5000.0)
    site.model = ModelState.FETCHING
    site.taint(TAINTS)
    began = site.world.time
    await site.look()
    assert site.record["since"] == began
    await site.looks(9, 100.0)
    assert site.taints == TAINTS
    await site.look()
    assert site.opened_at[1:] == [began + SECONDS]
    assert site.counts.opened == ["ready", "deadline"]
    assert len({event["metadata"]["name"] for event in site.world.events}) == 2


async def test_a_taint_that_somebody_else_took_leaves_no_time_behind() -> None:
    site = Site()
    await site.look()
    site.world.tick(800.0)
    site.taint(OTHERS)
    await site.looks(2)
    assert site.record == {}
    assert (site.counts.waits, site.counts.opened) == ([], [])
    site.taint(TAINTS)
    began = site.world.time
    await site.look()
    assert site.record["since"] == began


async def test_the_same_key_with_another_effect_is_not_ours() -> None:
    site = Site()
    site.taint(OTHERS)
    await site.looks(3, 1000.0)
    assert (site.taints, site.writes) == (OTHERS, [])


async def test_an_api_server_that_is_away_at_the_deadline_is_asked_again() -> None:
    site = Site()
    await site.look()
    site.world.tick(SECONDS)
    site.world.effects.faults.append(Fault(frozenset({"patch"}), RetryError, "before", 2))
    for _ in range(2):
        with pytest.raises(RetryError):
            await site.look()
    assert site.counts.opened == []
    await site.look()
    assert (site.taints, site.counts.opened) == (OTHERS, ["deadline"])


async def test_an_answer_that_is_lost_opens_it_no_second_time() -> None:
    site = Site()
    site.model = None
    site.world.effects.faults.append(Fault(frozenset({"patch"}), RetryError, "after"))
    with pytest.raises(RetryError):
        await site.look()
    await site.looks(2)
    assert (site.taints, len(site.opened_at)) == (OTHERS, 1)


def _play(site: Site) -> Any:
    """From the first sight to the open gate, by three writes; the model is there in time, or never."""

    async def play(ready_after: float) -> None:
        began = site.world.time
        for _ in range(50):
            if GATE not in site.taints:
                break
            if site.world.time - began >= 300.0 and not site.world.node["status"]["allocatable"]:
                site.world.node["status"]["allocatable"] = {"nvidia.com/mig-1g.10gb": "7"}
            if site.world.time - began >= ready_after:
                site.model = ModelState.READY
            try:
                await site.look()
            except Killed:
                site.kills += 1
                site.world.effects.kill = None
                site.restart()
            site.world.tick(50.0)
        await site.looks(2)

    return play


async def _late_plugin() -> Site:
    site = Site(plugin=False, deploy_labels=False)
    await site.apply()
    site.world.effects.names.clear()
    return site


@pytest.mark.parametrize("ready_after", [600.0, 1e9], ids=["ready", "deadline"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", range(3))
async def test_killed_at_any_write_the_next_agent_goes_on_with_the_same_time(
    number: int, moment: Moment, ready_after: float
) -> None:
    """First sight, another reason, opening: each is the last write of a process."""
    site = await _late_plugin()
    began = site.world.time
    site.world.effects.kill = Kill(number, moment)
    await _play(site)(ready_after)
    assert site.kills == 1, "it came to that write"
    assert (site.taints, site.record) == (OTHERS, {})
    sinces = {json.loads(text)["since"] for one in site.writes if (text := one["metadata"]["annotations"][labels.GATE])}
    # Nothing stood on the node when the first write was not made: then the next process is the first to see it.
    first = began + 50.0 if (number, moment) == (0, "before") else began
    assert sinces == {first}
    done = [one for one in site.writes if one["metadata"]["annotations"][labels.GATE] is None]
    assert len(done) == 1
    due = began + ready_after if ready_after < SECONDS else first + SECONDS
    late = 50.0 if (number, moment) == (2, "before") else 0.0
    assert site.opened_at[-1] == due + late


async def test_the_story_of_the_kills_has_three_writes() -> None:
    site = await _late_plugin()
    await _play(site)(600.0)
    assert site.world.effects.names == ["patch"] * 3
