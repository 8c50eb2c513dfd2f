"""The status page's server: what it answers, to whom, and what it costs."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web

from agent.adapters.peer import Peer, told_to_peer
from agent.adapters.tls import ServerTls
from agent.model.errors import BadInputError
from agent.model.overview import Overview, Part
from agent.report.access import token_needed
from agent.report.exposition import application, serving
from agent.report.live import Live
from tests.report import overviews


@dataclass
class Node:
    """How a node stands, as the test sets it; ``looks`` counts how often anybody asked."""

    overview: Overview = field(default_factory=lambda: overviews.EVERYTHING)
    looks: int = 0

    async def look(self) -> Overview:
        self.looks += 1
        return self.overview

    def says(self, message: str) -> None:
        partition = self.overview.partition
        assert partition is not None
        layout = replace(partition.layout, message=message)
        self.overview = replace(self.overview, partition=replace(partition, layout=layout))


@asynccontextmanager
async def served(look: Callable[[], Awaitable[Overview]], token: str | None = None) -> AsyncIterator[str]:
    access = [token_needed(lambda: token or None)] if token is not None else []
    app = application(lambda _: (b"metrics", "text/plain"), lambda: (), lambda: (), access)
    Live(look).add_to(app)
    async with serving(app, "127.0.0.1:0") as address:
        yield f"http://{address}"


async def next_sections(answer: aiohttp.ClientResponse) -> dict[str, str]:
    while True:
        block = (await answer.content.readuntil(b"\n\n")).decode()
        if block.startswith("event: sections"):
            found: dict[str, str] = json.loads(block.partition("data: ")[2])["sections"]
            return found


async def status_of(url: str, method: str = "GET", **headers: str) -> int:
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as answer:
        await answer.read()
        return answer.status


async def test_the_page_and_the_api_say_the_same() -> None:
    node = Node()
    async with served(node.look) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/") as answer:
            assert (answer.status, answer.content_type) == (200, "text/html")
            assert "no-store" in answer.headers["Cache-Control"]
            page = await answer.text()
        async with session.get(f"{url}/api/v1/status") as answer:
            told = await answer.json()
    assert told["node"] == "gpu-1"
    assert told["partition"]["gpus"][0]["slices"][0]["holders"] == ["ml/trainer"]
    assert "ml/trainer" in page


@pytest.mark.parametrize("path", ["/", "/api/v1/status", "/api/v1/events", "/metrics"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_nothing_can_be_changed_here(path: str, method: str) -> None:
    async with served(Node().look) as url:
        assert await status_of(f"{url}{path}", method) == 405


async def test_a_stream_tells_everything_once_and_then_what_changes() -> None:
    node = Node()
    async with (
        served(node.look) as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/api/v1/events") as answer,
    ):
        assert answer.content_type == "text/event-stream"
        assert (await next_sections(answer)).keys() == {"state", "gpus", "models", "events"}
        node.says("something new")
        news = await next_sections(answer)
    assert list(news) == ["state"]
    assert "something new" in news["state"]


async def test_nobody_is_asked_while_nobody_looks_and_one_asks_for_all() -> None:
    node = Node()
    async with served(node.look) as url:
        await asyncio.sleep(1.2)
        assert node.looks == 0
        async with aiohttp.ClientSession() as session:
            answers = [await session.get(f"{url}/api/v1/events") for _ in range(10)]
            for answer in answers:
                await next_sections(answer)
            await asyncio.sleep(1.2)
            assert node.looks <= 4
            for answer in answers:
                answer.close()
        await asyncio.sleep(2.5)
        looks = node.looks
        await asyncio.sleep(1.5)
        assert node.looks == looks


async def test_there_are_only_so_many_streams_and_a_place_comes_free() -> None:
    async with served(Node().look) as url, aiohttp.ClientSession() as session:
        answers = [await session.get(f"{url}/api/v1/events") for _ in range(32)]
        assert await status_of(f"{url}/api/v1/events") == 503
        assert await status_of(f"{url}/api/v1/status") == 200
        answers[0].close()
        async with asyncio.timeout(30):
            while True:
                late = await session.get(f"{url}/api/v1/events")
                if late.status == 200:
                    break
                late.close()
                await asyncio.sleep(0.2)  # the server hears of it when it next writes
        for answer in [*answers[1:], late]:
            answer.close()


async def test_who_does_not_read_holds_up_nobody() -> None:
    """Its stream fills up; the others see each change in time."""
    node = Node()
    async with served(node.look) as url, aiohttp.ClientSession(read_bufsize=1 << 24) as session:
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as sleepy:
            sleepy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sleepy.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            async with session.get(f"{url}/api/v1/events") as answer:
                await next_sections(answer)
                for number in range(3):
                    node.says(f"{number} " + "x" * 2_000_000)
                    async with asyncio.timeout(5):
                        assert f"{number} xx" in (await next_sections(answer))["state"]


async def test_open_streams_end_with_the_server() -> None:
    async with aiohttp.ClientSession() as session:
        async with served(Node().look) as url:
            answer = await session.get(f"{url}/api/v1/events")
            await next_sections(answer)
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 1.5
        assert await answer.content.read() == b""


# -- who may read ---------------------------------------------------------------------------------------------------------


def basic(password: str, user: str = "me") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("path", ["/", "/api/v1/status", "/metrics", "/nothing-there"])
async def test_with_a_token_only_who_gives_it_may_read(path: str) -> None:
    async with served(Node().look, "s3cret") as url:
        right = [
            await status_of(f"{url}{path}", Authorization=f"Bearer {'s3cret'}"),
            await status_of(f"{url}{path}", Authorization=basic("s3cret")),
        ]
        wrong = [
            await status_of(f"{url}{path}"),
            *[
                await status_of(f"{url}{path}", Authorization=value)
                for value in (
                    "Bearer",
                    "Bearer other",
                    "s3cret",
                    basic("other"),
                    basic("", "s3cret"),
                    "Basic %%%",
                    "Bearer é",
                )
            ],
        ]
    assert set(right) == ({404} if path == "/nothing-there" else {200})
    assert set(wrong) == {401}


async def test_the_kubelets_probes_need_no_token() -> None:
    async with served(Node().look, "s3cret") as url:
        assert [await status_of(f"{url}/{probe}") for probe in ("healthz", "readyz")] == [200, 200]


async def test_a_token_that_cannot_be_read_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    async with served(Node().look, "") as url:
        assert await status_of(f"{url}/", Authorization="Bearer ") == 401
    assert "token.unreadable" in [record.message for record in caplog.records]


# -- TLS ------------------------------------------------------------------------------------------------------------------


class Certificates:
    """An authority, and the files that it renews."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"
        self.authority = trustme.CA()
        self.renew()

    def renew(self) -> None:
        issued = self.authority.issue_cert("127.0.0.1")
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())

    def trusted(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


async def presented(address: str, context: ssl.SSLContext) -> bytes | None:
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return bytes(found) if found else None


async def test_a_renewed_certificate_is_shown_to_who_comes_later(tmp_path: Path) -> None:
    files = Certificates(tmp_path)
    tls = ServerTls(str(files.certificate), str(files.key))
    async with serving(web.Application(), "127.0.0.1:0", tls.context) as address:
        first = await presented(address, files.trusted())
        tls.refresh()
        assert await presented(address, files.trusted()) == first
        files.renew()
        tls.refresh()
        second = await presented(address, files.trusted())
        assert second not in (first, None)


async def test_a_renewal_that_cannot_be_used_leaves_the_old_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = Certificates(tmp_path)
    tls = ServerTls(str(files.certificate), str(files.key))
    async with serving(web.Application(), "127.0.0.1:0", tls.context) as address:
        first = await presented(address, files.trusted())
        files.key.write_text("half a file")
        with caplog.at_level(logging.ERROR):
            tls.refresh()
        assert await presented(address, files.trusted()) == first
    assert "tls.not-renewed" in [record.message for record in caplog.records]


@pytest.mark.parametrize("broken", ["certificate", "key", "both"])
def test_files_that_do_not_fit_are_named(tmp_path: Path, broken: str) -> None:
    files, others = Certificates(tmp_path), tmp_path / "others"
    others.mkdir()
    other = Certificates(others)
    match broken:
        case "certificate":
            files.certificate.unlink()
        case "key":
            files.key.write_text("no key")
        case _:
            files.key.write_bytes(other.key.read_bytes())
    with pytest.raises(
        BadInputError, match=r"tls_certificate_file '.*tls.crt' and tls_key_file '.*tls.key' cannot be used: .+"
    ):
        ServerTls(str(files.certificate), str(files.key))


# -- the other container --------------------------------------------------------------------------------------------------


def part() -> Part:
    return Part(cache=overviews.EVERYTHING.cache, events=overviews.EVERYTHING.events)


async def test_the_other_container_is_asked_over_its_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.sock")
    async with told_to_peer(path, part):
        assert await Peer(path).part() == part()
        assert (tmp_path / "cache.sock").stat().st_mode & 0o777 == 0o600


async def test_one_that_is_away_is_missing_since_then_and_found_again(tmp_path: Path) -> None:
    path, now = str(tmp_path / "cache.sock"), [100.0]
    peer = Peer(path, lambda: now[0])
    away = await peer.part()
    now[0] = 160.0
    still = await peer.part()
    assert (bool(away.missing), away.missing_since, still.missing_since) == (True, 100.0, 100.0)
    async with told_to_peer(path, part):
        assert (await peer.part()).missing == ""
    now[0] = 200.0
    assert (await peer.part()).missing_since == 200.0


async def test_a_socket_that_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cache.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert (await Peer(str(path)).part()).missing
    async with told_to_peer(str(path), part):
        assert await Peer(str(path)).part() == part()


async def test_one_that_hangs_is_waited_for_a_second_only(tmp_path: Path) -> None:
    ending = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ending.wait()
        writer.close()
        await writer.wait_closed()
        ending.clear()

    path = str(tmp_path / "cache.sock")
    server = await asyncio.start_unix_server(silent, path)
    try:
        began = asyncio.get_running_loop().time()
        assert "within 1 s" in (await Peer(path).part()).missing
        assert asyncio.get_running_loop().time() - began < 3
    finally:
        ending.set()
        server.close()
        while ending.is_set():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"events": 3}', b"\xff\xff"], ids=repr)
async def test_one_that_talks_nonsense_is_as_good_as_away(tmp_path: Path, body: bytes) -> None:
    async def nonsense(_: web.Request) -> web.Response:
        return web.Response(body=body)

    app = web.Application()
    app.add_routes([web.get("/part", nonsense)])
    runner = web.AppRunner(app)
    await runner.setup()
    path = str(tmp_path / "cache.sock")
    try:
        await web.UnixSite(runner, path).start()
        assert (await Peer(path).part()).missing
    finally:
        await runner.cleanup()


async def test_without_a_socket_the_setting_is_named() -> None:
    assert "status_socket" in (await Peer("").part()).missing
