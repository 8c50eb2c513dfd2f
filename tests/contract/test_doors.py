"""What the agent's own doors make of a server, a token file, a program or a driver that misbehaves: a fault of ours, named."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from agent import VERSION
from agent.adapters import command
from agent.adapters.kube import Kube
from agent.adapters.watch import Watch
from agent.model.errors import RefusedError, RetryError
from agent.model.node import PodRef
from agent.reconcile import loop
from hack.devcluster.access.certificates import Authority
from hack.serving import Listener, bound
from tests.fakes.simgpu import SimulatedGpus

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def _server(answer: Answer) -> AsyncIterator[Kube]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = Listener(runner, bound(0))
    await site.start()
    kube = Kube(Configuration(host=site.name))
    try:
        yield kube
    finally:
        await kube.close()
        await runner.cleanup()


async def test_a_page_that_is_no_utf8_is_a_passing_fault() -> None:
    """A proxy in front of the API server speaks as it likes."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=502, body="Passerelle défectueuse".encode("latin-1"), content_type="text/html")

    async with _server(answer) as kube:
        with pytest.raises(RetryError, match="HTTP 502"):
            await kube.get("/api/v1/nodes")
        with pytest.raises(RetryError, match="HTTP 502"):
            async with kube.stream("/api/v1/nodes", {}):
                raise AssertionError


async def test_an_evicted_pod_has_the_time_that_it_asked_for() -> None:
    """Options that name no grace period leave the pod its own."""
    asked: list[object] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append((await request.json())["deleteOptions"])
        return web.json_response({"kind": "Status"}, status=201)

    async with _server(answer) as kube:
        await kube.evict(PodRef("default", "serve", "uid-1"))
    assert asked == [{"preconditions": {"uid": "uid-1"}}]


async def test_a_namespace_that_ends_is_a_passing_fault_of_its_evictions() -> None:
    """Its pods go with it; a plain 403 is somebody's mistake."""
    messages = [
        'pods "serve" is forbidden: unable to create new content in namespace x because it is being terminated',
        "no",
    ]

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "message": messages.pop(0)}, status=403)

    async with _server(answer) as kube:
        with pytest.raises(RetryError, match="being terminated"):
            await kube.evict(PodRef("default", "serve", "uid-1"))
        with pytest.raises(RefusedError):
            await kube.evict(PodRef("default", "serve", "uid-1"))


@pytest.mark.parametrize("body", [{"ok": True}, [], {"metadata": {}, "items": [{}]}], ids=str)
async def test_a_watch_outlives_answers_that_are_no_lists(body: object) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.path_qs)
        good = {"metadata": {"resourceVersion": "1"}, "items": []}
        return web.json_response(good if len(asked) > 1 else body)

    async with _server(answer) as kube:
        changed = asyncio.Event()
        running = asyncio.create_task(Watch(kube, "/api/v1/pods", "", changed.set).run())
        async with asyncio.timeout(30):
            while not changed.is_set() and not running.done():
                await asyncio.wait([running], timeout=0.05)
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()


async def test_credentials_that_cannot_be_read_now_are_a_passing_fault() -> None:
    """The kubelet swaps the token file; a moment without it must not end the agent."""

    def gone(_: object) -> None:
        raise FileNotFoundError("token")

    configuration = Configuration(host="http://127.0.0.1:1")
    configuration.api_key["BearerToken"] = "old"
    configuration.refresh_api_key_hook = gone
    kube = Kube(configuration)
    with pytest.raises(RetryError, match="no credentials"):
        await kube.get("/api/v1/nodes")
    await kube.close()


async def test_days_without_an_answer_do_not_end_the_loop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A power of two outgrows a float after a thousand failures."""
    stopping, passes = asyncio.Event(), []

    async def at_once(wake: asyncio.Event, seconds: float) -> None:
        assert seconds <= 60

    async def one_pass() -> float:
        passes.append(1)
        if len(passes) == 1200:
            stopping.set()
        raise RetryError("no answer")

    caplog.set_level("ERROR")
    monkeypatch.setattr(loop, "_wait", at_once)
    await loop.keep_passing("partition", one_pass, asyncio.Event(), stopping)
    assert len(passes) == 1200


@pytest.mark.looptime
async def test_what_stands_before_an_api_server_cannot_make_a_loop_wait_for_a_day() -> None:
    stopping, moments = asyncio.Event(), []

    async def one_pass() -> float:
        moments.append(asyncio.get_running_loop().time())
        if len(moments) == 2:
            stopping.set()
        raise RetryError("busy", after_seconds=86_400.0)

    await loop.keep_passing("partition", one_pass, asyncio.Event(), stopping)
    assert moments[1] - moments[0] <= 301


async def test_a_command_out_of_time_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    began, child = time.monotonic(), tmp_path / "child"
    with pytest.raises(RetryError, match="did not end within"):
        await command.run(["sh", "-c", f"sleep 20 & echo $! > {child}; sleep 20"], 0.5)
    assert time.monotonic() - began < 5
    await asyncio.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        _signal_unless_zombie(int(child.read_text()))


async def test_a_command_that_ended_in_time_may_leave_something_behind(tmp_path: Path) -> None:
    """A reboot that is meant to come a moment later is neither waited for nor killed."""
    child = tmp_path / "child"
    began = time.monotonic()
    code, output = await command.run(["sh", "-c", f"sleep 20 & echo $! > {child}; echo on its way"], 10.0)
    assert (code, output, time.monotonic() - began < 5) == (0, "on its way", True)
    _signal_unless_zombie(int(child.read_text()))
    os.kill(int(child.read_text()), signal.SIGKILL)


async def test_of_a_long_output_the_last_is_kept() -> None:
    _, output = await command.run(["sh", "-c", "seq 100000; echo the reason"], 10.0)
    assert output.endswith("99999\n100000\nthe reason")
    assert len(output) <= 500


def _signal_unless_zombie(pid: int) -> None:
    """Raises ProcessLookupError for a process that has ended, whoever has to reap it."""
    os.kill(pid, 0)
    if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
        raise ProcessLookupError


async def test_a_session_that_cannot_be_closed_is_as_good_as_closed(tmp_path: Path) -> None:
    gpus = SimulatedGpus.create(tmp_path)
    gpus.run("fault", "add", "--function", "nvmlShutdown", "--code", "UNKNOWN", "--count", "1")
    program = (
        "import asyncio\n"
        "from agent.adapters.nvml import Hardware\n"
        "async def main():\n"
        "    hardware = Hardware()\n"
        "    await hardware.read(); await hardware.release()\n"
        "    print(len(await hardware.read()))\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env={**os.environ, **gpus.env()}, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert (process.returncode, output.strip()) == (0, b"1")


def test_of_the_client_library_nothing_comes_along_that_an_agent_in_a_pod_does_not_use() -> None:
    """18 MB of memory in each process."""
    unused = ["requests", "oauthlib", "urllib3", "kubernetes.config", "kubernetes.aio.dynamic", "kubernetes.aio.stream"]
    unused += ["pydantic", "kubernetes.aio.client.api_client", "kubernetes.aio.config.kube_config"]
    script = f"import sys, agent.daemon; print([name for name in {unused} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_agent_holds_no_authorities_of_this_machine_and_who_fetches_models_does(tmp_path: Path) -> None:
    """2.5 MB in each process; the environment, which children get, is as it was."""
    (tmp_path / "authority.pem").write_text(Authority().pem)
    environment = {**os.environ, "SSL_CERT_FILE": str(tmp_path / "authority.pem"), "SSL_CERT_DIR": os.devnull}
    held = "aiohttp.connector._SSL_CONTEXT_VERIFIED.cert_store_stats()['x509'], os.environ['SSL_CERT_FILE']"
    for module, count in (("agent.daemon", "0"), ("agent.execute.fetcher", "1")):
        script = f"import {module}, os, aiohttp.connector; print({held})"
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.split() == [count, environment["SSL_CERT_FILE"]]


def test_the_version_is_the_packages() -> None:
    assert version("warmslice") == VERSION


@pytest.mark.parametrize(("role", "others"), [("cache", "pynvml"), ("partition", "agent.cache_role")])
def test_one_role_imports_nothing_of_the_other(role: str, others: str) -> None:
    """Two containers run one role each, and what both have is paid twice on every node."""
    script = (
        "import sys; from agent.daemon import run; from agent.settings import load\n"
        f"settings = load('/dev/null', {{'KUBECONFIG': ''}}, {{'node_name': 'n', 'role': '{role}', 'kubeconfig': '/nowhere'}})\n"
        f"try: run(settings)\nexcept Exception as error: print(type(error).__name__, '{others}' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["BadInputError", "False"]
