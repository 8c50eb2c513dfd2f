"""The rate that a fetch keeps to, checked by a second look at all that came."""

from __future__ import annotations

import heapq
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.execute.fetch_pace import Pace
from agent.model.cache import DiskUse
from agent.reconcile.cache import CacheRules, limits_of
from hack.hub.server import Hub
from tests.fakes.hub import QUICK, TINY, WEIGHTS_BYTES, fetch, order_for

BUFFER = 256 * 1024


@given(
    rate=st.integers(1_000, 10_000_000),
    connections=st.integers(1, 8),
    reads=st.lists(st.tuples(st.integers(1, BUFFER), st.floats(0, 2)), min_size=1, max_size=60),
)
def test_over_any_stretch_the_rate_holds_but_for_one_read_of_each_connection(
    rate: int, connections: int, reads: list[tuple[int, float]]
) -> None:
    """Each connection reads again when it may, and some time later when nothing is there."""
    pace = Pace(rate)
    ready = [(0.0, number) for number in range(connections)]
    came: list[tuple[float, int]] = []
    for count, idle in reads:
        free, number = heapq.heappop(ready)
        at = free + idle
        came.append((at, count))
        heapq.heappush(ready, (at + pace.spend(count, at), number))
    came.sort()
    for first, (begin, _) in enumerate(came):
        brought = 0
        for at, count in came[first:]:
            brought += count
            assert brought <= rate * (at - begin) * (1 + 1e-9) + connections * BUFFER + count


@given(st.lists(st.tuples(st.integers(1, BUFFER), st.floats(0, 2)), max_size=20))
def test_without_a_rate_nobody_waits(reads: list[tuple[int, float]]) -> None:
    pace = Pace(None)
    assert all(pace.spend(count, at) == 0 for count, at in reads)


async def test_a_fetch_keeps_to_its_rate(hub: Hub, cache: Path) -> None:
    rate, slack = 20_000_000, QUICK.connections * BUFFER
    started = time.monotonic()
    await fetch(order_for(hub, cache, limits=replace(QUICK, bytes_per_second=rate)))
    assert time.monotonic() - started >= (WEIGHTS_BYTES - slack) / rate


@pytest.mark.parametrize(
    ("of_all", "of_this", "at_once", "rate"),
    [(None, None, 1, None), (900, None, 3, 300), (None, 50, 3, 50), (900, 50, 3, 50), (900, 500, 3, 300)],
)
def test_a_fetch_has_its_share_of_the_rate_of_all_or_less(
    of_all: int | None, of_this: int | None, at_once: int, rate: float | None, tmp_path: Path
) -> None:
    rules = CacheRules(tmp_path, fetches_at_once=at_once, bytes_per_second=of_all)
    assert limits_of(rules, replace(TINY, bytes_per_second=of_this), DiskUse(0, 10**9, 10**9)).bytes_per_second == rate
