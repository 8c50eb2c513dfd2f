"""Models that no honest author would publish, for what must be refused or must not be slow."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from hack.hub.content import Access, ServedFile, ServedModel, model_of
from hack.hub.git import blob_oid, lfs_pointer

HOSTILE_NAMES = (
    "../outside.json",
    "/etc/outside.json",
    "a/../../outside.json",
    "nul\0.json",
    "x" * 300 + ".json",
    "a//b.json",
    ".",
)
_HUGE_BYTES = 60 * 10**9
_MANY = 10_000


def hostile_model(repository: str, folder: Path) -> ServedModel:
    """A harmless file beside ones with names that lead out of a cache, or into trouble."""
    content = small_file(folder / "content.json", b"{}")
    return model_of(dict.fromkeys(("config.json", *HOSTILE_NAMES), content), repository, Access.PUBLIC)


def huge_model(repository: str, folder: Path, size_bytes: int = _HUGE_BYTES) -> ServedModel:
    """Weights of 60 GB that take no disk: a file that is one hole, so its bytes are zeros.

    Hashing it would take a minute, so the listed sha256 is made up: whoever fetches it all finds it wrong.
    """
    source = folder / "huge.safetensors"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.touch()
    os.truncate(source, size_bytes)
    sha256 = hashlib.sha256(f"{repository} {size_bytes}".encode()).hexdigest()
    weights = ServedFile("model.safetensors", source, size_bytes, blob_oid(lfs_pointer(sha256, size_bytes)), sha256)
    config = small_file(folder / "config.json", b"{}")
    return model_of({"model.safetensors": weights, "config.json": config}, repository, Access.PUBLIC)


def many_files_model(repository: str, folder: Path, count: int = _MANY) -> ServedModel:
    """``count`` small files of different content in a hundred folders."""
    names = [f"part-{number % 100:02}/{number:05}.json" for number in range(count)]
    files = {name: small_file(folder / name, f'{{"number": {i}}}'.encode()) for i, name in enumerate(names)}
    return model_of(files, repository, Access.PUBLIC)


ODDITIES: Mapping[str, Callable[[str, Path], ServedModel]] = {
    "hostile": hostile_model,
    "huge": huge_model,
    "many": many_files_model,
}


def small_file(source: Path, content: bytes) -> ServedFile:
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(content)
    return ServedFile(source.name, source, len(content), blob_oid(content), None)
