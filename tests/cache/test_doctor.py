"""What other programs, and kills, leave in a cache: told in words, and mended where somebody asks for it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from agent.adapters.files import locked
from agent.adapters.hub_cache import ModelFolder
from agent.execute.remove import reap_broken_downloads
from agent.model.cache import FetchFaultError
from agent.observe.cache import observe_model, verify_model
from agent.reconcile.cache_by_hand import look_over
from hack.hub.content import ServedModel
from hack.hub.server import Hub
from tests.fakes.hub import REPOSITORY, TINY, WANTED_OF_TINY, fetch, order_for, published_files, served_files


async def in_the_client(call: str, *words: str) -> None:
    """What a program does with the hub's library; a process of its own, since the library remembers listings."""
    program = f"import sys; from huggingface_hub import snapshot_download as get; {call}"
    environment = {**os.environ, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, *words, env=environment)
    assert await process.wait() == 0


async def by_the_client(hub: Hub, cache: Path, *patterns: str) -> None:
    """As `hf download` fills a cache."""
    call = "get(sys.argv[1], cache_dir=sys.argv[2], endpoint=sys.argv[3], allow_patterns=sys.argv[4:] or None, token=False)"
    await in_the_client(call, REPOSITORY, str(cache), hub.url, *patterns)


def told(cache: Path, *wanted: str, mend: bool = False) -> list[str]:
    return [f"{finding.where}: {finding.what}; {done}" for finding, done in look_over(cache, wanted, mend)]


async def test_a_cache_that_only_we_filled_has_nothing_odd(hub: Hub, cache: Path) -> None:
    assert told(cache) == []
    await fetch(order_for(hub, cache))
    assert told(cache) == []
    assert scan_cache_dir(cache).warnings == []


async def test_what_the_hubs_client_brought_is_adopted_without_the_hub(hub: Hub, cache: Path) -> None:
    """As on a node without a network whose disk was filled beforehand."""
    await by_the_client(hub, cache)
    hub.faults.add(".", "status", status=503)
    assert observe_model(cache, TINY).lacking == "never checked against the hub's listing"
    (line,) = told(cache, REPOSITORY)
    assert re.search(r"snapshot \w{12} was put there by another program: .*; --fix reads it and vouches for it$", line)
    (line,) = told(cache, REPOSITORY, mend=True)
    assert line.endswith("adopted: 5 of its 5 files are here, with the content that is listed")
    assert observe_model(cache, TINY).complete
    assert told(cache) == []


async def test_what_is_adopted_is_ready_only_where_all_that_is_wanted_is_there(hub: Hub, cache: Path) -> None:
    await by_the_client(hub, cache, "*.json")
    (line,) = told(cache, mend=True)
    assert line.endswith("adopted: 2 of its 5 files are here, with the content that is listed")
    assert not observe_model(cache, TINY).complete
    await in_the_client("get(sys.argv[1], cache_dir=sys.argv[2], local_files_only=True)", REPOSITORY, str(cache))
    await fetch(order_for(hub, cache))
    assert observe_model(cache, TINY).complete


async def test_wrong_bytes_are_not_adopted(hub: Hub, cache: Path) -> None:
    hub.faults.add("GET cdn/.*safetensors", "wrong-bytes", times=1)
    await by_the_client(hub, cache)
    (line,) = told(cache, mend=True)
    assert "not adopted: model.safetensors has not the content that is listed" in line
    assert not observe_model(cache, TINY).complete


async def test_downloads_that_were_broken_off_are_removed_and_one_that_runs_is_not(hub: Hub, cache: Path) -> None:
    await fetch(order_for(hub, cache))
    folder = ModelFolder(cache, REPOSITORY)
    running, broken = ("a" * 64, "b" * 64)
    for blob in (running, broken):
        folder.blob(f"{blob}.1a2b3c4d.incomplete").write_bytes(b"x" * 5000)
    with locked(folder.lock_of_the_client(running)):
        assert reap_broken_downloads(cache, time.time() - 3600) == 0
        (line,) = told(cache, REPOSITORY, mend=True)
        assert "1 downloads were broken off" in line
        assert [path.name[:1] for path in folder.blobs.glob("*.incomplete")] == ["a"]
    assert reap_broken_downloads(cache, time.time() + 1) > 0
    assert told(cache) == []


async def test_links_to_a_shared_store_become_files(hub: Hub, model: ServedModel, cache: Path) -> None:
    """A pod that mounts the folder of one model cannot follow them. A fetch that meets them does the same."""
    await by_the_client(hub, cache)
    folder = ModelFolder(cache, REPOSITORY)
    blob = folder.blob(model.files["model.safetensors"].etag)
    (cache / "blobs").mkdir()
    for mend_by_hand in (True, False):
        stored = cache / "blobs" / f"{blob.name}-{mend_by_hand}"
        blob.rename(stored)
        blob.symlink_to(Path("../../blobs") / stored.name)
        if mend_by_hand:
            assert any("1 blobs are links to a shared store" in line for line in told(cache, mend=True))
        else:
            await fetch(order_for(hub, cache))
        assert not blob.is_symlink()
        stored.unlink()
        assert verify_model(cache, TINY) is None


async def test_parts_and_blobs_are_kept_while_their_model_is_wanted(hub: Hub, cache: Path) -> None:
    hub.faults.add("GET cdn/", "status", status=403)
    with pytest.raises(FetchFaultError):
        await fetch(order_for(hub, cache))
    hub.faults.clear()
    assert told(cache, REPOSITORY) == []
    lines = told(cache, mend=True)
    assert [re.sub(r"\d+ blobs", "blobs", line.partition(";")[0]) for line in lines] == [
        "acme/tiny: is not in the catalog any more and has unfinished parts",
        "acme/tiny: blobs belong to no snapshot",
    ]
    assert told(cache) == []
    await fetch(order_for(hub, cache))
    assert observe_model(cache, TINY).complete


async def test_what_pods_cannot_read_is_opened(hub: Hub, model: ServedModel, cache: Path) -> None:
    await fetch(order_for(hub, cache))
    folder = ModelFolder(cache, REPOSITORY)
    folder.blob(model.files["config.json"].etag).chmod(0o600)
    folder.blobs.chmod(0o700)
    assert not observe_model(cache, TINY).complete
    (line,) = told(cache, mend=True)
    assert "2 files or folders cannot be read by a pod that does not run as their owner; opened for everybody" in line
    assert observe_model(cache, TINY).complete


async def test_a_snapshot_with_links_to_nothing_is_named(hub: Hub, model: ServedModel, cache: Path) -> None:
    await fetch(order_for(hub, cache))
    ModelFolder(cache, REPOSITORY).blob(model.files["config.json"].etag).unlink()
    (line,) = told(cache, REPOSITORY)
    assert "lacks 1 of 4 files (config.json): fetch it again" in line
    await fetch(order_for(hub, cache))
    assert published_files(cache) == served_files(model, WANTED_OF_TINY)


async def test_strangers_are_named_and_left_alone(hub: Hub, cache: Path) -> None:
    await fetch(order_for(hub, cache))
    (cache / "datasets--acme--words").mkdir()
    (cache / "notes.txt").write_text("mine")
    (ModelFolder(cache, REPOSITORY).blobs / "odd").write_text("mine")
    lines = told(cache, REPOSITORY, mend=True)
    assert [line.partition(":")[0] for line in lines] == ["datasets--acme--words", "notes.txt", REPOSITORY]
    assert all(line.endswith("left as it is") for line in lines)
    with locked(ModelFolder(cache, REPOSITORY).lock):
        assert told(cache)[-1] == f"{REPOSITORY}: a fetch is at work on it: look again later; nothing is done about it"
