"""What the hub serves: folders read as one commit of a model repository."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

# Files that a repository keeps in LFS whatever their size, as the usual .gitattributes does; others go by size.
_LFS_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".onnx", ".gguf", ".h5", ".msgpack", ".ot"})
_LFS_FROM_BYTES = 10 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024


class Access(StrEnum):
    """Who may read a model. The listing of a gated model is public, its files are not."""

    PUBLIC = "public"
    PRIVATE = "private"
    GATED = "gated"


@dataclass(frozen=True, slots=True)
class ServedFile:
    """One file of a model. ``git_oid`` is what git stores: of an LFS file, the object id of its pointer."""

    path: str
    source: Path
    size_bytes: int
    git_oid: str
    sha256: str | None

    @property
    def etag(self) -> str:
        return self.sha256 or self.git_oid

    def tree_entry(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "oid": self.git_oid, "size": self.size_bytes, "path": self.path}
        if self.sha256 is not None:
            pointer_bytes = len(_lfs_pointer(self.sha256, self.size_bytes))
            entry["lfs"] = {"oid": self.sha256, "size": self.size_bytes, "pointerSize": pointer_bytes}
        return entry


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One commit of one repository; its id follows from its content, so a changed folder is a new commit."""

    repository: str
    files: Mapping[str, ServedFile]
    commit: str
    access: Access

    def file_with_etag(self, etag: str) -> ServedFile | None:
        return next((file for file in self.files.values() if file.etag == etag), None)


def read_model(repository: str, folder: Path, access: Access = Access.PUBLIC) -> ServedModel:
    """Hash every file below ``folder``; reads it whole, so it takes about a second per GB."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    return model_of({name: _served(name, path) for name, path in files.items()}, repository, access)


def model_of(files: Mapping[str, ServedFile], repository: str, access: Access) -> ServedModel:
    """A model made of the given files, under whatever names the mapping gives them (a hostile hub's too)."""
    lines = "".join(f"{name} {file.size_bytes} {file.etag}\n" for name, file in sorted(files.items()))
    commit = hashlib.sha1(f"{repository}\n{lines}".encode(errors="surrogatepass")).hexdigest()
    return ServedModel(repository, files, commit, access)


def _served(name: str, source: Path) -> ServedFile:
    size = source.stat().st_size
    if size < _LFS_FROM_BYTES and source.suffix not in _LFS_SUFFIXES:
        return ServedFile(name, source, size, _git_oid(source.read_bytes()), None)
    digest = hashlib.sha256()
    with source.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    sha256 = digest.hexdigest()
    return ServedFile(name, source, size, _git_oid(_lfs_pointer(sha256, size)), sha256)


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _lfs_pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
