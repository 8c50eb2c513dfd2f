"""Fetch tokens: never more nodes fetch one model at once than may, whoever is killed, and each gets its turn."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from agent.execute.fleet import TokenHands
from agent.model.catalog import CatalogModel
from agent.model.errors import RefusedError, RetryError
from agent.model.fleet import FETCH_PREFIX, token_names
from agent.plan.fleet import LEASE_SECONDS
from agent.reconcile.tokens import WITHOUT_SECONDS, LeaseTokens
from tests.fakes.fleet import MemoryLeases

A, B = (CatalogModel(name, f"org/{name}") for name in "ab")
PASS_SECONDS = 2.0


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Fleet:
    """Nodes that want models, with the rules of the cache loop: one fetch at a time, a pass every two seconds while it runs."""

    count: int
    leases: MemoryLeases = field(default_factory=lambda: MemoryLeases(now))
    fetching: dict[str, list[str]] = field(default_factory=dict)
    most: int = 0
    done: set[tuple[str, str]] = field(default_factory=set)

    def tokens(self, node: str) -> LeaseTokens:
        return LeaseTokens(
            f"{node}_{random.random()}", self.count, lambda name: TokenHands(self.leases, name, LEASE_SECONDS, now), now
        )

    async def node(self, name: str, models: list[CatalogModel], seconds: float) -> None:
        """Until it has them all."""
        tokens, missing = self.tokens(name), list(models)
        while missing:
            await tokens.keep([])
            for model in await tokens.seek(missing, 1):
                async with self._fetches(name, model):
                    late = now() + seconds
                    while now() < late:
                        await asyncio.sleep(PASS_SECONDS)
                        await tokens.keep([model.name])
                self.done.add((name, model.name))
                missing.remove(model)
            await asyncio.sleep(tokens.look_again_seconds or 0.1)
        await tokens.keep([])

    @asynccontextmanager
    async def _fetches(self, node: str, model: CatalogModel) -> AsyncIterator[None]:
        there = self.fetching.setdefault(model.name, [])
        there.append(node)
        self.most = max(self.most, len(there))
        try:
            yield
        finally:
            there.remove(node)


@pytest.mark.looptime
@pytest.mark.parametrize("seed", range(30))
async def test_never_more_than_may_and_each_in_its_turn_though_some_are_killed(seed: int) -> None:
    random.seed(seed)
    fleet, nodes = Fleet(random.randint(1, 3)), [f"node-{number}" for number in range(random.randint(2, 8))]
    running = {
        node: asyncio.create_task(fleet.node(node, random.sample([A, B], 2), random.uniform(1, 90))) for node in nodes
    }
    for node in random.sample(nodes, random.randint(0, len(nodes))):
        await asyncio.sleep(random.uniform(0, 60))
        running[node].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running[node]
        # Started anew: another process, which knows nothing of the token that it had.
        running[node] = asyncio.create_task(fleet.node(node, [A, B], random.uniform(1, 90)))
    async with asyncio.timeout(3600 * 4):
        await asyncio.gather(*running.values())
    assert fleet.most <= fleet.count
    assert fleet.done >= {(node, model.name) for node in nodes for model in (A, B)}


@pytest.mark.looptime
async def test_who_waits_asks_seldom_and_leaves_no_lease() -> None:
    fleet = Fleet(1)
    nodes = [asyncio.create_task(fleet.node(f"node-{number}", [A], 120.0)) for number in range(5)]
    await asyncio.gather(*nodes)
    asked = [verb for verb, _ in fleet.leases.requests if verb == "get"]
    assert len(asked) <= now() * 4 / 10, "four that wait look every ten seconds at most"
    # Of those killed between: none here.
    assert [name for name in fleet.leases.items if name.startswith(FETCH_PREFIX)] == []


@pytest.mark.looptime
async def test_a_token_that_is_lost_in_mid_fetch_is_not_given_back_for_somebody_else() -> None:
    fleet = Fleet(1)
    (first,) = await fleet.tokens("a").seek([A], 1)
    slow = fleet.tokens("slow")
    await slow.seek([A], 1)
    await asyncio.sleep(LEASE_SECONDS + 20)
    quick = fleet.tokens("quick")
    for _ in range(3):
        found = await quick.seek([A], 1)
        await asyncio.sleep(21)
    assert (first, found) == (A, (A,))
    await slow.keep([])
    assert len(fleet.leases.items) == 1, "quick's is there"


@pytest.mark.looptime
async def test_two_of_the_catalog_that_are_one_revision_share_a_token_until_both_are_there() -> None:
    fleet = Fleet(1)
    node, other = fleet.tokens("node"), fleet.tokens("other")
    same = replace(A, name="same")
    assert await node.seek([A], 1) == (A,)
    await asyncio.sleep(30)
    assert await node.seek([A, same], 2) == (A, same)
    await node.keep(["same"])
    await other.seek([A], 1)
    await asyncio.sleep(30)
    await node.keep(["same"])
    assert await other.seek([A], 1) == ()
    await node.resign()
    await asyncio.sleep(30)
    assert await other.seek([A], 1) == (A,)


@pytest.mark.looptime
async def test_a_renewal_that_nobody_can_look_up_ends_no_pass() -> None:
    """Its answer was lost, and then the API server was away."""
    fleet = Fleet(1)
    tokens = fleet.tokens("node")
    assert await tokens.seek([A], 1) == (A,)
    (lease,) = fleet.leases.items
    fleet.leases.items[lease]["metadata"]["resourceVersion"] = "999"
    await asyncio.sleep(10)
    fleet.leases.away_after_patch = True
    await tokens.keep(["a"])
    assert fleet.leases.away
    fleet.leases.away = False
    await tokens.keep(["a"])
    await tokens.resign()
    assert fleet.leases.items == {}


@pytest.mark.looptime
async def test_an_api_server_that_is_away_for_long_keeps_nobody_from_fetching() -> None:
    tokens = Fleet(1).tokens("a")

    class Away:
        async def find(self) -> object:
            raise RetryError("no answer")

    tokens.ballot = lambda _: Away()  # type: ignore[assignment,return-value]
    assert await tokens.seek([A], 1) == ()
    assert tokens.look_again_seconds is not None
    while now() < WITHOUT_SECONDS - 30:
        await asyncio.sleep(tokens.look_again_seconds or 0.0)
        assert await tokens.seek([A], 1) == ()
        assert tokens.why == "whether one is free is not known, for at most 600 s: no answer"
    await asyncio.sleep(60)
    assert await tokens.seek([A], 1) == (A,)


@pytest.mark.looptime
async def test_where_leases_are_forbidden_nobody_waits() -> None:
    tokens = Fleet(1).tokens("a")

    class Forbidden:
        async def find(self) -> object:
            raise RefusedError("forbidden")

    tokens.ballot = lambda _: Forbidden()  # type: ignore[assignment,return-value]
    assert await tokens.seek([A], 1) == (A,)


@pytest.mark.looptime
async def test_whoever_goes_without_keeps_its_turn_until_it_has_been_fetched() -> None:
    """The place is made free for the urgent one first; another one that asks then must not take it."""
    tokens = Fleet(1).tokens("a")

    class Forbidden:
        async def find(self) -> object:
            raise RefusedError("forbidden")

    tokens.ballot = lambda _: Forbidden()  # type: ignore[assignment,return-value]
    for urgent, other in ((A, B), (B, A)):
        assert await tokens.seek([urgent], 1) == (urgent,)
        await tokens.keep([urgent.name])
        for _ in range(3):
            assert await tokens.seek([urgent, other], 1) == (urgent,)
            await tokens.keep([urgent.name])
        await tokens.keep([])


def test_the_names_are_of_a_revision_of_a_model_from_one_place() -> None:
    models = (A, B, replace(A, name="x"), replace(A, revision="v2"))
    names = {token_names(model, 2) for model in models}
    assert len(names) == 3
    assert all(len(name) <= 63 for pair in names for name in pair)
