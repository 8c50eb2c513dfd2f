"""Everything that goes wrong with a fetch, row by row (hack/hub/scenarios.py), through the real fetching process.

`python -m hack.bench.hub_faults` plays the same rows against the hub's own client beside ours.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from agent.execute.fetch import EndedFetch
from agent.model.catalog import CatalogModel
from agent.observe.cache import observe_model, verify_model
from hack.hub.content import Access, ServedModel, read_model
from hack.hub.mirror import running_olah
from hack.hub.playing import NoSmallDiskError, play, small_disk, stage_of
from hack.hub.scenarios import (
    MODEL_BYTES,
    REPOSITORY,
    SCENARIOS,
    SIZES,
    SMALL_DISK_BYTES,
    TOKEN,
    Ending,
    Midway,
    Scenario,
    write_model,
)
from hack.hub.server import Hub
from hack.hub.third_parties import olah
from tests.fakes.fetching import Fetching
from tests.fakes.hub import QUICK, served_files
from tests.fakes.programs import found_program

FAULTY = CatalogModel("faulty", REPOSITORY)
BRIEF = replace(QUICK, connections=2, stall_seconds=1.0, longest_wait_seconds=1.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faulty")
    write_model(folder)
    return folder


@pytest.fixture
def faulty(folder: Path, scenario: Scenario) -> ServedModel:
    return read_model(REPOSITORY, folder, Access.PRIVATE if scenario.private else Access.PUBLIC)


@pytest.fixture
def disk(cache: Path, scenario: Scenario) -> Iterator[None]:
    """A small one where the scenario fills it."""
    try:
        with small_disk(cache, SMALL_DISK_BYTES) if scenario.midway is Midway.FILL_DISK else nullcontext():
            yield
    except NoSmallDiskError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
@pytest.mark.usefixtures("disk")
async def test_what_is_published_is_what_the_hub_has(scenario: Scenario, faulty: ServedModel, cache: Path) -> None:
    """... or nothing is; what is safe is not fetched again; and who may have to do something is told what."""
    async with Hub({REPOSITORY: faulty}, tokens={TOKEN: frozenset({REPOSITORY})}) as hub:
        client = _client(hub.url, cache, scenario)
        async with stage_of(hub.url) as stage:
            runs = await play(scenario, stage, client, cache, scenario.away_seconds)
    right = served_files(faulty, SIZES)
    assert runs[0].struck
    _assert_ended(scenario.first, client.ended[0])
    assert client.published == ([right] if scenario.first is None else [{}, right])
    assert (observe_model(cache, FAULTY).complete, verify_model(cache, FAULTY)) == (True, None)
    assert _leftovers(cache) == []
    assert sum(run.sent_bytes for run in runs) <= scenario.most_times * MODEL_BYTES
    if scenario.first is not None:
        kept_bytes = client.ended[0].progress.fetched_bytes - scenario.wrong_bytes
        assert runs[1].sent_bytes <= MODEL_BYTES - kept_bytes


async def test_a_killed_fetch_goes_on_behind_a_mirror(folder: Path, cache: Path, tmp_path: Path) -> None:
    """olah asks the hub in pieces of its own, so what counts is what came to us."""
    (scenario,) = (each for each in SCENARIOS if each.name == "kill -9")
    model = read_model(REPOSITORY, folder, Access.PUBLIC)
    async with _mirrored(model, tmp_path / "olah") as (hub, mirror), stage_of(hub.url) as stage:
        client = _client(mirror, cache, scenario)
        runs = await play(scenario, stage, client, cache, scenario.away_seconds)
    right = served_files(model, SIZES)
    assert runs[0].struck
    assert client.published == [{}, right]
    assert _leftovers(cache) == []
    assert client.received_bytes[1] <= MODEL_BYTES - client.ended[0].progress.fetched_bytes


async def test_wrong_bytes_that_a_mirror_keeps_are_never_published(folder: Path, cache: Path, tmp_path: Path) -> None:
    """The hub is right again, the mirror is not: it has seen the file already."""
    (scenario,) = (each for each in SCENARIOS if each.name == "wrong bytes once")
    model = read_model(REPOSITORY, folder, Access.PUBLIC)
    async with _mirrored(model, tmp_path / "olah") as (hub, mirror), stage_of(hub.url) as stage:
        client = _client(mirror, cache, scenario)
        runs = await play(scenario, stage, client, cache, scenario.away_seconds)
    assert [run.ready for run in runs] == [False, False]
    assert [ended.failure.reason for ended in client.ended if ended.failure is not None] == ["wrong-bytes"] * 2
    assert client.published == [{}, {}]


@asynccontextmanager
async def _mirrored(model: ServedModel, folder: Path) -> AsyncIterator[tuple[Hub, str]]:
    program = await found_program(olah)
    async with Hub({REPOSITORY: model}) as hub, running_olah(program, hub.url, folder) as mirror:
        yield hub, mirror


def _client(endpoint: str, cache: Path, scenario: Scenario) -> Fetching:
    limits = replace(BRIEF, attempts=scenario.attempts)
    return Fetching(cache, endpoint, FAULTY, limits, TOKEN if scenario.private else None)


def _assert_ended(ending: Ending | None, ended: EndedFetch) -> None:
    assert (ended.failure is None) == (ending is None), ended.failure
    if ended.failure is not None and ending is not None:
        assert ended.failure.kind == ending.kind
        assert ended.failure.reason in ending.reasons
        assert re.search(ending.says, ended.failure.message)


def _leftovers(cache: Path) -> list[Path]:
    """Parts, journals and drafts."""
    return [path for path in cache.rglob("*") if re.search(r"\.warmslice-|\.draft$|\.link$", path.name)]
