"""Programs of others run on the local hub unchanged: huggingface_hub with and without Xet, hf, curl, aria2c, olah.

aria2c and olah come from where hack.hub.third_parties finds or puts them. Where a program is not to be had its tests are
skipped, and fail where tools are required (CI=true, or WARMSLICE_REQUIRE_TOOLS=1).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from huggingface_hub import close_session

from hack.hub.content import Access, ServedFile, model_of, read_model
from hack.hub.mirror import running_olah
from hack.hub.server import Hub
from hack.hub.third_parties import NotToBeHadError, aria2c, olah
from hack.hub.xet import XetStore
from tests.fakes.hub import (
    REPOSITORY,
    WANTED_OF_TINY,
    fetch,
    order_for,
    published_files,
    served_files,
    tiny_model,
    write_files,
)
from tests.fakes.hub_client import ask
from tests.fakes.programs import found_program, missing

HF = Path(sys.executable).with_name("hf")
SIZE = 3_000_000


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    said: str


async def run(*command: str | Path, **environment: str) -> Ended:
    """Run to its end, at most a minute; what it said is stdout and stderr together."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=PIPE, stderr=STDOUT, env={**os.environ, **environment}
    )
    try:
        async with asyncio.timeout(60):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Ended(process.returncode, said.decode(errors="replace"))


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with Hub({REPOSITORY: tiny_model(tmp_path / "tiny", weights_bytes=SIZE)}) as running:
        yield running
        close_session()


@pytest.fixture
def weights(hub: Hub) -> ServedFile:
    return hub.models[REPOSITORY].files["model.safetensors"]


def _url(hub: Hub) -> str:
    return f"{hub.url}/{REPOSITORY}/resolve/main/model.safetensors"


class TestHuggingfaceHub:
    """In processes of its own: the library reads its environment when it is imported."""

    @pytest.fixture
    def home(self, hub: Hub, tmp_path: Path) -> dict[str, str]:
        xet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), **xet}

    async def test_hf_downloads_and_verifies(self, hub: Hub, home: dict[str, str], tmp_path: Path) -> None:
        assert (await run(HF, "download", REPOSITORY, **home)).code == 0
        cache = tmp_path / "home" / "hub"
        assert published_files(cache) == served_files(hub.models[REPOSITORY], hub.models[REPOSITORY].files)
        verified = await run(HF, "cache", "verify", REPOSITORY, "--fail-on-missing-files", **home)
        assert (verified.code, f"{len(hub.models[REPOSITORY].files)} file(s)" in verified.said) == (0, True)

    async def test_hf_keeps_wrong_bytes_and_finds_them_only_when_it_verifies(
        self, hub: Hub, home: dict[str, str]
    ) -> None:
        hub.faults.add("GET cdn/.*safetensors", "wrong-bytes")
        assert (await run(HF, "download", REPOSITORY, **home)).code == 0
        verified = await run(HF, "cache", "verify", REPOSITORY, **home)
        assert (verified.code, "model.safetensors: expected" in verified.said) == (1, True)

    async def test_a_model_fetched_by_the_agent_passes_hf_verification(
        self, hub: Hub, home: dict[str, str], tmp_path: Path
    ) -> None:
        cache = tmp_path / "home" / "hub"
        await fetch(order_for(hub, cache))
        verified = await run(HF, "cache", "verify", REPOSITORY, **home)
        assert (verified.code, f"{len(WANTED_OF_TINY)} file(s)" in verified.said) == (0, True)

    async def test_a_token_opens_a_private_model(self, hub: Hub, home: dict[str, str], tmp_path: Path) -> None:
        hub.add(tiny_model(tmp_path / "own", repository="acme/own", weights_bytes=10, access=Access.PRIVATE))
        hub.tokens["member"] = frozenset({"acme/own"})
        refused = await run(HF, "download", "acme/own", **home)
        assert (refused.code != 0, "not found" in refused.said.lower()) == (True, True)
        assert (await run(HF, "download", "acme/own", **home, HF_TOKEN="member")).code == 0
        assert "developer" in (await run(HF, "auth", "whoami", **home, HF_TOKEN="member")).said


class TestXet:
    """Bytes by hf-xet itself, out of a store in a folder."""

    @pytest.fixture
    async def hub(self, tmp_path: Path) -> AsyncIterator[Hub]:
        store = XetStore(tmp_path / "store")
        write_files(tmp_path / "tiny", {"model.safetensors": SIZE, "config.json": 500})
        model = read_model(REPOSITORY, tmp_path / "tiny", xet=store.put)
        async with Hub({REPOSITORY: model}, xet=store) as running:
            yield running
            close_session()

    @pytest.fixture
    def home(self, hub: Hub, tmp_path: Path) -> dict[str, str]:
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "0"}
        return environment | {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_XET_HIGH_PERFORMANCE": "0"}

    async def test_a_file_in_the_store_comes_from_there_and_not_through_the_redirect(
        self, hub: Hub, home: dict[str, str], tmp_path: Path
    ) -> None:
        ended = await run(HF, "download", REPOSITORY, **home)
        assert (ended.code, hub.counters.requests["GET cdn"]) == (0, 0)
        assert any("/xet-read-token/" in line for line in hub.counters.request_lines)
        assert published_files(tmp_path / "home" / "hub") == served_files(hub.models[REPOSITORY], _names(hub))
        assert (await run(HF, "cache", "verify", REPOSITORY, **home)).code == 0

    async def test_the_same_file_comes_by_ranges_for_those_who_do_not_speak_xet(
        self, hub: Hub, home: dict[str, str], tmp_path: Path
    ) -> None:
        ended = await run(HF, "download", REPOSITORY, **{**home, "HF_HUB_DISABLE_XET": "1"})
        assert (ended.code, hub.counters.requests["GET cdn"]) == (0, 1)
        assert published_files(tmp_path / "home" / "hub") == served_files(hub.models[REPOSITORY], _names(hub))

    async def test_wrong_bytes_of_the_right_length_in_the_store_are_not_noticed_by_the_client(
        self, hub: Hub, home: dict[str, str], tmp_path: Path
    ) -> None:
        """So verifying is left to whoever fetches by Xet."""
        assert hub.xet is not None
        other = tmp_path / "other.safetensors"
        other.write_bytes(bytes(SIZE))
        weights = hub.models[REPOSITORY].files["model.safetensors"]
        wrong = replace(weights, xet_hash=hub.xet.put(other, "0" * 64))
        hub.add(model_of({"model.safetensors": wrong}, REPOSITORY, Access.PUBLIC))
        assert (await run(HF, "download", REPOSITORY, **home)).code == 0
        assert (await run(HF, "cache", "verify", REPOSITORY, **home)).code == 1


def _names(hub: Hub) -> list[str]:
    return list(hub.models[REPOSITORY].files)


class TestCurl:
    @pytest.fixture
    def curl(self) -> str:
        return shutil.which("curl") or str(missing("curl is not installed"))

    async def test_curl_goes_along_the_redirect(self, curl: str, hub: Hub, tmp_path: Path, weights: ServedFile) -> None:
        ended = await run(curl, "-sSfL", "-o", tmp_path / "got", _url(hub))
        assert ended == Ended(0, "")
        assert (tmp_path / "got").read_bytes() == weights.source.read_bytes()

    async def test_curl_goes_on_where_it_was_cut_off(
        self, curl: str, hub: Hub, tmp_path: Path, weights: ServedFile
    ) -> None:
        hub.faults.add("GET cdn/", "truncate", after_bytes=1_000_000, times=1)
        assert (await run(curl, "-sL", "-o", tmp_path / "got", _url(hub))).code == 18  # a partial file
        hub.counters.reset()
        assert (await run(curl, "-sL", "-C", "-", "-o", tmp_path / "got", _url(hub))).code == 0
        assert (tmp_path / "got").read_bytes() == weights.source.read_bytes()
        assert hub.counters.body_bytes == SIZE - 1_000_000

    async def test_curl_waits_as_long_as_it_is_told(self, curl: str, hub: Hub, tmp_path: Path) -> None:
        hub.faults.add("GET cdn/", "status", status=429, retry_after_seconds=1, times=1)
        started = asyncio.get_running_loop().time()
        assert (await run(curl, "-sSfL", "--retry", "1", "-o", tmp_path / "got", _url(hub))).code == 0
        assert asyncio.get_running_loop().time() - started >= 1.0

    async def test_curl_sees_that_a_redirect_has_no_end(self, curl: str, hub: Hub) -> None:
        hub.faults.add("GET hub/", "redirect")
        assert (await run(curl, "-sL", _url(hub))).code == 47  # too many redirects


class TestAria2:
    @pytest.fixture
    async def aria2(self) -> Path:
        return await found_program(aria2c)

    async def test_aria2_takes_one_file_by_several_connections_and_finds_its_hash(
        self, aria2: Path, hub: Hub, tmp_path: Path, weights: ServedFile
    ) -> None:
        hub.throttle.connection_bytes_per_second = 2_000_000  # without it one connection is done before others start
        ended = await run(aria2, *_aria2_options(tmp_path), f"--checksum=sha-256={weights.sha256}", _url(hub))
        assert ended.code == 0, ended.said
        assert (tmp_path / "got").read_bytes() == weights.source.read_bytes()
        assert hub.counters.requests["GET cdn"] > 1
        assert hub.counters.body_bytes < 2 * SIZE

    async def test_aria2_sees_wrong_bytes_where_it_is_told_the_hash(
        self, aria2: Path, hub: Hub, tmp_path: Path, weights: ServedFile
    ) -> None:
        hub.faults.add("GET cdn/", "wrong-bytes")
        ended = await run(aria2, *_aria2_options(tmp_path), f"--checksum=sha-256={weights.sha256}", _url(hub))
        assert ended.code == 32, ended.said  # checksum validation failed


def _aria2_options(folder: Path) -> list[str]:
    """Four connections; pieces of 1 MiB are the smallest that it splits into."""
    return ["-q", "--no-conf", "-x4", "-s4", "-k1M", f"--dir={folder}", "--out=got", "--file-allocation=none"]


class TestOlah:
    """olah in front of the hub: the library and the agent fetch through it, and it keeps what it has seen."""

    @pytest.fixture
    async def mirror(self, hub: Hub, tmp_path: Path) -> AsyncIterator[str]:
        server = await found_program(olah)
        async with running_olah(server, hub.url, tmp_path / "olah") as url:
            yield url

    async def test_what_it_has_seen_it_serves_itself_with_the_bytes_of_the_hub(
        self, mirror: str, hub: Hub, tmp_path: Path
    ) -> None:
        model = hub.models[REPOSITORY]
        for cache in ("first", "second"):
            home = {"HF_ENDPOINT": mirror, "HF_HOME": str(tmp_path / cache), "HF_HUB_DISABLE_XET": "1"}
            sent = hub.counters.body_bytes
            ended = await run(HF, "download", REPOSITORY, **home)
            assert ended.code == 0, ended.said
            assert published_files(tmp_path / cache / "hub") == served_files(model, model.files)
        assert (sent >= SIZE, hub.counters.body_bytes) == (True, sent)

    async def test_the_agent_fetches_through_it(self, mirror: str, hub: Hub, tmp_path: Path) -> None:
        cache = tmp_path / "cache"
        await fetch(replace(order_for(hub, cache), endpoint=mirror))
        assert published_files(cache) == served_files(hub.models[REPOSITORY], WANTED_OF_TINY)
        assert not any("warmslice" in client for client in hub.counters.by_client)

    async def test_it_passes_on_that_the_hub_asks_to_slow_down(self, mirror: str, hub: Hub) -> None:
        hub.faults.add("hub/api/", "status", status=429, retry_after_seconds=7)
        answer = await ask("GET", f"{mirror}/api/models/{REPOSITORY}/revision/main")
        assert (answer.status, answer.headers["retry-after"]) == (429, "7")


def test_without_a_package_manager_aria2_is_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotToBeHadError, match="aria2c is not installed"):
        aria2c(tmp_path / "tools")


async def test_the_hub_is_a_program_of_its_own(tmp_path: Path) -> None:
    """Started as a stranger would, and asked by a stranger's program."""
    write_files(tmp_path / "model", {"config.json": 100})
    command = [sys.executable, "-m", "hack.hub", "--model", f"acme/own={tmp_path / 'model'}", "--odd", "hostile"]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            line = (await process.stdout.readline()).decode()
        endpoint = line.split()[1]
        info = json.loads((await ask("GET", f"{endpoint}/api/models/acme/own")).body)
        assert [sibling["rfilename"] for sibling in info["siblings"]] == ["config.json"]
        assert (await ask("GET", f"{endpoint}/api/models/odd/hostile")).status == 200
    finally:
        process.terminate()
        await process.wait()
    assert process.returncode == 0
