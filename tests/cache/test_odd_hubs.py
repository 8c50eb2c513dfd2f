"""Repositories that no honest author would publish, through the real fetching process."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from agent.adapters.hub_cache import disk_use
from agent.model.cache import FailureKind
from agent.model.catalog import CatalogModel
from agent.observe.cache import observe_model
from hack.hub.content import Access, ServedFile, ServedModel, model_of
from hack.hub.oddities import HOSTILE_NAMES, hostile_model, huge_model, many_files_model, small_file
from hack.hub.server import Hub
from tests.fakes.fetching import Fetching
from tests.fakes.hub import QUICK, published_files

ODD = CatalogModel("odd", "odd/odd")


def tree(top: Path) -> dict[str, tuple[int, int]]:
    """Every path below ``top``, with what changes when it is written."""
    return {str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in top.rglob("*")}


def fetching(hub: Hub, cache: Path) -> Fetching:
    return Fetching(cache, hub.url, ODD, QUICK)


def asked_for_files(hub: Hub) -> list[str]:
    return [line for line in hub.counters.request_lines if not line.startswith("GET hub/api/")]


async def test_of_many_small_files_none_is_left_out(tmp_path: Path, cache: Path) -> None:
    """`python -m hack.bench.hub_faults --many` does it with 10,000."""
    many = many_files_model(ODD.repository, tmp_path / "many", 1000)
    async with Hub({ODD.repository: many}, page_entries=300) as hub:
        assert await fetching(hub, cache).run()
        assert hub.counters.body_bytes == sum(file.size_bytes for file in many.files.values())
    assert published_files(cache, ODD.repository).keys() == many.files.keys()
    assert observe_model(cache, ODD).complete


async def test_60_gb_over_the_budget_are_refused_before_the_first_byte(tmp_path: Path, cache: Path) -> None:
    async with Hub({ODD.repository: huge_model(ODD.repository, tmp_path / "huge")}) as hub:
        client = fetching(hub, cache)
        client.limits = replace(QUICK, allowance_bytes=50 * 10**9)
        assert not await client.run()
        assert asked_for_files(hub) == []
    (ended,) = client.ended
    assert ended.failure is not None
    assert (ended.failure.kind, ended.failure.reason in {"budget", "no-space"}) == (FailureKind.REFUSED, True)
    assert ended.failure.message.startswith("60000000002 bytes are needed")
    assert disk_use(cache).used_bytes == 0


async def test_a_hostile_hub_writes_nothing_at_all(tmp_path: Path, cache: Path) -> None:
    hostile = hostile_model(ODD.repository, tmp_path / "hostile")
    before = tree(tmp_path)
    async with Hub({ODD.repository: hostile}) as hub:
        client = fetching(hub, cache)
        assert not await client.run()
        assert asked_for_files(hub) == []
    assert tree(tmp_path) == before
    assert "/etc/outside.json" not in tree(Path("/etc"))
    (ended,) = client.ended
    assert ended.failure is not None
    assert (ended.failure.kind, ended.failure.reason) == (FailureKind.REFUSED, "unusable-name")
    assert any(repr(name)[:80] in ended.failure.message for name in HOSTILE_NAMES)


@pytest.mark.parametrize("sha256", ["../../../../outside", "/etc/outside", "0" * 64 + "/../../outside"])
async def test_a_hash_cannot_lead_out_of_the_cache(sha256: str, tmp_path: Path, cache: Path) -> None:
    """It would become the blob's name."""
    lured = replace(_file(tmp_path / "content"), sha256=sha256)
    before = tree(tmp_path)
    async with Hub({ODD.repository: _model({"model.safetensors": lured})}) as hub:
        client = fetching(hub, cache)
        assert not await client.run()
        assert asked_for_files(hub) == []
    assert tree(tmp_path) == before
    assert client.ended[0].failure is not None
    assert "no usable hash or size for 'model.safetensors'" in client.ended[0].failure.message


async def test_a_commit_cannot_lead_out_of_the_cache(tmp_path: Path, cache: Path) -> None:
    """It would become the snapshot's name."""
    lured = replace(_model({"config.json": _file(tmp_path / "content")}), commit="../../../outside")
    before = tree(tmp_path)
    async with Hub({ODD.repository: lured}) as hub:
        client = fetching(hub, cache)
        assert not await client.run()
    assert tree(tmp_path) == before
    assert client.ended[0].failure is not None
    assert "gave '../../../outside' as the commit" in client.ended[0].failure.message


async def test_names_that_only_look_alike_are_two_files(tmp_path: Path, cache: Path) -> None:
    """Composed and decomposed letters, in names as long as a file system takes them."""
    names = [unicodedata.normalize(form, "é" * 60) + ".json" for form in ("NFC", "NFD")]
    names += ["-rf.json", "模型/権重 💾.json", "a\\b.json", "x" * 250 + ".json"]
    files = {name: _file(tmp_path / f"content-{number}", number) for number, name in enumerate(names)}
    async with Hub({ODD.repository: _model(files)}) as hub:
        assert await fetching(hub, cache).run()
    found = published_files(cache, ODD.repository)
    assert found.keys() == set(names)
    assert len(set(found.values())) == len(names)


async def test_a_file_cannot_be_a_folder_too(tmp_path: Path, cache: Path) -> None:
    """No snapshot can hold both."""
    file = _file(tmp_path / "content")
    before = tree(tmp_path)
    async with Hub({ODD.repository: _model({"a/b.json": file, "a/b.json/c/d.json": file, "e.json": file})}) as hub:
        client = fetching(hub, cache)
        assert not await client.run()
    assert tree(tmp_path) == before
    assert client.ended[0].failure is not None
    assert client.ended[0].failure.reason == "unusable-name"
    assert "the hub lists a file name that is a folder too: 'a/b.json'" in client.ended[0].failure.message


def _file(source: Path, number: int = 0) -> ServedFile:
    return small_file(source, b'{"number": %d}' % number)


def _model(files: dict[str, ServedFile]) -> ServedModel:
    return model_of(files, ODD.repository, Access.PUBLIC)
