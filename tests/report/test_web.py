"""The page over HTTP: who is let in, what a stream sends, and that no viewer holds up the agent."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.adapters.files import token_reader
from agent.model.cache import ModelState
from agent.model.overview import Away, Share
from agent.report.access import with_token
from agent.report.exposition import application, serving
from agent.report.latest import Latest
from agent.report.looking import Looking
from agent.report.overview import Home
from agent.report.page.document import POLICY
from agent.report.web import MOST_STREAMS, add_page
from tests.report import world

HOME = Home("gpu-1", "1.2.3", "all", 600.0)


@dataclass(slots=True)
class Other:
    """The other container, which counts how often it is asked."""

    answer: Share | Away | None = None
    asked: int = 0

    async def __call__(self) -> Share | Away | None:
        self.asked += 1
        return self.answer


@dataclass(slots=True)
class Served:
    """A running page."""

    url: str
    latest: Latest
    other: Other
    session: aiohttp.ClientSession

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        async with self.session.get(self.url + path, headers=headers) as answer:
            return answer.status, await answer.text()

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self.session.get(f"{self.url}/api/v1/events") as answer:
            yield answer


@dataclass(slots=True)
class Setting:
    token: Callable[[], str | None] | None = None
    other: Other = field(default_factory=Other)


@asynccontextmanager
async def page_served(setting: Setting | None = None) -> AsyncIterator[Served]:
    chosen = setting or Setting()
    latest = Latest(lambda: None, lambda: (), time.time)
    app = application(lambda _: (b"metrics", "text/plain"), lambda: (), lambda: ())
    if chosen.token is not None:
        app.middlewares.append(with_token(chosen.token))
    add_page(app, Looking(latest, HOME, chosen.other, time.monotonic))
    async with aiohttp.ClientSession() as session, serving(app, "127.0.0.1:0") as address:
        yield Served(f"http://{address}", latest, chosen.other, session)


async def message(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """The next one of a stream."""
    async with asyncio.timeout(10):
        while not (line := await answer.content.readline()).startswith(b"data: "):
            assert line
        found: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
        return found


async def until(holds: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while True:
            found = holds()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.02)


async def test_the_page_goes_with_its_policy_and_is_kept_by_nobody() -> None:
    async with page_served() as served, served.session.get(served.url) as answer:
        assert (answer.status, answer.content_type) == (200, "text/html")
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "<h1>gpu-1</h1>" in await answer.text()


async def test_the_same_is_served_as_json_with_its_schema() -> None:
    async with page_served() as served:
        served.latest.partition(world.report())
        _, text = await served.get("/api/v1/status")
        assert json.loads(text)["partition"]["layout"]["layout"] == "all-1g.10gb"
        _, text = await served.get("/api/v1/schema")
        assert json.loads(text)["$ref"] == "#/$defs/Overview"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/api/v1/status", "/api/v1/events", "/metrics"])
async def test_nothing_can_be_done_by_the_page(method: str, path: str) -> None:
    async with page_served() as served, served.session.request(method, served.url + path) as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD")


@pytest.mark.parametrize("path", ["/", "/api/v1/status", "/api/v1/events", "/metrics"])
async def test_a_head_is_answered_at_once_and_without_a_body(path: str) -> None:
    async with page_served() as served, served.session.head(served.url + path) as answer:
        assert (answer.status, await answer.read()) == (200, b"")


async def test_nothing_is_asked_or_made_while_nobody_looks() -> None:
    async with page_served() as served:
        for _ in range(5):
            served.latest.partition(world.report())
            await asyncio.sleep(0.02)
        assert served.other.asked == 0


async def test_one_view_is_shared_by_all_who_come_together() -> None:
    async with page_served() as served:
        await asyncio.gather(*(served.get(path) for path in ("/", "/api/v1/status") * 20))
        assert served.other.asked <= 2


async def test_a_stream_sends_all_parts_first_and_then_what_changed() -> None:
    async with page_served() as served, served.stream() as stream:
        assert set((await message(stream))["parts"]) == {"status", "change", "gpus", "models", "events"}
        served.latest.cache(world.cached())
        assert set((await message(stream))["parts"]) == {"status", "models"}


async def test_a_stream_sends_what_the_other_container_says_too() -> None:
    """Which says it to nobody: it is asked while somebody looks."""
    other = Other(Away("nobody listens", 1.0))
    async with page_served(Setting(other=other)) as served, served.stream() as stream:
        await message(stream)
        other.answer = Share("1", (), None, ())
        async with asyncio.timeout(5):
            await until(lambda: other.asked >= 2)


async def test_many_viewers_see_the_same_and_one_too_many_is_told_to_come_later() -> None:
    async with page_served() as served, contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(served.stream()) for _ in range(MOST_STREAMS)]
        first = await asyncio.gather(*map(message, streams))
        assert all(one["parts"] == first[0]["parts"] for one in first)
        async with served.stream() as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
        assert (await served.get("/"))[0] == 200
        streams[0].close()

        async def there_is_room() -> bool:
            async with served.stream() as again:
                return again.status == 200

        await until(there_is_room)


async def test_a_viewer_that_reads_nothing_holds_up_nobody_and_has_no_queue() -> None:
    """Megabytes more than its connection takes: the agent answers others meanwhile, and cuts it off at once when it ends."""
    async with page_served() as served:
        host, _, port = served.url.removeprefix("http://").rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=2**10)
        writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: gpu-1\r\n\r\n")
        model = world.cached().models[0]
        for number in range(8):
            failed = replace(model, state=ModelState.FAILED, message=f"{number}" + "x" * 4_000_000)
            served.latest.cache(replace(world.cached(), models=(failed,)))
            await asyncio.sleep(0.6)  # longer than a view is shared
            began = time.monotonic()
            assert await served.get("/healthz") == (200, "ok\n")
            assert time.monotonic() - began < 5
        began = time.monotonic()
    assert time.monotonic() - began < 1.5
    writer.close()


async def test_streams_end_at_once_when_the_agent_does() -> None:
    async with aiohttp.ClientSession() as session:
        async with page_served() as served:
            streams = [await session.get(f"{served.url}/api/v1/events") for _ in range(3)]
            for stream in streams:
                await message(stream)
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 1
        for stream in streams:
            assert (await stream.content.read()).strip() == b""


def basic(token: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{token}".encode()).decode()


async def test_without_the_token_only_the_kubelet_is_answered(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("se:cret\n")
    read = token_reader(str(file), None)
    async with page_served(Setting(token=lambda: read(None))) as served:
        for path in ("/", "/api/v1/status", "/api/v1/events", "/api/v1/schema", "/metrics", "/no-such-page"):
            assert (await served.get(path))[0] == 401, path
        for path in ("/healthz", "/readyz"):
            assert await served.get(path) == (200, "ok\n")
        for good in ("Bearer se:cret", "bearer se:cret", basic("se:cret")):
            assert (await served.get("/", Authorization=good))[0] == 200
        for bad in ("Bearer other", basic("other"), "Basic %%%", "Bearer", "se:cret", "Digest se:cret", "Bearer sé"):
            assert (await served.get("/", Authorization=bad))[0] == 401
        async with served.session.get(served.url) as answer:
            kinds = [value.split()[0] for value in answer.headers.getall("WWW-Authenticate")]
            assert kinds == ["Basic", "Bearer"]


async def test_a_renewed_token_counts_at_once_and_none_lets_nobody_in(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    read = token_reader(str(file), None)
    async with page_served(Setting(token=lambda: read(None))) as served:
        file.write_text("second")
        assert [(await served.get("/", Authorization=f"Bearer {one}"))[0] for one in ("first", "second")] == [401, 200]
        file.write_text("")
        assert (await served.get("/", Authorization="Bearer "))[0] == 401
        file.unlink()
        assert (await served.get("/", Authorization="Bearer second"))[0] == 401
