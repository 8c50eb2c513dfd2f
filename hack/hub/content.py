"""What the hub serves: folders read as one commit of a model repository."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hack.hub.git import blob_oid, lfs_pointer, tree_oid

# Files that a repository keeps in LFS whatever their size, as the usual .gitattributes does; others go by size.
_LFS_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".onnx", ".gguf", ".h5", ".msgpack", ".ot"})
_LFS_FROM_BYTES = 10 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024


class Access(StrEnum):
    """Who may read a model. The listing of a gated model is public, its files are not; of a disabled one, nothing is."""

    PUBLIC = "public"
    PRIVATE = "private"
    GATED = "gated"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class ServedFile:
    """One file of a model. ``git_oid`` is what git stores: of an LFS file, the object id of its pointer.

    ``xet_hash`` (64 hex digits) is the file's name in a Xet store, where it is kept in one too.
    """

    path: str
    source: Path
    size_bytes: int
    git_oid: str
    sha256: str | None
    xet_hash: str | None = None

    @property
    def etag(self) -> str:
        return self.sha256 or self.git_oid

    def in_git(self) -> bytes:
        """The content that git has: the pointer of an LFS file, else the file."""
        return self.source.read_bytes() if self.sha256 is None else lfs_pointer(self.sha256, self.size_bytes)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One commit of one repository; its id follows from its content, so a changed folder is a new commit."""

    repository: str
    files: Mapping[str, ServedFile]
    commit: str
    access: Access

    def file_with_etag(self, etag: str) -> ServedFile | None:
        return next((file for file in self.files.values() if file.etag == etag), None)

    def folders(self) -> dict[str, str]:
        """Path and git id of every folder below the root."""
        contents: dict[str, list[tuple[str, str, bool]]] = {}
        for path, file in self.files.items():
            contents.setdefault(_parent(path), []).append((path.rpartition("/")[2], file.git_oid, False))
            for folder in _ancestors(path):
                contents.setdefault(folder, [])
        found: dict[str, str] = {}
        for folder in sorted((f for f in contents if f), key=lambda f: -f.count("/")):
            found[folder] = tree_oid(contents[folder])
            contents.setdefault(_parent(folder), []).append((folder.rpartition("/")[2], found[folder], True))
        return found


def read_model(
    repository: str, folder: Path, access: Access = Access.PUBLIC, xet: Callable[[Path, str], str] | None = None
) -> ServedModel:
    """Hash every file below ``folder``; reads it whole, so it takes about a second per GB.

    ``xet`` puts a file with its sha256 into a Xet store and returns its name there; it is given every LFS file.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    return model_of({name: _served(name, path, xet) for name, path in files.items()}, repository, access)


def model_of(files: Mapping[str, ServedFile], repository: str, access: Access) -> ServedModel:
    """A model made of the given files, under whatever names the mapping gives them (a hostile hub's too)."""
    lines = "".join(f"{name} {file.size_bytes} {file.etag}\n" for name, file in sorted(files.items()))
    commit = hashlib.sha1(f"{repository}\n{lines}".encode(errors="surrogatepass")).hexdigest()
    return ServedModel(repository, files, commit, access)


def _served(name: str, source: Path, xet: Callable[[Path, str], str] | None) -> ServedFile:
    size = source.stat().st_size
    if size < _LFS_FROM_BYTES and source.suffix not in _LFS_SUFFIXES:
        return ServedFile(name, source, size, blob_oid(source.read_bytes()), None)
    digest = hashlib.sha256()
    with source.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    sha256 = digest.hexdigest()
    xet_hash = xet(source, sha256) if xet is not None else None
    return ServedFile(name, source, size, blob_oid(lfs_pointer(sha256, size)), sha256, xet_hash)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _ancestors(path: str) -> list[str]:
    """The folders above ``path``, the nearest first."""
    above = []
    while path := _parent(path):
        above.append(path)
    return above
