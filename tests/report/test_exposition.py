"""The HTTP side: what scrapers and the kubelet get, over a real socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from agent.model.errors import BadInputError
from agent.report.exposition import application, parse_listen, serving
from agent.report.health import NOT_LOOKED_YET, Heartbeats, Readiness
from agent.report.metrics import Metrics


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def served(
    render: Callable[[str], tuple[bytes, str]] = lambda accept: (accept.encode(), "text/plain"),
    overdue: Callable[[], tuple[str, ...]] = lambda: (),
    lacking: Callable[[], tuple[str, ...]] = lambda: (),
) -> AbstractAsyncContextManager[str]:
    return serving(application(render, overdue, lacking), "127.0.0.1:0")


async def get(url: str, **headers: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status, await response.text(), response.headers.get("Content-Encoding", "")


async def test_metrics_are_served_compressed_when_asked() -> None:
    metrics = Metrics("1.2.3", lambda: 0.0, {})
    async with served(metrics.rendered) as address:
        status, text, encoding = await get(f"http://{address}/metrics", **{"Accept-Encoding": "gzip"})
        assert (status, encoding) == (200, "gzip")
        assert 'warmslice_build_info{version="1.2.3"} 1.0' in text

        _, plain, encoding = await get(f"http://{address}/metrics", **{"Accept-Encoding": "identity"})
        assert encoding == ""
        assert 'warmslice_build_info{version="1.2.3"} 1.0' in plain


@pytest.mark.parametrize(
    ("asked", "encoding"),
    [
        ("gzip", "gzip"),
        ("br, gzip;q=0.5", "gzip"),
        ("gzip;q=0", ""),
        ("gzip; q=0.0, br", ""),
        ("identity", ""),
        ("xgzipx", ""),
    ],
)
async def test_only_who_takes_it_gets_it_compressed(asked: str, encoding: str) -> None:
    async with served(lambda _: (b"x", "text/plain")) as address:
        assert (await get(f"http://{address}/metrics", **{"Accept-Encoding": asked}))[2] == encoding


async def test_rendering_does_not_happen_on_the_event_loop() -> None:
    rendered_by: list[str] = []

    def render(_: str) -> tuple[bytes, str]:
        rendered_by.append(threading.current_thread().name)
        return b"", "text/plain"

    async with served(render) as address:
        await get(f"http://{address}/metrics")
    assert rendered_by != [threading.main_thread().name]
    assert len(rendered_by) == 1


async def test_scrapers_that_come_at_once_share_one_rendering() -> None:
    begun, go = threading.Event(), threading.Event()
    accepted: list[str] = []

    def render(accept: str) -> tuple[bytes, str]:
        accepted.append(accept)
        begun.set()
        assert go.wait(30)
        return f"answer {len(accepted)}".encode(), "text/plain"

    arrived: list[web.Request] = []

    @web.middleware
    async def noted(request: web.Request, handler: Handler) -> web.StreamResponse:
        arrived.append(request)
        return await handler(request)

    app = application(render, lambda: (), lambda: ())
    app.middlewares.append(noted)
    async with serving(app, "127.0.0.1:0") as address:
        url = f"http://{address}/metrics"
        impatient = asyncio.create_task(get(url, Accept="text/plain"))
        assert await asyncio.to_thread(begun.wait, 30)
        others = [asyncio.create_task(get(url, Accept="text/plain")) for _ in range(19)]
        async with asyncio.timeout(30):
            while len(arrived) < 20:
                await asyncio.sleep(0.005)  # real sockets
        impatient.cancel()
        go.set()
        assert {text for _, text, _ in await asyncio.gather(*others)} == {"answer 1"}
        assert (await get(url, Accept="text/plain"))[1] == "answer 2"


async def test_a_rendering_that_fails_fails_no_later_one() -> None:
    def render(accept: str) -> tuple[bytes, str]:
        if accept == "broken":
            raise ValueError(accept)
        return b"fine", "text/plain"

    async with served(render) as address:
        assert (await get(f"http://{address}/metrics", Accept="broken"))[0] == 500
        assert (await get(f"http://{address}/metrics", Accept="whole"))[1] == "fine"


async def test_readiness_says_which_part_is_lacking_and_why() -> None:
    readiness = Readiness(("node", "nvml"))
    async with served(lacking=readiness.lacking) as address:
        url = f"http://{address}/readyz"
        assert await get(url) == (503, f"node: {NOT_LOOKED_YET}\nnvml: {NOT_LOOKED_YET}\n", "")

        readiness.ready("node")
        readiness.lacks("nvml", "the driver is not loaded")
        assert await get(url) == (503, "nvml: the driver is not loaded\n", "")

        readiness.ready("nvml")
        assert await get(url) == (200, "ok\n", "")


async def test_a_loop_that_stands_still_fails_liveness_until_it_beats() -> None:
    clock = Clock()
    beats = Heartbeats(clock)
    beats.expect("partition", 30.0)
    async with served(overdue=beats.overdue) as address:
        url = f"http://{address}/healthz"
        clock.seconds += 30
        assert await get(url) == (200, "ok\n", "")

        clock.seconds += 1
        status, text, _ = await get(url)
        assert (status, text) == (503, "partition loop: no pass finished for 31 s (expected within 30 s)\n")

        beats.beat("partition")
        assert await get(url) == (200, "ok\n", "")


def test_a_part_nobody_declared_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        Readiness(("node",)).ready("nodes")
    with pytest.raises(KeyError):
        Heartbeats(Clock()).beat("partition")


@pytest.mark.parametrize(
    ("listen", "expected"),
    [("0.0.0.0:9470", ("0.0.0.0", 9470)), ("[::]:9470", ("::", 9470)), (":9470", ("", 9470))],
)
def test_listen_addresses(listen: str, expected: tuple[str, int]) -> None:
    assert parse_listen(listen) == expected


@pytest.mark.parametrize("listen", ["9470", "localhost:http", "localhost:99999", ""])
def test_what_is_no_listen_address_is_named(listen: str) -> None:
    with pytest.raises(BadInputError, match="is not host:port"):
        parse_listen(listen)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
async def test_an_address_that_is_not_ours_is_a_mistake_in_the_settings(host: str) -> None:
    with pytest.raises(BadInputError, match=rf"cannot listen on {host}:9470: \w"):
        async with serving(web.Application(), f"{host}:9470"):
            raise AssertionError("nobody can listen there")


async def test_an_address_that_is_taken_is_named() -> None:
    async with serving(web.Application(), "127.0.0.1:0") as taken:
        with pytest.raises(BadInputError, match=f"cannot listen on {taken}: .*in use"):
            async with serving(web.Application(), taken):
                raise AssertionError("two listeners on one address")
