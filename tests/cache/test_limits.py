"""What a fetch is allowed: how much of the disk, and whose token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.adapters.files import token_reader
from agent.adapters.hub_cache import disk_use
from agent.execute import fetch_pool
from agent.execute.fetch import FetchSupervisor
from agent.model.cache import FailureKind, FetchLimits
from agent.reconcile.cache import CacheRules, limits_of
from hack.hub.content import Access, read_model
from hack.hub.limits import Throttle
from hack.hub.server import Hub
from tests.fakes.hub import REPOSITORY, TINY, fetch, order_for, tiny_model, write_files

TOKEN = "hf_" + "t" * 30


@pytest.fixture
async def gated(tmp_path: Path) -> AsyncIterator[Hub]:
    model = tiny_model(tmp_path / "gated", access=Access.GATED)
    async with Hub({REPOSITORY: model}, tokens={TOKEN: frozenset({REPOSITORY})}) as hub:
        yield hub


async def _reason(cache: Path, endpoint: str, own_endpoint: str | None) -> str:
    """Why a fetch of a gated model fails; empty when it does not."""
    ended = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        fetches = FetchSupervisor(cache, tasks.create_task, ended.set, lambda _: TOKEN, lambda: 0.0)
        fetches.start(replace(TINY, endpoint=own_endpoint), endpoint, FetchLimits())
        await ended.wait()
    failure = fetches.take_ended()[0].failure
    return failure.reason if failure is not None else ""


async def test_the_token_goes_to_the_hub_of_the_settings_and_to_no_other(gated: Hub, cache: Path) -> None:
    assert await _reason(cache, "http://127.0.0.1:9", own_endpoint=gated.url) != ""
    assert await _reason(cache, gated.url, own_endpoint=None) == ""


async def test_a_model_may_name_a_token_for_its_own_hub(gated: Hub, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "acme").write_text(TOKEN + "\n", "utf-8")
    (tmp_path / "tokens" / "empty").write_text("\n", "utf-8")
    elsewhere = "http://127.0.0.1:9"
    for name, directory, said in [
        ("acme", str(tmp_path / "tokens"), ""),
        ("other", str(tmp_path / "tokens"), "token 'other' cannot be read in"),
        ("empty", str(tmp_path / "tokens"), "is empty"),
        ("acme", None, "token 'acme' cannot be had: the setting hub_tokens_directory is not set"),
    ]:
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tokens = token_reader(None, directory)
            fetches = FetchSupervisor(cache, tasks.create_task, ended.set, tokens, lambda: 0.0)
            fetches.start(replace(TINY, endpoint=gated.url, token=name), elsewhere, FetchLimits())
            await ended.wait()
        failure = fetches.take_ended()[0].failure
        assert (failure is None) == (said == "")
        if failure is not None:
            assert (failure.kind, failure.reason) == (FailureKind.REFUSED, "token")
            assert said in failure.message


def test_the_reserve_is_a_share_of_the_whole_file_system(tmp_path: Path) -> None:
    disk = disk_use(tmp_path / "not-there-yet")
    assert disk.total_bytes >= disk.free_bytes > 0
    limits = limits_of(CacheRules(tmp_path, reserve_ratio=0.25), TINY, disk)
    assert limits.reserve_bytes == disk.total_bytes // 4


@pytest.mark.parametrize(
    ("connection_rate", "limit", "connections"),
    [(2_000_000, None, 16), (None, None, 8), (2_000_000, 16_000_000.0, 8)],
)
async def test_more_connections_join_where_each_is_slow(
    connection_rate: float | None,
    limit: float | None,
    connections: int,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not on a fast network, nor where we are slow by our own limit: a hub counts connections."""
    # What is sent here takes no longer than a look: with the limit as it is, a busy machine is a slow network.
    monkeypatch.setattr(fetch_pool, "_SLOW_BYTES_PER_SECOND", 2_500_000)
    write_files(tmp_path / "many", {f"{number}.safetensors": 1_000_000 for number in range(24)})
    model = read_model(REPOSITORY, tmp_path / "many", Access.PUBLIC)
    async with Hub({REPOSITORY: model}, throttle=Throttle(connection_rate)) as hub:
        await fetch(order_for(hub, cache, limits=FetchLimits(connections=16, bytes_per_second=limit)))
        assert len(hub.counters.peers["cdn"]) == connections
