"""Files out of the hub's Xet store: by hf-xet itself, verified all the same, and by ranges where the store fails."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.adapters.hub_cache import ModelFolder
from agent.execute.fetch_blob import GRAIN_BYTES, Part
from agent.execute.fetch_hash import Buffers
from agent.execute.fetch_messages import Message, Progress
from agent.model.cache import FetchOrder
from agent.model.catalog import RepositoryFile
from hack.hub.content import Access, model_of, read_model
from hack.hub.server import Hub
from hack.hub.xet import XetStore
from tests.fakes.hub import QUICK, REPOSITORY, fetch, order_for, published_files, served_files, write_files

SIZE = 3 * GRAIN_BYTES + 1234


@pytest.fixture
def store(tmp_path: Path) -> XetStore:
    return XetStore(tmp_path / "store")


@pytest.fixture
async def hub(store: XetStore, tmp_path: Path) -> AsyncIterator[Hub]:
    write_files(tmp_path / "tiny", {"model.safetensors": SIZE, "config.json": 500})
    model = read_model(REPOSITORY, tmp_path / "tiny", xet=store.put)
    async with Hub({REPOSITORY: model}, xet=store) as running:
        yield running


def order(hub: Hub, cache: Path, xet: bool = True) -> FetchOrder:
    return order_for(hub, cache, limits=replace(QUICK, xet=xet, stall_seconds=1.0))


def faults(said: list[Message]) -> dict[str, int]:
    return [message.faults for message in said if isinstance(message, Progress)][-1]


def is_right(hub: Hub, cache: Path) -> bool:
    model = hub.models[REPOSITORY]
    return published_files(cache) == served_files(model, model.files)


def serve_as(hub: Hub, xet_hash: str) -> None:
    """The weights under another name in the store, in a commit of its own."""
    model = hub.models[REPOSITORY]
    weights = replace(model.files["model.safetensors"], xet_hash=xet_hash)
    files = {**model.files, "model.safetensors": weights, "new.json": model.files["config.json"]}
    hub.add(model_of(files, REPOSITORY, Access.PUBLIC))


async def test_what_the_store_has_comes_from_there_where_that_is_allowed(hub: Hub, cache: Path, tmp_path: Path) -> None:
    said = await fetch(order(hub, cache))
    assert is_right(hub, cache)
    assert (hub.counters.requests["GET cdn"], faults(said)) == (0, {})
    await fetch(order(hub, tmp_path / "other", xet=False))
    assert hub.counters.requests["GET cdn"] > 0


async def test_grains_that_are_there_are_not_taken_from_the_store_again(hub: Hub, cache: Path) -> None:
    weights = hub.models[REPOSITORY].files["model.safetensors"]
    folder = ModelFolder(cache, REPOSITORY)
    folder.blobs.mkdir(parents=True)
    part = Part.found(folder, RepositoryFile("model.safetensors", SIZE, weights.etag))
    part.open()
    buffer = Buffers().take()
    buffer[:] = weights.source.read_bytes()[GRAIN_BYTES : 2 * GRAIN_BYTES]
    part.write(GRAIN_BYTES, buffer)
    part.record([1])
    part.close()
    said = await fetch(order(hub, cache))
    assert is_right(hub, cache)
    received = [message.received_bytes for message in said if isinstance(message, Progress)][-1]
    assert received == SIZE - GRAIN_BYTES + 500


async def test_wrong_bytes_out_of_the_store_are_noticed_and_come_by_ranges(
    hub: Hub, store: XetStore, cache: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(bytes(SIZE))
    serve_as(hub, store.put(other, "0" * 64))
    said = await fetch(order(hub, cache))
    assert is_right(hub, cache)
    assert [message.verify_failures for message in said if isinstance(message, Progress)][-1] == 1
    assert hub.counters.requests["GET cdn"] > 0


@pytest.mark.parametrize("trouble", ["no token", "no store", "unknown name"])
async def test_where_the_store_fails_the_rest_comes_by_ranges(
    trouble: str, hub: Hub, store: XetStore, cache: Path
) -> None:
    match trouble:
        case "no token":
            hub.faults.add("xet-read-token", "status", status=403)
        case "no store":
            shutil.rmtree(store.folder)
        case _:
            serve_as(hub, "a" * 64)
    said = await fetch(order(hub, cache))
    assert is_right(hub, cache)
    assert faults(said).keys() == {"xet"}
    assert hub.counters.requests["GET cdn"] > 0


async def test_a_store_that_falls_silent_is_left_for_ranges(hub: Hub, store: XetStore, cache: Path) -> None:
    """Its file never comes to an end: as a connection that says nothing."""
    chunks = max((path for path in store.folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    chunks.unlink()
    os.mkfifo(chunks)
    try:
        async with asyncio.timeout(20):
            said = await fetch(order(hub, cache))
    finally:
        with os.fdopen(os.open(chunks, os.O_RDWR | os.O_NONBLOCK), "wb", buffering=0):
            pass  # whoever waits for it goes on
    assert is_right(hub, cache)
    assert faults(said).keys() == {"xet"}
