"""How the local hub sends bytes: ranges, names of content, addresses that end; as a hub, as a store, as a mirror."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hack.hub.content import ServedFile
from hack.hub.oddities import huge_model, many_files_model
from hack.hub.server import Hub
from tests.fakes.hub import REPOSITORY, tiny_model
from tests.fakes.hub_client import Answer, ask, ask_along

SIZE = 10_000


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with Hub({REPOSITORY: tiny_model(tmp_path / "tiny", weights_bytes=SIZE)}) as running:
        yield running


@pytest.fixture
def weights(hub: Hub) -> ServedFile:
    return hub.models[REPOSITORY].files["model.safetensors"]


def _url(hub: Hub, path: str = "model.safetensors") -> str:
    return f"{hub.url}/{REPOSITORY}/resolve/main/{path}"


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=5-104", 5, 104),
        ("bytes=9990-", 9990, 9999),
        ("bytes=9990-20000", 9990, 9999),
        ("bytes=-10", 9990, 9999),
        ("bytes=-20000", 0, 9999),
    ],
)
async def test_a_range_is_what_was_asked_for(asked: str, first: int, last: int, hub: Hub, weights: ServedFile) -> None:
    answer = await ask_along("GET", _url(hub), Range=asked)
    assert (answer.status, answer.headers["content-range"]) == (206, f"bytes {first}-{last}/{SIZE}")
    assert answer.body == weights.source.read_bytes()[first : last + 1]


async def test_a_range_past_the_end_is_answered_with_the_size(hub: Hub) -> None:
    answer = await ask_along("GET", _url(hub), Range="bytes=10000-")
    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{SIZE}")


@pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "lines=1-2", "bytes=-"])
async def test_what_is_no_single_range_of_bytes_is_answered_with_the_whole(asked: str, hub: Hub) -> None:
    answer = await ask_along("GET", _url(hub), Range=asked)
    assert (answer.status, len(answer.body)) == (200, SIZE)


async def test_a_range_of_what_changed_is_answered_with_the_whole(hub: Hub) -> None:
    answer = await ask_along("GET", _url(hub), **{"Range": "bytes=0-9", "If-Range": '"older"'})
    assert (answer.status, len(answer.body)) == (200, SIZE)


async def test_a_range_of_what_did_not_change_is_a_range(hub: Hub) -> None:
    etag = (await ask_along("HEAD", _url(hub))).headers["etag"]
    answer = await ask_along("GET", _url(hub), **{"Range": "bytes=0-9", "If-Range": etag})
    assert (answer.status, len(answer.body)) == (206, 10)


async def test_what_one_has_already_is_not_sent_again(hub: Hub) -> None:
    etag = (await ask_along("HEAD", _url(hub, "config.json"))).headers["etag"]
    answer = await ask("GET", _url(hub, "config.json"), **{"If-None-Match": etag})
    assert (answer.status, answer.body) == (304, b"")


async def test_the_store_names_content_in_its_own_way(hub: Hub, weights: ServedFile) -> None:
    assert (await ask_along("HEAD", _url(hub))).headers["etag"] != f'"{weights.etag}"'


async def test_a_question_for_the_headers_sends_no_body(hub: Hub) -> None:
    answer = await ask_along("HEAD", _url(hub))
    assert (answer.status, answer.headers["content-length"], hub.counters.body_bytes) == (200, str(SIZE), 0)


async def test_a_signed_address_ends(hub: Hub) -> None:
    hub.signed_url_seconds = -1.0
    assert (await ask_along("GET", _url(hub))).status == 403


async def test_a_signed_address_holds_for_no_other_content(hub: Hub, weights: ServedFile) -> None:
    location = (await ask("GET", _url(hub))).headers["location"]
    assert (await ask("GET", location)).status == 200
    assert (await ask("GET", location.replace(weights.etag, "0" * 64))).status == 403


async def test_a_mirror_redirects_nowhere_and_has_an_etag_that_is_no_hash_of_the_content(
    hub: Hub, weights: ServedFile
) -> None:
    hub.mirror = True
    answer = await ask("GET", _url(hub))
    assert (answer.status, _sha256(answer)) == (200, weights.sha256)
    assert answer.headers["etag"].strip('"') not in {weights.sha256, weights.git_oid}
    assert "x-linked-etag" not in answer.headers
    assert answer.headers["x-repo-commit"] == hub.models[REPOSITORY].commit


async def test_sixty_gigabytes_are_listed_and_served_without_taking_disk(hub: Hub, tmp_path: Path) -> None:
    huge = huge_model("odd/huge", tmp_path / "huge")
    hub.add(huge)
    (entry,) = (await ask("GET", f"{hub.url}/api/models/odd/huge/tree/main")).document()[1:]
    assert (entry["path"], entry["lfs"]["size"]) == ("model.safetensors", 60 * 10**9)
    answer = await ask_along("GET", f"{hub.url}/odd/huge/resolve/main/model.safetensors", Range="bytes=59999999999-")
    assert (answer.status, answer.body) == (206, b"\0")
    assert huge.files["model.safetensors"].source.stat().st_blocks * 512 < 1_000_000


async def test_ten_thousand_small_files_are_listed_in_ten_pages_of_a_thousand(hub: Hub, tmp_path: Path) -> None:
    hub.add(many_files_model("odd/many", tmp_path / "many", count=10_000))
    url, pages, paths = f"{hub.url}/api/models/odd/many/tree/main?recursive=true", 0, set[str]()
    while url:
        answer = await ask("GET", url)
        pages, paths = pages + 1, paths | {e["path"] for e in answer.document() if e["type"] == "file"}
        url = answer.headers.get("link", "").partition(">")[0].removeprefix("<")
    assert (len(paths), pages) == (10_000, 11)  # and a hundred folders


def _sha256(answer: Answer) -> str:
    return hashlib.sha256(answer.body).hexdigest()
