"""Who publishes what workloads want, when it is written, and what becomes of it when that agent, or the API server, goes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.model.demand import Allowed, Asked, Demand, Named, Rank
from agent.model.workload import WORKLOADS, WorkloadKind
from agent.reconcile.publishing import WRITE_SECONDS, kept_whatever_it_is
from tests.fakes.demand import Board

pytestmark = pytest.mark.looptime
_FIELDS = (
    "spec",
    "status",
    "template",
    "predictor",
    "model",
    "containers",
    "conditions",
    "type",
    "leaderWorkerTemplate",
)


@pytest.fixture
async def board() -> AsyncIterator[Board]:
    found = Board()
    yield found
    for agent in list(found.agents.values()):
        await agent.kill()


def wish(model: str, rank: Rank = Rank.WORKLOAD, namespace: str = "serving") -> Demand:
    return Demand(Named(f"org/{model}"), "vllm", namespace, rank)


def models(board: Board) -> set[str]:
    return {one.named.repository.removeprefix("org/") for one in board.published}


async def _until_another_publishes(board: Board) -> float:
    """Kill the publisher; after how many seconds another one follows."""
    first = board.publisher
    await board.agents[first].kill()
    began = board.clock()
    while board.publisher in ("", first):
        await asyncio.sleep(0.1)
    return board.clock() - began


async def test_one_looks_at_workloads_and_the_others_do_not(board: Board) -> None:
    board.want("chat", wish("a"))
    for name in ("n1", "n2", "n3"):
        board.start(name)
    await asyncio.sleep(60)
    assert (board.watching, models(board), len(board.writes)) == ([board.publisher], {"a"}, 1)


async def test_the_first_that_wants_something_does_not_wait(board: Board) -> None:
    board.start("n1")
    await asyncio.sleep(10)
    assert board.writes == []
    board.want("chat", wish("a"))
    await asyncio.sleep(1)
    assert models(board) == {"a"}
    board.want("chat")
    await asyncio.sleep(WRITE_SECONDS + 1)
    assert (models(board), len(board.writes)) == (set(), 2)


async def test_nothing_is_written_before_everything_is_listed(board: Board) -> None:
    """A half would look as if nobody wanted the rest, and their fetches would end."""
    board.want("chat", wish("a"))
    board.start("n1")
    await asyncio.sleep(40)
    await board.agents["n1"].kill()
    board.listing_seconds = 50.0
    board.start("n2")
    board.want("more", wish("b"))
    await asyncio.sleep(60)
    assert (board.publisher, models(board)) == ("n2", {"a"})
    await asyncio.sleep(10)
    assert models(board) == {"a", "b"}


async def test_demand_that_never_rests_is_written_every_half_minute_and_ends_right(board: Board) -> None:
    board.start("n1")
    for second in range(200):
        board.want("flaps", *([wish("a")] if second % 2 else [wish("a"), wish("b", Rank.PENDING)]))
        await asyncio.sleep(1)
    board.want("flaps", wish("c"))
    await asyncio.sleep(WRITE_SECONDS + 1)
    times = [at for at, _ in board.writes]
    assert all(later - earlier >= WRITE_SECONDS for earlier, later in itertools.pairwise(times))
    assert len(times) >= 6
    assert models(board) == {"c"}


async def test_who_follows_writes_nothing_that_stands_already(board: Board) -> None:
    board.want("chat", wish("a"))
    for name in ("n1", "n2"):
        board.start(name)
    await asyncio.sleep(40)
    assert await _until_another_publishes(board) < 30
    await asyncio.sleep(60)
    assert len(board.writes) == 1


@pytest.mark.parametrize("after", [20.0, 60.0, 100.0])
async def test_of_two_hundred_that_began_together_one_follows_in_time_whenever_the_publisher_dies(
    board: Board, after: float
) -> None:
    """A node pool that is scaled up, or an API server that comes back: what all do in one moment must not stay so."""
    board.nodes = 200
    for number in range(200):
        board.start(f"n{number}")
    await asyncio.sleep(after)
    assert await _until_another_publishes(board) < 30


async def test_those_who_look_for_the_publisher_are_few_at_any_time(board: Board) -> None:
    board.nodes = 200
    for number in range(200):
        board.start(f"n{number}")
    await asyncio.sleep(60)
    looks = []
    for _ in range(10):
        before = len(board.leases.requests)
        await asyncio.sleep(30)
        looks.append((len(board.leases.requests) - before) / 30)
    assert max(looks) < 4.0, looks  # two, and one that renews


async def test_who_cannot_count_the_agents_publishes_and_is_not_looked_for_more_and_more(board: Board) -> None:
    """An API server that says no more than it must: each looks rarer then, and nobody else leads."""
    board.want("chat", wish("a"))
    board.counts = False
    for number in range(200):
        board.start(f"n{number}")
    await asyncio.sleep(120)
    first, before = board.publisher, len(board.leases.requests)
    await asyncio.sleep(600)
    assert (board.publisher, models(board)) == (first, {"a"})
    assert (len(board.leases.requests) - before) / 600 < 8


async def test_agents_that_become_many_are_soon_counted(board: Board) -> None:
    board.nodes = 10
    for number in range(10):
        board.start(f"n{number}")
    await asyncio.sleep(60)
    board.nodes = 200
    for number in range(10, 200):
        board.start(f"n{number}")
    await asyncio.sleep(90)
    before = len(board.leases.requests)
    await asyncio.sleep(60)
    assert (len(board.leases.requests) - before) / 60 < 4


async def test_who_is_told_to_go_leaves_the_place_at_once(board: Board) -> None:
    board.start("n1")
    await asyncio.sleep(1)
    await board.agents["n1"].stop()
    assert board.publisher == ""
    board.start("n2")
    await asyncio.sleep(1)
    assert board.publisher == "n2"


async def test_an_api_server_that_is_away_is_waited_for(board: Board) -> None:
    board.want("chat", wish("a"))
    board.start("n1")
    await asyncio.sleep(40)
    board.away = board.leases.away = True
    board.want("chat", wish("b"))
    await asyncio.sleep(120)
    assert (models(board), board.agents["n1"].view.is_open) == ({"a"}, False)  # whoever cannot renew leads no more
    board.away = board.leases.away = False
    board.changed()
    await asyncio.sleep(150)
    assert models(board) == {"b"}


async def test_what_somebody_removed_comes_back(board: Board) -> None:
    board.want("chat", wish("a"))
    board.start("n1")
    await asyncio.sleep(5)
    board.delete_map()
    await asyncio.sleep(WRITE_SECONDS + 5)
    assert models(board) == {"a"}


async def test_what_somebody_changed_is_put_right(board: Board) -> None:
    board.want("chat", wish("a"))
    board.start("n1")
    await asyncio.sleep(WRITE_SECONDS)
    board.data, board.version = {"demand.json": "[]"}, board.version + 1
    board.changed()
    await asyncio.sleep(WRITE_SECONDS + 5)
    assert models(board) == {"a"}


_ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(_FIELDS), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from((None, *WORKLOADS)), st.dictionaries(st.sampled_from(_FIELDS), _ODD, max_size=3))
def test_an_object_of_any_shape_is_one_that_wants_nothing_and_stops_no_watch(
    kind: WorkloadKind | None, item: dict[str, Any]
) -> None:
    """Custom resources may have anything in them, and whoever may make one writes it."""
    metadata = {"uid": "u", "resourceVersion": "1", "namespace": "n", "name": "o"}
    found = kept_whatever_it_is(kind, {**item, "metadata": metadata})
    assert (found["metadata"], found["demands"]) == (metadata, ())


async def test_what_nobody_allows_is_neither_published_nor_lost_sight_of(board: Board) -> None:
    agent = board.start("n1", Allowed({"serving": ("org/a*",)}))
    board.want("chat", wish("a"), wish("b"), wish("a", namespace="lab"))
    await asyncio.sleep(WRITE_SECONDS + 5)
    (last,) = agent.reports[-1:]
    assert models(board) == {"a"}
    assert last is not None
    assert last.asked == Asked((("lab", "org/a"), ("serving", "org/b")))
    await agent.stop()
    assert agent.reports[-1] is None


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(("kill", "stop", "start", "want", "drop", "away")), st.floats(0, 40)), max_size=12
    )
)
def test_whatever_happens_what_is_wanted_at_the_end_stands_there(story: list[tuple[str, float]]) -> None:
    """Agents are killed, told to go and started, workloads come and go, the API server is away for a time."""
    import looptime

    async def play() -> None:
        board = Board()
        for name in ("n1", "n2"):
            board.start(name)
        for serial, (act, seconds) in enumerate(story):
            match act:
                case "kill" if board.agents:
                    await next(iter(board.agents.values())).kill()
                case "stop" if board.agents:
                    await list(board.agents.values())[-1].stop()
                case "start":
                    board.start(f"n{serial + 3}")
                case "want":
                    board.want(f"w{serial % 3}", replace(wish(f"m{serial}"), priority=serial))
                case "drop":
                    board.want(f"w{serial % 3}")
                case _:
                    board.away = board.leases.away = not board.away
            await asyncio.sleep(seconds)
        board.away = board.leases.away = False
        board.start("last")
        board.changed()
        await asyncio.sleep(200)
        wanted = {one.named.repository.removeprefix("org/") for some in board.workloads.values() for one in some}
        assert models(board) == wanted
        assert board.watching == [board.publisher]
        times = [at for at, _ in board.writes]
        assert all(later - earlier >= WRITE_SECONDS for earlier, later in itertools.pairwise(times))
        for agent in list(board.agents.values()):
            await agent.kill()

    loop = looptime.new_event_loop()
    try:
        loop.run_until_complete(play())
    finally:
        loop.close()
