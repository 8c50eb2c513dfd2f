"""Who may ask the local hub for what, how often, and how fast it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import HfApi, close_session
from huggingface_hub.errors import DisabledRepoError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils._http import parse_ratelimit_headers

from hack.hub.content import Access
from hack.hub.counters import Served
from hack.hub.limits import Pace, RateLimits
from hack.hub.server import Hub
from tests.fakes.hub import REPOSITORY, tiny_model
from tests.fakes.hub_client import ask, ask_along, tell

SIZE = 20_000
LOOPBACK = "127.0.0.1"
WEIGHTS = f"/{REPOSITORY}/resolve/main/model.safetensors"


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    """One model of every kind of access; the token "member" opens all, "stranger" none."""
    models = {
        f"acme/{access}": tiny_model(tmp_path / access, repository=f"acme/{access}", access=access, weights_bytes=10)
        for access in Access
    }
    models[REPOSITORY] = tiny_model(tmp_path / "tiny", weights_bytes=SIZE)
    tokens = {"member": frozenset(models), "stranger": frozenset[str]()}
    async with Hub(models, tokens=tokens) as running:
        yield running
        close_session()


def _api(hub: Hub, token: str | None) -> HfApi:
    return HfApi(endpoint=hub.url, token=token or False)


async def _reads(hub: Hub, token: str | None, repository: str) -> tuple[bool, bool]:
    """Whether the token may list the model, and whether it may have its files."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    listed = await ask("GET", f"{hub.url}/api/models/{repository}/tree/main", **headers)
    content = await ask("HEAD", f"{hub.url}/{repository}/resolve/main/config.json", **headers)
    return listed.status == 200, content.status == 200


@pytest.mark.parametrize(
    ("access", "token", "lists", "gets"),
    [
        (Access.PUBLIC, None, True, True),
        (Access.PRIVATE, None, False, False),
        (Access.PRIVATE, "stranger", False, False),
        (Access.PRIVATE, "member", True, True),
        (Access.GATED, None, True, False),
        (Access.GATED, "stranger", True, False),
        (Access.GATED, "member", True, True),
        (Access.DISABLED, "member", False, False),
        (Access.PUBLIC, "forged", False, False),
    ],
)
async def test_who_may_list_and_who_may_read(
    access: Access, token: str | None, lists: bool, gets: bool, hub: Hub
) -> None:
    assert await _reads(hub, token, f"acme/{access}") == (lists, gets)


@pytest.mark.parametrize(
    ("access", "token", "error"),
    [
        (Access.PRIVATE, None, RepositoryNotFoundError),
        (Access.PRIVATE, "stranger", RepositoryNotFoundError),
        (Access.GATED, None, GatedRepoError),
        (Access.GATED, "stranger", GatedRepoError),
        (Access.DISABLED, "member", DisabledRepoError),
    ],
)
async def test_the_library_knows_each_refusal_by_its_own_error(
    access: Access, token: str | None, error: type[Exception], hub: Hub, tmp_path: Path
) -> None:
    def download() -> str:
        return _api(hub, token).hf_hub_download(f"acme/{access}", "config.json", cache_dir=tmp_path / "cache")

    with pytest.raises(Exception) as caught:  # noqa: PT011 - what the library raises is what is being asked
        await asyncio.to_thread(download)
    assert isinstance(caught.value, error) or isinstance(caught.value.__cause__, error)


async def test_without_a_token_a_private_model_looks_like_one_that_is_not_there(hub: Hub) -> None:
    private = await ask("GET", f"{hub.url}/api/models/acme/private")
    absent = await ask("GET", f"{hub.url}/api/models/acme/absent")
    assert (private.status, private.body) == (absent.status, absent.body) == (401, absent.body)


async def test_a_revoked_token_opens_nothing_any_more(hub: Hub) -> None:
    assert (await asyncio.to_thread(_api(hub, "member").whoami))["auth"]["accessToken"]["role"] == "read"
    await ask("DELETE", f"{hub.url}/_dev/tokens/member")
    with pytest.raises(HfHubHTTPError, match="Invalid"):
        await asyncio.to_thread(_api(hub, "member").whoami)
    assert await _reads(hub, "member", REPOSITORY) == (False, False)


async def test_access_can_be_given_by_request(hub: Hub) -> None:
    await tell(f"{hub.url}/_dev/tokens", {"token": "late", "repositories": ["acme/private"]})
    assert await _reads(hub, "late", "acme/private") == (True, True)


async def test_beyond_its_quota_a_caller_is_told_when_to_come_again(hub: Hub) -> None:
    hub.rate_limits = RateLimits(quotas={"api": 2, "resolvers": 100})
    url = f"{hub.url}/api/models/{REPOSITORY}"
    answers = [await ask("GET", url) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    left = [parse_ratelimit_headers(answer.headers) for answer in answers]
    assert [(info.remaining, info.limit) for info in left if info is not None] == [(1, 2), (0, 2), (0, 2)]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 300


async def test_when_to_come_again_may_stand_in_the_rate_limit_alone(hub: Hub) -> None:
    hub.rate_limits = RateLimits(quotas={"api": 0}, retry_after=False)
    answer = await ask("GET", f"{hub.url}/api/models/{REPOSITORY}")
    info = parse_ratelimit_headers(answer.headers)
    assert info is not None
    assert (answer.status, "retry-after" in answer.headers, info.remaining) == (429, False, 0)
    assert 1 <= info.reset_in_seconds <= 300


async def test_quotas_are_by_kind_of_resource_and_by_caller(hub: Hub) -> None:
    hub.rate_limits = RateLimits(quotas={"api": 1, "resolvers": 100})
    url = f"{hub.url}/api/models/{REPOSITORY}"
    assert [(await ask("GET", url)).status for _ in range(2)] == [200, 429]
    assert (await ask("HEAD", hub.url + WEIGHTS)).status == 302
    assert (await ask("GET", url, Authorization="Bearer member")).status == 200
    assert (await ask("GET", url, source="127.0.0.2")).status == 200


async def test_a_quota_is_whole_again_after_its_window(hub: Hub) -> None:
    now = 0.0
    hub.rate_limits = RateLimits(quotas={"api": 1, "resolvers": 1}, window_seconds=300, clock=lambda: now)
    url = f"{hub.url}/api/models/{REPOSITORY}"
    assert [(await ask("GET", url)).status for _ in range(2)] == [200, 429]
    now = 299.9
    assert (await ask("GET", url)).status == 429
    now = 300.0
    assert [(await ask("GET", url)).status for _ in range(2)] == [200, 429]


async def test_the_connections_of_one_address_are_each_throttled(hub: Hub) -> None:
    hub.throttle.connection_bytes_per_second = rate = SIZE / 2
    flow = await _flow(hub, *[LOOPBACK] * 4)
    assert flow.fastest <= flow.at(rate)
    assert flow.together > 2 * rate * flow.seconds


async def test_the_connections_of_one_address_share_its_rate(hub: Hub) -> None:
    hub.throttle.address_bytes_per_second = rate = SIZE * 2
    flow = await _flow(hub, *[LOOPBACK] * 4)
    assert flow.together <= flow.at(rate)


async def test_two_addresses_do_not_share_a_rate(hub: Hub) -> None:
    hub.throttle.address_bytes_per_second = rate = SIZE / 2
    flow = await _flow(hub, *(f"127.0.0.{number}" for number in range(2, 6)))
    assert flow.fastest <= flow.at(rate)
    assert flow.together > 2 * rate * flow.seconds


async def test_bytes_and_requests_are_counted_by_client(hub: Hub) -> None:
    await ask_along("GET", hub.url + WEIGHTS, **{"User-Agent": "first/1"})
    await ask("HEAD", hub.url + WEIGHTS, source="127.0.0.2", **{"User-Agent": "second/1"})
    counted = (await ask("GET", f"{hub.url}/_dev/counters")).document()["by_client"]
    assert counted == {
        "127.0.0.1 first/1": {"requests": 2, "body_bytes": SIZE},
        "127.0.0.2 second/1": {"requests": 1, "body_bytes": 0},
    }
    await ask("DELETE", f"{hub.url}/_dev/counters")
    assert (await ask("GET", f"{hub.url}/_dev/counters")).document()["by_client"] == {}


async def test_rates_and_quotas_are_set_by_request(hub: Hub) -> None:
    await tell(f"{hub.url}/_dev/settings", {"address_bytes_per_second": 1e6, "quotas": {"api": 0, "resolvers": 9}})
    assert hub.throttle.address_bytes_per_second == 1e6
    assert (await ask("GET", f"{hub.url}/api/models/{REPOSITORY}")).status == 429
    assert (await tell(f"{hub.url}/_dev/settings", {"colour": "red"})).status == 400


@dataclass(frozen=True, slots=True)
class _Flow:
    """What each of some downloads got while all of them were under way, by the hub's own ledger and clock.

    So a slow machine stretches the time with the bytes. A pace never runs ahead: what goes beyond it is a chunk of each
    download that was due when the time began. That several do not share one shows in their having more than twice as much
    together; four that do not have four times as much, so half of it may be lost to other work.
    """

    got: tuple[int, ...]
    seconds: float

    @property
    def fastest(self) -> int:
        return max(self.got)

    @property
    def together(self) -> int:
        return sum(self.got)

    def at(self, bytes_per_second: float) -> float:
        """The most that a rate allows."""
        return bytes_per_second * self.seconds + len(self.got) * Pace(bytes_per_second).chunk_bytes


async def _flow(hub: Hub, *sources: str) -> _Flow:
    """One download from each address."""
    loop = asyncio.get_running_loop()
    locations = [(await ask("GET", hub.url + WEIGHTS)).headers["location"] for _ in sources]
    asked = [
        asyncio.create_task(ask("GET", location, source=source, **{"User-Agent": f"download/{number}"}))
        for number, (location, source) in enumerate(zip(locations, sources, strict=True))
    ]

    def sent() -> list[int]:
        names = [f"{source} download/{number}" for number, source in enumerate(sources)]
        return [hub.counters.by_client.get(name, Served()).body_bytes for name in names]

    async with asyncio.timeout(60):
        while not all(sent()):
            await asyncio.sleep(0.01)
        before, began = sent(), loop.time()
        while max(sent()) < SIZE:
            await asyncio.sleep(0.01)
        after, ended = sent(), loop.time()
        await asyncio.gather(*asked)
    return _Flow(tuple(late - early for early, late in zip(before, after, strict=True)), ended - began)
