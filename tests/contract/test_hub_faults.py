"""Each fault that the local hub can be asked for, as a client meets it on the wire."""

from __future__ import annotations

import asyncio
import http.client
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hack.hub.content import ServedFile
from hack.hub.faults import FaultKind
from hack.hub.oddities import HOSTILE_NAMES
from hack.hub.server import Hub
from hack.hub.xet import XetStore
from tests.fakes.hub import REPOSITORY, tiny_model
from tests.fakes.hub_client import Answer, ask, ask_along, ask_briefly, tell

SIZE = 10_000
WEIGHTS = f"/{REPOSITORY}/resolve/main/model.safetensors"
STORE = "GET cdn/"


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    xet = XetStore(tmp_path / "store")
    async with Hub({REPOSITORY: tiny_model(tmp_path / "tiny", weights_bytes=SIZE)}, xet=xet) as running:
        yield running


@pytest.fixture
def weights(hub: Hub) -> ServedFile:
    return hub.models[REPOSITORY].files["model.safetensors"]


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize(
    "path",
    [
        "/api/whoami-v2",
        f"/api/models/{REPOSITORY}/revision/main",
        f"/api/models/{REPOSITORY}/tree/main?recursive=true",
        f"/api/models/{REPOSITORY}/refs",
        f"/api/models/{REPOSITORY}/commits/main",
        f"/api/models/{REPOSITORY}/xet-read-token/main",
        f"/{REPOSITORY}/resolve/main/config.json",
        f"/{REPOSITORY}/raw/main/config.json",
        WEIGHTS,
        "store",
    ],
)
async def test_any_question_can_be_answered_by_any_status(status: int, path: str, hub: Hub) -> None:
    url = (await ask("GET", hub.url + WEIGHTS)).headers["location"] if path == "store" else hub.url + path
    healthy = (await ask("GET", url)).status
    hub.faults.add(".", "status", status=status, retry_after_seconds=7, times=1)
    answer = await ask("GET", url)
    assert (answer.status, answer.headers["retry-after"]) == (status, "7")
    again = await ask("GET", url)
    assert (again.status, "retry-after" in again.headers) == (healthy, False)


async def test_paths_info_can_be_refused_too(hub: Hub) -> None:
    hub.faults.add("POST hub/.*/paths-info/", "status", status=429)
    assert (await tell(f"{hub.url}/api/models/{REPOSITORY}/paths-info/main", {"paths": []})).status == 429


async def test_a_proxy_may_answer_in_html(hub: Hub) -> None:
    hub.faults.add("GET hub/api/", "status", status=502, html=True)
    answer = await ask("GET", f"{hub.url}/api/models/{REPOSITORY}")
    assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (502, "text/html")


async def test_a_wait_may_be_given_as_a_date(hub: Hub) -> None:
    hub.faults.add(STORE, "status", status=429, retry_after_seconds="Wed, 21 Oct 2026 07:28:00 GMT")
    assert (await ask_along("GET", hub.url + WEIGHTS)).headers["retry-after"].endswith("GMT")


@pytest.mark.parametrize("url", ["hub", "store"])
async def test_a_wait_may_be_given_by_a_spent_rate_limit_alone(url: str, hub: Hub) -> None:
    """Also in place of what the hub says of its own quotas."""
    hub.faults.add(".", "status", status=429, rate_limit_seconds=7, skip=1 if url == "store" else 0)
    answer = await ask_along("GET", hub.url + WEIGHTS)
    assert (answer.status, answer.headers["ratelimit"], "retry-after" in answer.headers) == (
        429,
        '"requests";r=0;t=7',
        False,
    )


async def test_a_question_may_never_be_answered(hub: Hub) -> None:
    hub.faults.add("GET hub/api/", "no-answer")
    with pytest.raises(TimeoutError):
        await ask_briefly("GET", f"{hub.url}/api/models/{REPOSITORY}")


async def test_a_connection_may_be_reset_instead_of_an_answer(hub: Hub) -> None:
    hub.faults.add("GET hub/api/", "hang-up")
    with pytest.raises(ConnectionResetError):
        await ask("GET", f"{hub.url}/api/models/{REPOSITORY}")


async def test_a_body_may_be_reset_midway(hub: Hub) -> None:
    hub.faults.add(STORE, "reset", after_bytes=5000)
    with pytest.raises(ConnectionResetError):
        await ask_along("GET", hub.url + WEIGHTS)


async def test_a_body_may_stall_midway(hub: Hub) -> None:
    hub.faults.add(STORE, "stall", after_bytes=5000)
    location = (await ask("GET", hub.url + WEIGHTS)).headers["location"]
    with pytest.raises(TimeoutError):
        await ask_briefly("GET", location)
    assert hub.counters.body_bytes == 5000


async def test_a_body_may_end_early(hub: Hub, weights: ServedFile) -> None:
    hub.faults.add(STORE, "truncate", after_bytes=5000)
    with pytest.raises(http.client.IncompleteRead) as caught:
        await ask_along("GET", hub.url + WEIGHTS)
    assert caught.value.partial == weights.source.read_bytes()[:5000]


async def test_a_body_may_be_wrong_and_of_the_right_length(hub: Hub, weights: ServedFile) -> None:
    hub.faults.add(STORE, "wrong-bytes")
    answer = await ask_along("GET", hub.url + WEIGHTS)
    assert (answer.status, len(answer.body)) == (200, SIZE)
    assert answer.body != weights.source.read_bytes()


async def test_a_range_may_be_ignored(hub: Hub) -> None:
    hub.faults.add(STORE, "ignore-ranges")
    answer = await ask_along("GET", hub.url + WEIGHTS, Range="bytes=5-9")
    assert (answer.status, len(answer.body), "content-range" in answer.headers) == (200, SIZE, False)


async def test_another_range_than_asked_may_come(hub: Hub) -> None:
    hub.faults.add(STORE, "wrong-range")
    answer = await ask_along("GET", hub.url + WEIGHTS, Range="bytes=5-9")
    assert (answer.status, answer.headers["content-range"], len(answer.body)) == (206, f"bytes 6-10/{SIZE}", 5)


async def test_a_file_may_be_replaced_between_two_ranges(hub: Hub) -> None:
    hub.faults.add(STORE, "new-etag", skip=1)
    first = await ask_along("GET", hub.url + WEIGHTS, Range="bytes=0-9")
    conditional = {"Range": "bytes=10-19", "If-Range": first.headers["etag"]}
    second = await ask_along("GET", hub.url + WEIGHTS, **conditional)
    assert (first.status, second.status) == (206, 200)
    assert first.headers["etag"] != second.headers["etag"]


async def test_a_signed_address_may_have_ended_when_it_is_given(hub: Hub) -> None:
    hub.faults.add("GET hub/.*/resolve/", "expired-url", times=1)
    assert (await ask_along("GET", hub.url + WEIGHTS)).status == 403
    assert (await ask_along("GET", hub.url + WEIGHTS)).status == 200


async def test_a_redirect_may_lead_back_to_itself(hub: Hub) -> None:
    hub.faults.add("GET hub/.*/resolve/", "redirect")
    answer = await ask("GET", hub.url + WEIGHTS)
    assert (answer.status, answer.headers["location"]) == (302, hub.url + WEIGHTS)


async def test_a_redirect_may_lead_anywhere(hub: Hub) -> None:
    hub.faults.add("GET hub/.*/resolve/", "redirect", location="http://hub.invalid/")
    assert (await ask("GET", hub.url + WEIGHTS)).headers["location"] == "http://hub.invalid/"


async def test_a_slow_body_takes_its_time(hub: Hub) -> None:
    hub.faults.add(STORE, "slow", bytes_per_second=20_000)
    with pytest.raises(TimeoutError):
        await _within(0.2, hub.url + WEIGHTS)
    hub.faults.clear()
    await _within(5.0, hub.url + WEIGHTS)


async def test_a_hostile_listing_has_every_name_that_leads_astray(hub: Hub, tmp_path: Path) -> None:
    entries = await _listed_oddity(hub, "hostile", tmp_path)
    assert {entry["path"] for entry in entries} >= set(HOSTILE_NAMES)


async def test_more_than_any_disk_has_is_listed_on_request(hub: Hub, tmp_path: Path) -> None:
    entries = await _listed_oddity(hub, "huge", tmp_path)
    assert sum(entry["size"] for entry in entries) > 60 * 10**9 - 1


async def test_an_oddity_that_is_none_is_refused(hub: Hub, tmp_path: Path) -> None:
    asked = {"kind": "even", "repository": "odd/even", "folder": str(tmp_path)}
    assert (await tell(f"{hub.url}/_dev/oddities", asked)).status == 400


async def test_faults_are_planned_and_cleared_by_request(hub: Hub) -> None:
    await tell(f"{hub.url}/_dev/faults", {"pattern": STORE, "kind": "status", "status": 503})
    assert (await ask_along("GET", hub.url + WEIGHTS)).status == 503
    await ask("DELETE", f"{hub.url}/_dev/faults")
    assert (await ask_along("GET", hub.url + WEIGHTS)).status == 200


async def test_it_is_told_how_often_a_fault_struck(hub: Hub) -> None:
    hub.faults.add(STORE, "status", skip=1, times=2)
    for _ in range(4):
        await ask_along("GET", hub.url + WEIGHTS)
    assert (await ask("GET", f"{hub.url}/_dev/faults")).document() == [2]


async def test_a_hub_that_goes_away_cuts_connections_and_is_back_at_the_same_ports(
    hub: Hub, weights: ServedFile
) -> None:
    """It remembers what it had counted and signed."""
    hub.faults.add(STORE, "stall", after_bytes=5000, times=1)
    location = (await ask("GET", hub.url + WEIGHTS)).headers["location"]
    cut = asyncio.create_task(ask("GET", location))
    while hub.counters.body_bytes < 5000:
        await asyncio.sleep(0.01)
    assert (await tell(f"{hub.url}/_dev/absence", {"seconds": 2.0})).status == 200
    with pytest.raises(http.client.IncompleteRead):
        await cut
    for url in (hub.url, location):
        with pytest.raises(ConnectionRefusedError):
            await ask("GET", url)
    answer = await _ask_once_it_is_back(location)
    assert (answer.status, answer.body) == (200, weights.source.read_bytes())
    assert hub.counters.body_bytes == 5000 + SIZE


async def test_a_hub_that_is_away_can_be_ended(hub: Hub) -> None:
    hub.leave(60.0)
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "status"},
        {"pattern": "(", "kind": "status"},
        {"pattern": ".", "kind": "flood"},
        {"pattern": ".", "kind": "status", "colour": "red"},
    ],
)
async def test_a_fault_that_is_none_is_refused(document: dict[str, str], hub: Hub) -> None:
    assert (await tell(f"{hub.url}/_dev/faults", document)).status == 400
    assert hub.faults.planned == []


def test_every_kind_of_fault_is_tried_here() -> None:
    tried = set(re.findall(r'hub\.faults\.add\([^)]*?, "([a-z-]+)"', Path(__file__).read_text("utf-8")))
    assert tried == {kind.value for kind in FaultKind}


async def _listed_oddity(hub: Hub, kind: str, folder: Path) -> list[dict[str, Any]]:
    asked = {"kind": kind, "repository": f"odd/{kind}", "folder": str(folder / kind)}
    assert (await tell(f"{hub.url}/_dev/oddities", asked)).status == 200
    listed: list[dict[str, Any]] = (
        await ask("GET", f"{hub.url}/api/models/odd/{kind}/tree/main?recursive=true")
    ).document()
    return listed


async def _ask_once_it_is_back(url: str) -> Answer:
    async with asyncio.timeout(10):
        while True:
            try:
                return await ask("GET", url)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)


async def _within(seconds: float, url: str) -> None:
    async with asyncio.timeout(seconds):
        await ask_along("GET", url)
