"""How pods that serve came to be ready, by where their weights were: what is counted, once each, and what it says was saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model import labels
from agent.model.cache import CacheReport, DiskUse, FetchTotals, ModelReport, ModelState
from agent.model.cold_start import Ledger, ModelStarts, Moments, PodStart, Row, Weights, saved, worst
from agent.model.demand import Rank
from agent.model.errors import RefusedError
from agent.model.page_cache import ModelInMemory, PageCacheReport
from agent.observe.pod_start import moments_of
from agent.reconcile.cold_starts import ColdStarts
from agent.reconcile.servings import PodServings
from agent.report.cold_starts import starts_table

NOW = 1_800_000_000.0
MODEL = "org--tiny"


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod(
    name: str, scheduled: float, started: float | None = None, ready: float | None = None, model: str = "org/tiny"
) -> Any:
    """A pod of one vLLM server, as far as it has come."""
    conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(scheduled)}]
    ready_now = {"status": "True", "lastTransitionTime": stamp(ready)} if ready is not None else {"status": "False"}
    state = {"running": {"startedAt": stamp(started)}} if started is not None else {"waiting": {"reason": "Creating"}}
    return {
        "metadata": {"name": name, "namespace": "serving", "uid": f"{name}-0000-0000"},
        "spec": {"containers": [{"name": "main", "image": "i", "command": ["vllm", "serve", model]}]},
        "status": {
            "phase": "Running" if started is not None else "Pending",
            "conditions": [*conditions, {"type": "Ready", **ready_now}],
            "containerStatuses": [{"name": "main", "state": state}],
        },
    }


def report(state: ModelState, fetched: int = 0) -> CacheReport:
    model = ModelReport(MODEL, "org/tiny", "main", None, state, "", "", 100, fetched, NOW, None)
    return CacheReport(NOW, (model,), None, DiskUse(0, 0), None, FetchTotals(), (), {}, None)


@dataclass
class Node:
    """The node object, its pods and their Events, behind the doors that the ledger uses. ``synced``: the pods are known."""

    pods: list[Any] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)
    counted: list[PodStart] = field(default_factory=list)
    now: float = NOW
    writes: int = 0
    asked: int = 0
    refuses: bool = False
    synced: bool = True

    def agent(self) -> ColdStarts:
        """A process of the agent."""

        async def events(namespace: str, uid: str) -> Iterable[Mapping[str, Any]]:
            self.asked += 1
            if self.refuses:
                raise RefusedError("events is forbidden")
            return [event for event in self.events if event["involvedObject"]["uid"] == uid]

        async def write(annotations: Mapping[str, str]) -> None:
            self.writes += 1
            self.annotations |= annotations

        return ColdStarts(
            lambda: {"metadata": {"annotations": self.annotations}},
            lambda: self.pods if self.synced else None,
            events,
            write,
            self.counted.append,
            lambda: self.now,
            lambda: self.now,
            lambda: "boot-1",
            PodServings(),
        )

    @property
    def ledger(self) -> Ledger:
        return Ledger.from_json(self.annotations.get(labels.MODELS, "{}"))


def pulled(name: str, at: float) -> Any:
    where = {"uid": f"{name}-0000-0000", "fieldPath": "spec.containers{main}"}
    return {"reason": "Pulled", "involvedObject": where, "lastTimestamp": stamp(at)}


@pytest.mark.parametrize(
    ("before", "fetched", "weights"),
    [
        (ModelState.READY, 100, Weights.READY),
        (ModelState.FETCHING, 40, Weights.DISK),
        (ModelState.WAITING, 0, Weights.ABSENT),
    ],
)
async def test_a_start_counts_for_where_its_weights_were_when_the_server_started(
    before: ModelState, fetched: int, weights: Weights
) -> None:
    """What comes while it loads changes nothing any more."""
    node = Node([pod("a", NOW)], [pulled("a", NOW + 3)])
    agent = node.agent()
    agent.take(report(before, fetched))
    node.pods = [pod("a", NOW, NOW + 4)]
    agent.look()
    agent.take(report(ModelState.READY, 100))
    assert not agent.due()
    node.pods = [pod("a", NOW, NOW + 4, NOW + 24)]
    agent.look()
    assert agent.due()
    await agent.settle()
    (start,) = node.counted
    assert (start.model, start.weights, start.total_seconds) == (MODEL, weights, 24.0)
    assert (start.image_seconds, start.load_seconds) == (3.0, 20.0)
    assert node.ledger.models[MODEL].rows == {weights: Row(1, 24.0, 1, 20.0, 1, 3.0)}


async def test_a_model_that_comes_while_the_image_is_pulled_counts_as_there() -> None:
    node = Node([pod("a", NOW)])
    agent = node.agent()
    agent.take(report(ModelState.FETCHING, 10))
    agent.take(report(ModelState.READY, 100))
    node.pods = [pod("a", NOW, NOW + 4, NOW + 5)]
    agent.look()
    await agent.settle()
    assert [start.weights for start in node.counted] == [Weights.READY]


async def test_no_pod_is_counted_twice_however_often_the_agent_is_killed() -> None:
    """Before the write nothing is lost but where its weights were; after it the pod is known."""
    node = Node([pod("a", NOW)])
    first = node.agent()
    first.take(report(ModelState.READY, 100))
    node.pods = [pod("a", NOW, NOW + 1, NOW + 9)]
    second = node.agent()  # killed before anything was written
    second.take(report(ModelState.READY, 100))
    await second.settle()
    assert [(start.weights, start.total_seconds) for start in node.counted] == [(Weights.UNKNOWN, 9.0)]
    for _ in range(3):
        again = node.agent()
        again.take(report(ModelState.READY, 100))
        await again.settle()
        await again.settle()
    assert (len(node.counted), node.writes) == (1, 1)


async def test_pods_that_are_not_known_yet_are_neither_counted_nor_forgotten() -> None:
    """After a restart the pods may be listed after the first pass: those that are counted stay so."""
    node = Node([pod("a", NOW)])
    agent = node.agent()
    agent.take(report(ModelState.READY, 100))
    node.pods = [pod("a", NOW, NOW + 1, NOW + 2)]
    agent.look()
    await agent.settle()
    for _ in range(2):
        node.synced = False
        again = node.agent()
        again.take(report(ModelState.READY, 100))
        await again.settle()
        node.synced = True
        again.take(report(ModelState.READY, 100))
        await again.settle()
    assert ([start.weights for start in node.counted], node.writes) == ([Weights.READY], 1)


async def test_a_pod_that_was_ready_long_before_the_agent_came_is_no_start() -> None:
    """Its readiness may be of an hour ago, and its scheduling of last month."""
    node = Node([pod("a", NOW - 30 * 86400, NOW - 29 * 86400, NOW - 3600)])
    agent = node.agent()
    agent.take(report(ModelState.READY, 100))
    await agent.settle()
    assert (node.counted, node.writes) == ([], 0)


async def test_a_pod_that_brings_its_model_itself_is_a_miss() -> None:
    """It was seen before its start, and the pass that wants its model came after that."""
    node = Node([pod("a", NOW)])
    agent = node.agent()
    agent.take(replace(report(ModelState.READY), models=()))
    node.pods = [pod("a", NOW, NOW + 1)]
    agent.look()
    agent.take(report(ModelState.WAITING))
    agent.take(report(ModelState.READY, 100))
    node.pods = [pod("a", NOW, NOW + 1, NOW + 9)]
    agent.look()
    await agent.settle()
    assert [start.weights for start in node.counted] == [Weights.ABSENT]


async def test_a_pod_whose_model_is_not_wanted_any_more_is_asked_about_nowhere() -> None:
    node = Node([pod("a", NOW)])
    agent = node.agent()
    agent.take(report(ModelState.READY, 100))
    node.pods = [pod("a", NOW, NOW + 1, NOW + 9)]
    node.refuses = True
    agent.take(replace(report(ModelState.READY), models=()))
    assert not agent.due()
    await agent.settle()
    assert (node.counted, node.asked) == ([], 0)


async def test_a_container_that_crashed_more_than_once_has_no_time_of_loading() -> None:
    node = Node([pod("a", NOW)], [pulled("a", NOW + 3), pulled("a", NOW + 500)])
    agent = node.agent()
    agent.take(report(ModelState.WAITING))
    crashed = pod("a", NOW, NOW + 580, NOW + 610)
    crashed["status"]["containerStatuses"][0]["restartCount"] = 4
    node.pods = [crashed]
    agent.look()
    await agent.settle()
    (start,) = node.counted
    assert (start.total_seconds, start.image_seconds, start.load_seconds) == (610.0, 3.0, None)


async def test_a_pod_that_is_ready_anew_is_no_new_start() -> None:
    node = Node([pod("a", NOW)])
    agent = node.agent()
    agent.take(report(ModelState.READY, 100))
    for ready in (NOW + 9, None, NOW + 300):
        node.pods = [pod("a", NOW, NOW + 1, ready)]
        node.now += 100
        agent.look()
        await agent.settle()
    assert len(node.counted) == 1


async def test_weights_that_are_in_memory_are_told_apart_and_the_node_is_written_seldom_for_them() -> None:
    """Nine tenths count as there; what the kernel takes and gives back is no news by itself."""

    def warm(resident: int) -> CacheReport:
        whole = report(ModelState.READY, 100)
        return replace(whole, page_cache=PageCacheReport((ModelInMemory(MODEL, "main", 100, resident),)))

    node = Node([pod("a", NOW)])
    agent = node.agent()
    agent.take(warm(95))
    node.pods = [pod("a", NOW, NOW + 1, NOW + 2)]
    agent.look()
    await agent.settle()
    assert ([start.weights for start in node.counted], node.ledger.in_memory) == ([Weights.MEMORY], {MODEL: 90})
    for resident in (20, 80, 10):
        node.now += 100
        agent.take(warm(resident))
        await agent.settle()
    assert (node.writes, node.ledger.in_memory) == (1, {MODEL: 90})
    node.now += 600
    await agent.settle()
    assert (node.writes, node.ledger.in_memory) == (2, {MODEL: 10})


async def test_what_is_gated_and_ready_is_vouched_for_at_once_by_revision_and_boot() -> None:
    """The label alone would let a change of layout go on for another revision, or for the disk of before a reboot."""
    node = Node()
    agent = node.agent()
    whole = report(ModelState.READY, 100)
    gated = replace(whole, models=(replace(whole.models[0], gate=True),))
    agent.take(gated)
    await agent.settle()
    assert node.ledger.vouched == {MODEL: "org/tiny@main boot-1"}
    agent.take(replace(gated, models=(replace(gated.models[0], state=ModelState.FETCHING),)))
    await agent.settle()
    assert (node.ledger.vouched, node.writes) == ({}, 2)


async def test_pods_of_models_that_nobody_wants_here_and_of_none_are_left_out() -> None:
    """A stranger cannot fill the ledger, nor a metric, with names."""
    node = Node([pod("a", NOW, model="evil/x"), pod("b", NOW, model="/models/x")])
    agent = node.agent()
    agent.take(report(ModelState.READY, 100))
    node.pods = [pod("a", NOW, NOW + 1, NOW + 2, "evil/x"), pod("b", NOW, NOW + 1, NOW + 2, "/models/x")]
    agent.look()
    await agent.settle()
    assert (node.counted, node.writes) == ([], 0)


async def test_the_node_is_written_at_most_every_ten_seconds_and_nothing_is_lost() -> None:
    node = Node()
    agent = node.agent()
    for number in range(5):
        node.pods = [*node.pods, pod(f"p{number}", NOW)]
        agent.take(report(ModelState.READY, 100))
        node.pods = [*node.pods[:-1], pod(f"p{number}", NOW, NOW + 1, NOW + 2)]
        agent.look()
        await agent.settle()
    assert (node.writes, node.ledger.models[MODEL].rows[Weights.READY].pods) == (1, 1)
    assert await agent.settle() == 10.0
    node.now += 10
    assert await agent.settle() is None
    assert (node.writes, node.ledger.models[MODEL].rows[Weights.READY].pods) == (2, 5)


async def test_without_the_right_to_read_events_only_the_time_of_the_image_is_unknown() -> None:
    node = Node([pod("a", NOW)], refuses=True)
    agent = node.agent()
    agent.take(report(ModelState.READY, 100))
    node.pods = [pod("a", NOW, NOW + 1, NOW + 2)]
    agent.look()
    await agent.settle()
    assert [(start.image_seconds, start.load_seconds) for start in node.counted] == [(None, 1.0)]


async def test_what_pods_that_ran_here_read_is_wanted_for_a_week() -> None:
    node = Node([pod("a", NOW)])
    agent = node.agent()
    agent.take(report(ModelState.READY, 100))
    node.pods = [pod("a", NOW, NOW + 1, NOW + 2)]
    agent.look()
    await agent.settle()
    node.pods = []
    assert [(one.named.repository, one.namespace, one.rank) for one in node.agent().history()] == [
        ("org/tiny", "serving", Rank.HISTORY)
    ]
    node.now += 8 * 86400
    assert node.agent().history() == ()


def test_a_container_that_was_started_anew_counts_from_its_first_start() -> None:
    found = pod("a", NOW, NOW + 60, NOW + 70)
    found["status"]["containerStatuses"][0]["lastState"] = {"terminated": {"startedAt": stamp(NOW + 2)}}
    assert moments_of(found, "main") == Moments(NOW, None, NOW + 2, NOW + 70)


@pytest.mark.parametrize(
    "status", [None, {}, {"conditions": None}, {"conditions": [{"type": "Ready", "status": "True"}]}]
)
def test_a_pod_that_tells_nothing_has_no_moments(status: Any) -> None:
    assert moments_of({"status": status}, "main") == Moments()


def test_the_worst_of_all_that_a_pod_reads_counts() -> None:
    assert worst([Weights.MEMORY, Weights.READY]) is Weights.READY
    assert worst([Weights.READY, Weights.ABSENT, Weights.DISK]) is Weights.ABSENT
    assert worst([]) is Weights.UNKNOWN


starts = st.builds(
    PodStart,
    st.uuids().map(str),
    st.just("p"),
    st.just("serving"),
    st.sampled_from(("a", "b", "c")),
    st.just("org/x"),
    st.just("main"),
    st.sampled_from(tuple(Weights)),
    st.floats(0, 1e9),
    st.integers(0, 1000).map(float),
    st.none() | st.integers(0, 100).map(float),
    st.none() | st.integers(0, 100).map(float),
)


@given(st.lists(starts, max_size=30))
def test_the_ledger_is_the_sum_of_its_pods_and_survives_being_written(all_starts: list[PodStart]) -> None:
    ledger = Ledger()
    for one in all_starts:
        ledger = Ledger.from_json(ledger.plus(one).to_json())
    rows = {(name, weights): row for name, model in ledger.models.items() for weights, row in model.rows.items()}
    for key, row in rows.items():
        mine = [one for one in all_starts if (one.model, one.weights) == key]
        loads = [one.load_seconds for one in mine if one.load_seconds is not None]
        assert (row.pods, row.total_seconds) == (len(mine), sum(one.total_seconds for one in mine))
        assert (row.loads, row.load_seconds) == (len(loads), sum(loads))
    assert set(rows) == {(one.model, one.weights) for one in all_starts}
    assert all(ledger.has(one.uid) for one in all_starts)
    assert ledger.among([]).counted == []


def test_of_many_models_those_that_started_last_are_kept_and_the_annotation_stays_small() -> None:
    ledger = Ledger()
    one = PodStart("u", "p", "namespace-of-a-team", "", "", "main", Weights.READY, 0.0, 9.0, 1.0, 3.0)
    for number in range(60):
        name = f"organisation--a-model-with-a-long-name-{number}-70B-Instruct"
        for weights in Weights:
            start = replace(one, uid=f"{number:08}", model=name, repository=name, weights=weights, at_seconds=number)
            ledger = ledger.plus(start)
    kept = [int(name.split("-")[-3]) for name in ledger.models]
    assert kept == list(range(60 - len(kept), 60))
    assert 5 <= len(kept) <= 20
    ledger = replace(
        ledger.among([f"{number:08}" for number in range(56)]), in_memory=dict.fromkeys(ledger.models, 100)
    )
    assert len(ledger.to_json()) < 8192


@pytest.mark.parametrize("text", ["", "null", "[]", '{"models": {"a": 1}}'])
def test_an_annotation_that_is_not_ours_is_an_empty_ledger(text: str) -> None:
    assert Ledger.from_json(text) == Ledger()


def test_what_was_saved_is_told_where_both_kinds_are_known() -> None:
    rows = {
        Weights.ABSENT: Row(2, 200.0, 2, 120.0),
        Weights.READY: Row(3, 60.0, 3, 15.0),
        Weights.MEMORY: Row(1, 10.0, 1, 1.0),
    }
    both = ModelStarts("org/x", "main", "n", NOW, rows)
    assert saved(both) == (56.0, 224.0)
    assert saved(ModelStarts("org/x", "main", "n", NOW, {Weights.READY: Row(3, 60.0, 3, 15.0)})) is None
    assert list(starts_table(Ledger({"org--x": both}))) == [
        "MODEL   WEIGHTS     PODS  READY IN  IMAGE  LOADING",
        "org--x  page-cache  1     10.0 s    ?      1.0 s",
        "org--x  ready       3     20.0 s    ?      5.0 s",
        "org--x  absent      2     100.0 s   ?      60.0 s",
        "org--x: loading took 56.0 s less where the weights were ready, 224 s in all",
    ]
    assert list(starts_table(Ledger())) == []
