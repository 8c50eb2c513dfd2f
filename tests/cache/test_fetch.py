"""What a fetch publishes, and what it does about everything that can go wrong on the way."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.adapters.files import locked
from agent.adapters.hub_cache import ModelFolder
from agent.execute.fetch_blob import disk_errors
from agent.execute.fetch_http import Connections, Source
from agent.execute.fetch_layout import vouched_blobs
from agent.execute.fetch_messages import Progress
from agent.model.cache import FailureKind, FetchEndedError, FetchError, FetchFaultError
from agent.observe.cache import observe_model, verify_model
from hack.hub.content import Access, ServedFile, ServedModel, model_of, read_model
from hack.hub.server import Hub
from tests.fakes.hub import (
    QUICK,
    REPOSITORY,
    TINY,
    WANTED_OF_TINY,
    WEIGHTS_BYTES,
    fetch,
    order_for,
    published_files,
    served_files,
    texts_in,
    tiny_model,
    write_files,
)
from tests.fakes.page_cache import can_drop, resident_bytes


@dataclass(slots=True)
class Memory:
    """Takes what comes, and counts it."""

    count: int = 0

    def room(self) -> memoryview:
        return memoryview(bytearray(4096))

    def took(self, count: int) -> None:
        self.count += count


_OF_THE_CLIENT = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
ALL_OF_STORE = r"GET cdn/.*safetensors"


async def test_a_fetched_model_has_the_bytes_of_the_hub(hub: Hub, model: ServedModel, cache: Path) -> None:
    await fetch(order_for(hub, cache))
    assert published_files(cache) == served_files(model, WANTED_OF_TINY)
    seen = observe_model(cache, TINY)
    assert (seen.complete, seen.commit, verify_model(cache, TINY)) == (True, model.commit, None)


async def test_a_second_fetch_asks_for_no_byte_again(hub: Hub, cache: Path) -> None:
    await fetch(order_for(hub, cache))
    hub.counters.reset()
    await fetch(order_for(hub, cache))
    assert hub.counters.body_bytes == 0


async def test_a_proxy_of_the_environment_is_used(
    hub: Hub, model: ServedModel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both for the library's questions and for our ranges; the hub itself stands in for the proxy."""
    monkeypatch.setenv("http_proxy", hub.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    await fetch(replace(order_for(hub, cache), endpoint="http://hub.invalid"))
    assert published_files(cache) == served_files(model, WANTED_OF_TINY)


async def test_the_token_goes_to_the_hub_and_to_no_other_host(tmp_path: Path, cache: Path) -> None:
    private = tiny_model(tmp_path / "private", access=Access.PRIVATE)
    async with Hub({REPOSITORY: private}, tokens={"secret": frozenset({REPOSITORY})}) as hub:
        await fetch(order_for(hub, cache), token="secret")
        assert hub.counters.requests["GET cdn"] > 0
        assert hub.counters.authorized_cdn_requests == 0
    assert "secret" not in texts_in(cache)


@pytest.mark.parametrize("token", ["secret\nsecret", "secret secret", "s\u00e9cret"])
async def test_what_cannot_be_a_token_is_named_and_not_quoted(token: str, hub: Hub, cache: Path) -> None:
    """The sentence goes to logs and Events, which more people read than may read the token."""
    with pytest.raises(FetchError, match="the hub's token has") as caught:
        await fetch(order_for(hub, cache), token=token)
    assert (caught.value.kind, caught.value.reason) == (FailureKind.REFUSED, "token")
    assert "cret" not in str(caught.value)
    assert hub.counters.requests == {}


async def test_a_password_in_the_address_of_a_hub_is_not_quoted(hub: Hub, cache: Path) -> None:
    order = replace(order_for(hub, cache, limits=replace(QUICK, attempts=1)), endpoint="http://user:secret@127.0.0.1:1")
    with pytest.raises(FetchFaultError, match=r"the hub at http://127\.0\.0\.1:1 is not reachable") as caught:
        await fetch(order)
    assert "secret" not in str(caught.value)


def test_a_signed_address_that_cannot_be_asked_for_is_not_quoted() -> None:
    source = Source("http://127.0.0.1:1/some file?Signature=secret", {}, 1)
    with pytest.raises(FetchFaultError, match="InvalidURL") as caught:
        Connections(1.0).read(source, 0, 1, Memory())
    assert "secret" not in str(caught.value)


async def test_readers_who_are_not_the_owner_can_read_everything(hub: Hub, cache: Path) -> None:
    before = os.umask(0o077)
    try:
        await fetch(order_for(hub, cache))
    finally:
        os.umask(before)
    root = cache / "models--acme--tiny"
    directories = [
        root,
        *(d for name in ("blobs", "snapshots", "refs") for d in [root / name, *(root / name).rglob("*")]),
    ]
    assert {oct(p.stat().st_mode & 0o777) for p in directories if p.is_dir()} == {"0o755"}
    assert {oct(p.stat().st_mode & 0o777) for p in (root / "blobs").iterdir()} == {"0o644"}


@pytest.mark.parametrize(
    "closed", [".", "models--acme--tiny", "models--acme--tiny/blobs", "models--acme--tiny/snapshots"]
)
async def test_a_model_in_a_folder_that_others_cannot_enter_is_not_ready_until_it_is_opened(
    closed: str, hub: Hub, cache: Path
) -> None:
    await fetch(order_for(hub, cache))
    (cache / closed).chmod(0o700)
    assert observe_model(cache, TINY).lacking == f"folder {(cache / closed).name} cannot be entered by others"
    await fetch(order_for(hub, cache))
    assert observe_model(cache, TINY).complete


@pytest.mark.parametrize(
    ("kind", "details"),
    [
        ("status", {"status": 429, "retry_after_seconds": 0}),
        ("status", {"status": 503}),
        ("status", {"status": 403}),
        ("reset", {"after_bytes": 1_000_000}),
        ("truncate", {"after_bytes": 1_000_000}),
        ("truncate", {"after_bytes": 0}),
        ("stall", {"after_bytes": 500_000}),
        ("wrong-bytes", {}),
        ("ignore-ranges", {"times": None}),
    ],
)
async def test_a_passing_fault_is_outlasted(
    kind: str, details: dict[str, int | None], hub: Hub, model: ServedModel, cache: Path
) -> None:
    hub.faults.add(ALL_OF_STORE, kind, **{"times": 2, **details})
    await fetch(order_for(hub, cache, limits=replace(QUICK, stall_seconds=0.5 if kind == "stall" else 5.0)))
    assert published_files(cache) == served_files(model, WANTED_OF_TINY)


async def test_a_signed_address_that_ends_midway_is_asked_for_again(hub: Hub, cache: Path) -> None:
    """The first of two pieces takes longer than its address lives."""
    hub.signed_url_seconds = 0.3
    hub.faults.add(ALL_OF_STORE, "slow", bytes_per_second=8 * 1024 * 1024, times=1)
    await fetch(order_for(hub, cache, limits=replace(QUICK, connections=1)))
    assert observe_model(cache, TINY).complete


@pytest.mark.parametrize(
    ("where", "status"),
    [(r"GET hub/api/.*/revision/", 429), (r"GET hub/api/.*/tree/", 503), (r"GET hub/.*/resolve/", 429)],
)
async def test_a_busy_hub_is_outlasted_wherever_it_says_so(where: str, status: int, hub: Hub, cache: Path) -> None:
    hub.faults.add(where, "status", status=status, retry_after_seconds=0, times=1)
    await fetch(order_for(hub, cache))
    assert observe_model(cache, TINY).complete


async def test_a_wait_asked_for_is_kept(hub: Hub, cache: Path) -> None:
    hub.faults.add(r"GET hub/api/.*/revision/", "status", status=429, retry_after_seconds=1, times=1)
    started = asyncio.get_running_loop().time()
    await fetch(order_for(hub, cache))
    assert asyncio.get_running_loop().time() - started >= 1.0


async def test_when_one_connection_is_asked_to_wait_all_of_them_do(tmp_path: Path, cache: Path) -> None:
    """Who is throttled and goes on over other connections is throttled for longer."""
    write_files(tmp_path / "many", {f"{number}.safetensors": 100_000 for number in range(30)})
    async with Hub({REPOSITORY: read_model(REPOSITORY, tmp_path / "many", Access.PUBLIC)}) as hub:
        hub.faults.add("GET cdn/", "status", status=429, retry_after_seconds=2, times=1)
        running = asyncio.create_task(fetch(order_for(hub, cache)))
        async with asyncio.timeout(10):
            while not hub.counters.requests["GET cdn"]:
                await asyncio.sleep(0.02)
        await asyncio.wait([running], timeout=1.0)
        asked = hub.counters.requests["GET cdn"]
        await running
    assert asked <= 2 * QUICK.connections
    assert hub.counters.requests["GET cdn"] == 31


async def test_a_long_wait_asked_for_is_left_to_the_next_fetch(hub: Hub, cache: Path) -> None:
    hub.faults.add(ALL_OF_STORE, "status", status=429, retry_after_seconds=900)
    with pytest.raises(FetchFaultError) as caught:
        await fetch(order_for(hub, cache))
    assert (caught.value.reason, caught.value.after_seconds) == ("throttled", 900.0)


@pytest.mark.parametrize("retry_after", [True, False])
async def test_a_spent_quota_is_waited_for_by_whatever_header_says_so(retry_after: bool, hub: Hub, cache: Path) -> None:
    hub.rate_limits.quotas["api"] = 0
    hub.rate_limits.retry_after = retry_after
    with pytest.raises(FetchFaultError) as caught:
        await fetch(order_for(hub, cache))
    assert caught.value.reason == "throttled"
    assert caught.value.after_seconds is not None
    assert 290 <= caught.value.after_seconds <= 300


def test_a_server_that_takes_no_connection_is_unreachable() -> None:
    with pytest.raises(FetchFaultError, match="takes no connection") as caught:
        Connections(1.0).read(Source("http://127.0.0.1:1/file", {}, 1), 0, 1, Memory())
    assert caught.value.reason == "unreachable"


async def test_a_fault_that_stays_ends_the_fetch(hub: Hub, cache: Path) -> None:
    hub.faults.add(ALL_OF_STORE, "status", status=503)
    with pytest.raises(FetchFaultError, match="not available"):
        await fetch(order_for(hub, cache, limits=replace(QUICK, attempts=2)))
    assert not observe_model(cache, TINY).complete


async def test_wrong_bytes_of_the_right_length_are_never_published(hub: Hub, cache: Path) -> None:
    hub.faults.add(ALL_OF_STORE, "wrong-bytes")
    with pytest.raises(FetchEndedError) as caught:
        await fetch(order_for(hub, cache))
    assert caught.value.reason == "wrong-bytes"
    assert "model.safetensors" in str(caught.value)
    assert published_files(cache) == {}
    assert not observe_model(cache, TINY).complete


async def test_wrong_bytes_are_counted(hub: Hub, cache: Path) -> None:
    hub.faults.add(ALL_OF_STORE, "wrong-bytes", times=1)
    said = await fetch(order_for(hub, cache))
    assert [m.verify_failures for m in said if isinstance(m, Progress)][-1] == 1


async def test_wrong_bytes_that_another_program_left_are_replaced(hub: Hub, model: ServedModel, cache: Path) -> None:
    """Other clients check lengths only, so a file that is there proves nothing."""
    weights = model.files["model.safetensors"]
    left = cache / "models--acme--tiny" / "blobs" / weights.etag
    left.parent.mkdir(parents=True)
    left.write_bytes(bytes(weights.size_bytes))
    await fetch(order_for(hub, cache))
    assert published_files(cache) == served_files(model, WANTED_OF_TINY)


async def test_what_was_checked_is_not_read_again_until_somebody_puts_another_file_there(
    hub: Hub, model: ServedModel, cache: Path
) -> None:
    await fetch(order_for(hub, cache))
    folder = ModelFolder(cache, REPOSITORY)
    weights = folder.blob(model.files["model.safetensors"].etag)
    wanted = {model.files[path].etag for path in WANTED_OF_TINY}
    assert vouched_blobs(folder) == wanted
    draft = weights.with_name("draft")
    draft.write_bytes(bytes(WEIGHTS_BYTES))
    draft.replace(weights)
    assert vouched_blobs(folder) == wanted - {weights.name}
    # Nor does a fetch of other files vouch for it.
    await fetch(replace(order_for(hub, cache), allow_patterns=("*.json",)))
    assert observe_model(cache, TINY).lacking == "model.safetensors is never checked"
    await fetch(order_for(hub, cache))
    assert published_files(cache) == served_files(model, WANTED_OF_TINY)


async def test_weights_as_pickles_are_refused_where_safetensors_are_required(tmp_path: Path, cache: Path) -> None:
    write_files(tmp_path / "pickled", {"pytorch_model.bin": 1000, "config.json": 10})
    pickled = read_model(REPOSITORY, tmp_path / "pickled", Access.PUBLIC)
    async with Hub({REPOSITORY: pickled}) as hub:
        order = order_for(hub, cache)
        with pytest.raises(
            FetchEndedError, match=r"weights as pickles only \(pytorch_model\.bin\), which run"
        ) as caught:
            await fetch(replace(order, require_safetensors=True))
        assert (caught.value.kind, caught.value.reason) == (FailureKind.REFUSED, "pickled")
        assert hub.counters.body_bytes == 0
        await fetch(order)
    assert observe_model(cache, TINY).complete


@pytest.mark.parametrize("content", ["right", "wrong", None])
async def test_what_the_hubs_own_client_is_bringing_is_waited_for_and_checked(
    content: str | None, hub: Hub, model: ServedModel, cache: Path
) -> None:
    """It has the blob's lock until it has brought it, or has failed."""
    weights = model.files["model.safetensors"]
    folder = ModelFolder(cache, REPOSITORY)
    lock = folder.lock_of_the_client(weights.etag)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock) as held:
        assert held
        fetching = asyncio.create_task(fetch(order_for(hub, cache)))
        async with asyncio.timeout(10):
            while not list(folder.blobs.glob("[0-9a-f]*")):
                await asyncio.sleep(0.05)
        assert not fetching.done()
        assert hub.counters.requests["GET cdn"] == 0
        if content is not None:
            folder.blob(weights.etag).write_bytes(
                weights.source.read_bytes() if content == "right" else bytes(weights.size_bytes)
            )
    await fetching
    assert published_files(cache) == served_files(model, WANTED_OF_TINY)
    assert (hub.counters.requests["GET cdn"] == 0) == (content == "right")


async def test_the_hubs_own_client_and_a_fetch_into_one_cache_do_each_other_no_harm(
    hub: Hub, model: ServedModel, cache: Path
) -> None:
    hub.faults.add(ALL_OF_STORE, "slow", bytes_per_second=8 * 1024 * 1024)
    script = "import sys; from huggingface_hub import snapshot_download; snapshot_download(sys.argv[1], cache_dir=sys.argv[2])"
    client = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        REPOSITORY,
        str(cache),
        env={**os.environ, **_OF_THE_CLIENT, "HF_ENDPOINT": hub.url},
    )
    await asyncio.gather(fetch(order_for(hub, cache)), client.wait())
    assert client.returncode == 0
    assert observe_model(cache, TINY).complete
    assert published_files(cache) == served_files(model, model.files)


async def test_right_bytes_that_another_program_left_are_kept(hub: Hub, model: ServedModel, cache: Path) -> None:
    weights = model.files["model.safetensors"]
    left = cache / "models--acme--tiny" / "blobs" / weights.etag
    left.parent.mkdir(parents=True)
    left.write_bytes(weights.source.read_bytes())
    await fetch(order_for(hub, cache))
    assert hub.counters.requests["GET cdn"] == 0
    assert observe_model(cache, TINY).complete


async def test_what_does_not_fit_is_refused_before_the_first_byte(hub: Hub, cache: Path) -> None:
    with pytest.raises(FetchEndedError, match="budget leaves 1000") as caught:
        await fetch(order_for(hub, cache, limits=replace(QUICK, allowance_bytes=1000)))
    assert caught.value.kind is FailureKind.REFUSED
    with pytest.raises(FetchEndedError, match="bytes are needed") as caught:
        await fetch(order_for(hub, cache, limits=replace(QUICK, reserve_bytes=2**60)))
    assert caught.value.reason == "no-space"
    assert hub.counters.body_bytes == 0


def test_a_full_disk_ends_the_fetch_and_is_named() -> None:
    with pytest.raises(FetchEndedError) as caught, disk_errors(), open("/dev/full", "wb", buffering=0) as disk:
        disk.write(b"one byte")
    assert (caught.value.kind, caught.value.reason) == (FailureKind.FAULT, "no-space")


async def test_a_revision_the_hub_does_not_have_is_refused_with_what_to_do(hub: Hub, cache: Path) -> None:
    with pytest.raises(FetchEndedError, match="has no revision 'v9': name a branch, a tag or a commit"):
        await fetch(replace(order_for(hub, cache), revision="v9"))


async def test_a_model_the_hub_does_not_have_is_refused_with_what_to_do(hub: Hub, cache: Path) -> None:
    with pytest.raises(FetchEndedError, match="no public acme/other: check the name, or give a token") as caught:
        await fetch(order_for(hub, cache, repository="acme/other"))
    assert caught.value.kind is FailureKind.REFUSED


@pytest.mark.parametrize(
    ("access", "token", "reason"),
    [
        (Access.PRIVATE, None, "not-found"),
        (Access.PRIVATE, "stranger", "not-found"),
        (Access.PRIVATE, "forged", "token"),
        (Access.GATED, None, "gated"),
        (Access.GATED, "stranger", "gated"),
    ],
)
async def test_who_may_not_read_is_told_so(
    access: Access, token: str | None, reason: str, tmp_path: Path, cache: Path
) -> None:
    closed = tiny_model(tmp_path / "closed", weights_bytes=1000, access=access)
    async with Hub({REPOSITORY: closed}, tokens={"stranger": frozenset()}) as hub:
        with pytest.raises(FetchError) as caught:
            await fetch(order_for(hub, cache), token=token)
    assert (caught.value.kind, caught.value.reason) == (FailureKind.REFUSED, reason)
    assert published_files(cache) == {}


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/outside", "a/../../outside", "nul\0", "x" * 300, "a//b", ".", "\ud800"]
)
async def test_a_hub_cannot_name_a_file_outside_of_its_snapshot(name: str, model: ServedModel, cache: Path) -> None:
    hostile = model_of({"config.json": _some_file(model), name: _some_file(model)}, REPOSITORY, Access.PUBLIC)
    async with Hub({REPOSITORY: hostile}) as hub:
        with pytest.raises(FetchEndedError, match="lists a file name that") as caught:
            await fetch(order_for(hub, cache))
        assert hub.counters.body_bytes == 0
    assert caught.value.reason == "unusable-name"
    assert texts_in(cache) == ""


async def test_odd_but_harmless_names_are_kept(model: ServedModel, cache: Path) -> None:
    names = ["ünïcode ✓.json", "deep/er/and deeper/x.json", "percent%2Fname.json", "..hidden", "#?&.json"]
    odd = model_of({name: _some_file(model) for name in names}, REPOSITORY, Access.PUBLIC)
    async with Hub({REPOSITORY: odd}, page_entries=2) as hub:
        await fetch(order_for(hub, cache))
    assert sorted(published_files(cache)) == sorted(names)


@pytest.mark.parametrize("status", [206, 302, 503])
async def test_a_body_without_end_is_not_read_to_its_end(status: int) -> None:
    """More than was asked for is not wanted, whatever the status."""
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        headers = {"Content-Range": "bytes 0-9/10"} if status == 206 else {"Location": "/again"}
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        with suppress(ConnectionError):
            while sent < 2**30:
                await response.write(bytes(2**16))
                sent += 2**16
        return response

    app = web.Application()
    app.router.add_get("/{path}", answer)
    received = Memory()
    async with TestServer(app) as server:
        connections, source = Connections(5.0), Source(str(server.make_url("/file")), {}, 10)
        with suppress(FetchFaultError):
            await asyncio.to_thread(connections.read, source, 0, 10, received)
        connections.close()
    assert received.count == (10 if status == 206 else 0)
    assert sent < 2**27


async def test_a_ref_that_is_no_text_is_written_anew(hub: Hub, cache: Path) -> None:
    await fetch(order_for(hub, cache))
    (cache / "models--acme--tiny" / "refs" / "main").write_bytes(b"\xff\xfe")
    assert not observe_model(cache, TINY).complete
    await fetch(order_for(hub, cache))
    assert observe_model(cache, TINY).complete


async def test_a_new_commit_brings_only_what_changed(hub: Hub, model: ServedModel, cache: Path) -> None:
    await fetch(order_for(hub, cache))
    newer = model_of({**model.files, "README.md": _some_file(model)}, REPOSITORY, Access.PUBLIC)
    hub.add(newer)
    hub.counters.reset()
    await fetch(order_for(hub, cache))
    seen = observe_model(cache, TINY)
    assert (seen.complete, seen.commit, hub.counters.body_bytes) == (True, newer.commit, 0)


async def test_wider_patterns_complete_the_same_snapshot(hub: Hub, cache: Path) -> None:
    narrow = replace(order_for(hub, cache), allow_patterns=("*.json",))
    await fetch(narrow)
    assert observe_model(cache, replace(TINY, allow_patterns=("*.json",))).complete
    assert not observe_model(cache, TINY).complete
    await fetch(order_for(hub, cache))
    assert observe_model(cache, TINY).complete


async def test_a_file_that_went_missing_is_noticed_and_fetched_alone(hub: Hub, model: ServedModel, cache: Path) -> None:
    await fetch(order_for(hub, cache))
    (cache / "models--acme--tiny" / "blobs" / model.files["config.json"].etag).unlink()
    assert observe_model(cache, TINY).lacking == "config.json is missing"
    hub.counters.reset()
    await fetch(order_for(hub, cache))
    assert observe_model(cache, TINY).complete
    assert hub.counters.body_bytes == model.files["config.json"].size_bytes


async def test_grains_that_arrived_before_the_end_are_not_asked_for_again(hub: Hub, cache: Path) -> None:
    """The body ends in the third of three grains, and then nothing is to be had any more."""
    hub.faults.add(ALL_OF_STORE, "truncate", after_bytes=4 * 1024 * 1024 + 5, times=1)
    hub.faults.add(ALL_OF_STORE, "status", status=503)
    one = replace(QUICK, connections=1, attempts=1)
    with pytest.raises(FetchFaultError):
        await fetch(order_for(hub, cache, limits=one))
    hub.faults.clear()
    hub.counters.reset()
    await fetch(order_for(hub, cache, limits=one))
    assert hub.counters.body_bytes <= WEIGHTS_BYTES - 4 * 1024 * 1024 + 2000
    assert observe_model(cache, TINY).complete


async def test_a_fetch_leaves_no_weights_in_the_page_cache(hub: Hub, model: ServedModel, cache: Path) -> None:
    if not can_drop(cache.parent):
        pytest.skip("files in this folder are in memory")
    await fetch(order_for(hub, cache))
    weights = cache / "models--acme--tiny" / "blobs" / model.files["model.safetensors"].etag
    assert resident_bytes(weights) == 0


def _some_file(model: ServedModel) -> ServedFile:
    return model.files["config.json"]
