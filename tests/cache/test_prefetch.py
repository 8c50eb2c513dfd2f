"""Decisions of the cache loop on paper: what starts, what ends, what the labels say."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.model.cache import CachedModel, FailureKind, FetchFailure, ModelState
from agent.model.catalog import CatalogModel
from agent.model.demand import Rank
from agent.plan.prefetch import CachePlan, CacheSeen, next_try_seconds, plan_prefetch

NOW = 1_000_000.0
COMPLETE = CachedModel("c" * 40, 10, 10, None)
ABSENT = CachedModel(None, 0, 0, "not fetched yet")
A, B, C = (CatalogModel(name, f"acme/{name}") for name in "abc")


def seen(**states: CachedModel) -> CacheSeen:
    return CacheSeen(models=states, running={}, failures={}, node_labels={})


def failed(model: CatalogModel, next_try: float) -> FetchFailure:
    return FetchFailure(model, FailureKind.FAULT, "reset", "it broke", 1, NOW - 1, next_try)


def test_the_first_model_that_is_missing_is_fetched() -> None:
    plan = plan_prefetch((A, B, C), seen(a=COMPLETE, b=ABSENT, c=ABSENT), NOW)
    assert plan == CachePlan(
        starts=(B,),
        stops=(),
        states={"a": ModelState.READY, "b": ModelState.FETCHING, "c": ModelState.WAITING},
        labels={
            "models.warmslice.dev/a": "ready",
            "models.warmslice.dev/b": "fetching",
            "models.warmslice.dev/c": "fetching",
        },
        look_again_seconds=None,
        asking=(B, C),
        most=1,
    )


def test_nothing_starts_while_as_many_run_as_may() -> None:
    world = replace(seen(a=ABSENT, b=ABSENT), running={"a": A})
    assert plan_prefetch((A, B), world, NOW).starts == ()
    assert plan_prefetch((A, B), world, NOW, at_once=2).starts == (B,)


def test_a_fetch_makes_way_to_a_more_urgent_model_and_to_no_other() -> None:
    """What it has brought stays, so it goes on from there. Of those that run the least urgent ends, and only one that lacks files
    can ask for that: a newer commit of what is there can wait."""
    ranks = {"a": Rank.DECLARED, "b": Rank.PENDING, "c": Rank.HERE}
    world = replace(seen(a=ABSENT, b=ABSENT, c=ABSENT), running={"a": A}, ranks=ranks)
    urgent = plan_prefetch((C, B, A), world, NOW)
    assert (urgent.starts, urgent.stops, urgent.states["a"]) == ((), ("a",), ModelState.WAITING)
    assert plan_prefetch((B, A), replace(world, ranks=dict.fromkeys("abc", Rank.PENDING)), NOW).stops == ()
    assert plan_prefetch((C, B, A), replace(world, running={"a": A, "b": B}), NOW, at_once=2).stops == ("a",)
    assert plan_prefetch((C, A), replace(world, running={"c": C}), NOW).stops == ()
    followed = replace(C, follow_seconds=60)
    old = replace(COMPLETE, checked_at_seconds=NOW - 3600)
    assert plan_prefetch((followed, A), replace(world, models={"a": ABSENT, "c": old}), NOW).stops == ()


def test_a_model_that_failed_lets_the_next_one_go_first_until_its_time_comes() -> None:
    world = replace(seen(a=ABSENT, b=ABSENT), failures={"a": failed(A, NOW + 5)})
    early = plan_prefetch((A, B), world, NOW)
    assert (early.starts, early.states["a"], early.look_again_seconds) == ((B,), ModelState.FAILED, NOW + 5)
    assert plan_prefetch((A, B), world, NOW + 5).starts == (A,)


def test_a_model_wanted_differently_than_it_failed_starts_afresh() -> None:
    newer = replace(A, revision="v2")
    world = replace(seen(a=ABSENT), failures={"a": failed(A, NOW + 500)})
    assert plan_prefetch((newer,), world, NOW).starts == (newer,)


def test_a_fetch_of_what_is_not_wanted_any_more_is_ended() -> None:
    world = replace(seen(b=COMPLETE), running={"a": A})
    assert plan_prefetch((B,), world, NOW).stops == ("a",)


def test_a_fetch_of_what_is_wanted_differently_is_ended_first() -> None:
    newer = replace(A, revision="v2")
    plan = plan_prefetch((newer,), replace(seen(a=ABSENT), running={"a": A}), NOW)
    assert (plan.starts, plan.stops) == ((), ("a",))


def test_another_priority_or_fate_of_what_is_being_fetched_disturbs_nothing() -> None:
    """Neither the fetch that runs, nor the time of the next try."""
    other = replace(A, priority=9, pin=True, gate=True, page_cache=True, nodes=(("zone", "a"),))
    assert plan_prefetch((other,), replace(seen(a=ABSENT), running={"a": A}), NOW).stops == ()
    world = replace(seen(a=ABSENT), failures={"a": failed(A, NOW + 500)})
    assert plan_prefetch((other,), world, NOW).starts == ()


def test_a_model_that_waits_for_its_token_lets_another_one_go_first_and_is_not_outranked() -> None:
    waiting = replace(seen(a=ABSENT, b=ABSENT), held={"a"})
    plan = plan_prefetch((A, B), waiting, NOW)
    assert (plan.starts, plan.stops, plan.asking) == ((B,), (), (A, B))
    assert plan.states == {"a": ModelState.WAITING, "b": ModelState.FETCHING}
    plan = plan_prefetch((A, B), replace(waiting, held={"a", "b"}), NOW)
    assert (plan.starts, plan.stops) == ((), ())


def test_no_fetch_makes_way_to_a_model_without_a_token() -> None:
    """It could not be fetched either. Of several that are more urgent, one that has a token is enough."""
    ranks = {"a": Rank.DECLARED, "b": Rank.PENDING, "c": Rank.HERE}
    world = replace(seen(a=ABSENT, b=ABSENT, c=ABSENT), running={"a": A}, ranks=ranks)
    asked = plan_prefetch((C, B, A), world, NOW)
    assert (asked.asking, asked.most, asked.stops) == ((C, B), 1, ("a",))
    assert plan_prefetch((C, B, A), replace(world, held={"c", "b"}), NOW).stops == ()
    assert plan_prefetch((C, B, A), replace(world, held={"c"}), NOW).stops == ("a",)
    assert plan_prefetch((C, B, A), replace(world, running={"c": C}), NOW).asking == ()


def test_a_model_not_wanted_any_more_loses_its_label_and_nothing_else_does() -> None:
    labels = {"models.warmslice.dev/a": "ready", "models.warmslice.dev/b": "ready", "other": "x"}
    plan = plan_prefetch((B,), replace(seen(b=COMPLETE), node_labels=labels), NOW)
    assert plan.labels == {"models.warmslice.dev/a": None}


def test_a_node_that_is_as_it_should_be_is_left_alone() -> None:
    world = replace(seen(a=COMPLETE), node_labels={"models.warmslice.dev/a": "ready"})
    assert plan_prefetch((A,), world, NOW) == CachePlan((), (), {"a": ModelState.READY}, {}, None)


def test_a_model_that_is_followed_is_asked_for_again_in_its_turn_and_stays_ready() -> None:
    followed = replace(A, follow_seconds=3600)
    early = replace(COMPLETE, checked_at_seconds=NOW - 2000)
    plan = plan_prefetch((followed, B), seen(a=early, b=ABSENT), NOW)
    assert plan.starts == (B,)
    assert plan.look_again_seconds is not None
    assert NOW + 0.8 * 3600 - 2000 <= plan.look_again_seconds <= NOW + 3600 - 2000
    late = replace(COMPLETE, checked_at_seconds=NOW - 3600)
    plan = plan_prefetch((followed, B), seen(a=late, b=ABSENT), NOW, at_once=2)
    assert plan.starts == (B, followed)  # what is missing goes first
    assert plan.states["a"] is ModelState.READY
    assert plan_prefetch((A,), seen(a=late), NOW).starts == ()


def test_a_time_that_is_yet_to_come_does_not_stop_anybody_from_asking() -> None:
    """The clock was set back."""
    ahead = replace(COMPLETE, checked_at_seconds=NOW + 10**6)
    followed = replace(A, follow_seconds=60)
    assert plan_prefetch((followed,), seen(a=ahead), NOW).starts == (followed,)


def test_where_asking_failed_the_next_time_waits_longer() -> None:
    followed = replace(A, follow_seconds=60)
    world = seen(a=replace(COMPLETE, checked_at_seconds=NOW - 100))
    failing = replace(world, failures={"a": failed(followed, NOW + 500)})
    plan = plan_prefetch((followed,), failing, NOW)
    assert (plan.starts, plan.states["a"], plan.look_again_seconds) == ((), ModelState.READY, NOW + 500)


@given(
    present=st.dictionaries(st.sampled_from("abcdef"), st.booleans()),
    running=st.sets(st.sampled_from("abcdef"), max_size=3),
    tries=st.dictionaries(st.sampled_from("abcdef"), st.floats(NOW - 10, NOW + 10)),
    labels=st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(["ready", "fetching", "failed"])),
    at_once=st.integers(1, 4),
)
def test_ready_is_said_of_complete_models_only_and_no_more_run_than_may(
    present: dict[str, bool], running: set[str], tries: dict[str, float], labels: dict[str, str], at_once: int
) -> None:
    models = {name: CatalogModel(name, f"acme/{name}") for name in "abcdefgh"}
    wanted = tuple(models[name] for name in present)
    world = CacheSeen(
        models={name: COMPLETE if there else ABSENT for name, there in present.items()},
        running={name: models[name] for name in running},
        failures={name: failed(models[name], at) for name, at in tries.items()},
        node_labels={models[name].label: word for name, word in labels.items()},
    )
    plan = plan_prefetch(wanted, world, NOW, at_once)
    after = {k: v for k, v in {**world.node_labels, **plan.labels}.items() if v is not None}
    assert after.keys() == {model.label for model in wanted}
    assert {m.name for m in wanted if after[m.label] == "ready"} == {name for name, there in present.items() if there}
    assert len(plan.starts) + len(running) <= max(at_once, len(running))
    assert not {m.name for m in plan.starts} & ({n for n, there in present.items() if there} | running)
    assert all(tries.get(m.name, 0.0) <= NOW for m in plan.starts)


@given(
    kind=st.sampled_from(FailureKind),
    failures=st.integers(1, 10_000),
    asked=st.none() | st.integers(0, 10_000),
    chance=st.floats(0, 1),
)
def test_waits_grow_to_a_limit_and_never_undercut_what_the_hub_asks(
    kind: FailureKind, failures: int, asked: int | None, chance: float
) -> None:
    wait = next_try_seconds(kind, failures, NOW, asked, chance) - NOW
    assert max(8.0, asked or 0.0) <= wait <= max(3600.0, 1.2 * (asked or 0.0))
    assert next_try_seconds(kind, failures + 1, NOW, asked, chance) - NOW >= wait


def test_a_thousand_nodes_that_a_hub_told_the_same_moment_come_back_over_a_fifth_of_the_wait() -> None:
    chance = random.Random(1)
    tries = [next_try_seconds(FailureKind.FAULT, 1, NOW, 300.0, chance.random()) - NOW for _ in range(1000)]
    assert min(tries) >= 300.0
    assert max(Counter(int(one / 10) for one in tries).values()) < 300, "of 60 s, in any ten"


def test_nodes_that_asked_for_a_newer_commit_in_the_same_minute_do_not_do_so_after_a_day() -> None:
    chance = random.Random(1)
    asked = [NOW + chance.uniform(0, 60) for _ in range(1000)]
    followed = replace(A, follow_seconds=3600)
    for _ in range(24):
        plans = [plan_prefetch((followed,), seen(a=replace(COMPLETE, checked_at_seconds=at)), at) for at in asked]
        asked = [plan.look_again_seconds or 0.0 for plan in plans]
    assert all(0.8 * 24 * 3600 < at - NOW <= 24 * 3600 + 60 for at in asked)
    assert max(Counter(int(at / 300) for at in asked).values()) < 300, "in any five minutes; all at first"
