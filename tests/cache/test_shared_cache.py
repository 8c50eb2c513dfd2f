"""Models out of a hub cache that is mounted, as from an NFS server: checked like those of a hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.adapters.hub_cache import ModelFolder
from agent.execute.fetch_messages import Message, Progress
from agent.model.cache import FailureKind, FetchEndedError, FetchError, FetchFaultError, FetchOrder
from agent.observe.cache import observe_model, verify_model
from hack.hub.content import ServedModel
from hack.hub.server import Hub
from tests.fakes.hub import REPOSITORY, TINY, WANTED_OF_TINY, fetch, order_for, published_files, served_files


@pytest.fixture
async def mounted(hub: Hub, tmp_path: Path) -> Path:
    """Filled once, from the hub; with a blank in its path."""
    await fetch(replace(order_for(hub, tmp_path / "mnt models"), allow_patterns=("*",)))
    return tmp_path / "mnt models"


def order(hub: Hub, mounted: Path, cache: Path) -> FetchOrder:
    return replace(order_for(hub, cache), endpoint=mounted.as_uri())


async def refused(order: FetchOrder) -> FetchError:
    with pytest.raises(FetchError) as caught:
        await fetch(order)
    return caught.value


async def test_a_model_comes_from_a_mounted_cache_without_any_hub(
    hub: Hub, model: ServedModel, mounted: Path, cache: Path
) -> None:
    hub.counters.reset()
    await fetch(order(hub, mounted, cache))
    assert published_files(cache) == served_files(model, WANTED_OF_TINY)
    seen = observe_model(cache, TINY)
    assert (seen.complete, seen.commit, verify_model(cache, TINY)) == (True, model.commit, None)
    assert dict(hub.counters.requests) == {}


async def test_what_the_mount_has_changed_is_never_published(
    hub: Hub, model: ServedModel, mounted: Path, cache: Path
) -> None:
    blob = ModelFolder(mounted, REPOSITORY).blob(model.files["model.safetensors"].etag)
    blob.write_bytes(bytes(blob.stat().st_size))
    error = await refused(order(hub, mounted, cache))
    assert (error.reason, published_files(cache)) == ("wrong-bytes", {})


async def test_a_cache_that_holds_a_part_of_a_model_is_refused_for_the_rest(
    hub: Hub, model: ServedModel, mounted: Path, cache: Path
) -> None:
    """By the list that the hub's client keeps; and where a link leads nowhere."""
    folder = ModelFolder(mounted, REPOSITORY)
    folder.blob(model.files["config.json"].etag).unlink()
    error = await refused(order(hub, mounted, cache))
    assert (error.kind, error.reason) in [(FailureKind.REFUSED, "missing"), (FailureKind.FAULT, "unreachable")]
    assert published_files(cache) == {}


async def test_a_mount_that_is_away_is_asked_again_and_one_without_the_model_is_not(
    hub: Hub, mounted: Path, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "absent"):
        limits = replace(order_for(hub, cache).limits, attempts=1)
        error = await refused(replace(order(hub, path, cache), limits=limits))
        assert isinstance(error, FetchFaultError)
        assert "is it mounted?" in str(error)
    error = await refused(replace(order(hub, mounted, cache), repository="acme/other"))
    assert isinstance(error, FetchEndedError)
    assert "has no models--acme--other: it has to be a hub cache" in str(error)
    error = await refused(replace(order(hub, mounted, cache), revision="v9"))
    assert (error.kind, error.reason) == (FailureKind.REFUSED, "no-revision")
    error = await refused(replace(order(hub, mounted, cache), revision="a" * 40))
    assert (error.kind, error.reason) == (FailureKind.REFUSED, "no-revision")


async def test_files_without_a_hash_as_their_name_are_refused(
    hub: Hub, model: ServedModel, mounted: Path, cache: Path
) -> None:
    folder = ModelFolder(mounted, REPOSITORY)
    (folder.snapshot(model.commit) / "own.json").write_text("{}")
    error = await refused(order(hub, mounted, cache))
    assert "'own.json' is no link to a blob that has its hash as its name" in str(error)


async def test_grains_that_are_there_are_not_read_from_the_mount_again(hub: Hub, mounted: Path, cache: Path) -> None:
    await fetch(order(hub, mounted, cache))
    said: list[Message] = await fetch(order(hub, mounted, cache))
    assert [message.received_bytes for message in said if isinstance(message, Progress)][-1] == 0
