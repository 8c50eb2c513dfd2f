"""A hub cache on another file system (an NFS or PVC mount) as a source of models: ``file:///mnt/models``.

Its blobs have their hashes as names, so what comes from there is checked as what comes from a hub. The names are believed as a
hub's listing is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from agent.adapters.hub_cache import ModelFolder, read_listing_of_the_client
from agent.model.cache import FailureKind, FetchEndedError, FetchFaultError
from agent.model.catalog import Listing, RepositoryFile, unusable_path

_COMMIT = re.compile(r"[0-9a-f]{40}")
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def is_shared(endpoint: str | None) -> bool:
    """Whether an endpoint names a folder instead of a hub."""
    return endpoint is not None and endpoint.startswith("file:///")


class SharedCache:
    """One repository in it. Errors are FetchFaultError (try again: the mount may come back) and FetchEndedError (do not)."""

    def __init__(self, repository: str, endpoint: str) -> None:
        self._folder = ModelFolder(Path(unquote(urlsplit(endpoint).path)), repository)

    def resolve(self, revision: str) -> str:
        """As the hub's: the commit that the ref names."""
        if _COMMIT.fullmatch(revision):
            return revision
        with _our_errors():
            self._look()
            try:
                commit = self._folder.ref(revision).read_text("ascii").strip()
            except FileNotFoundError:
                message = f"{self._folder.root} has no revision {revision!r}: name a ref or a commit that is there"
                raise FetchEndedError("no-revision", message, FailureKind.REFUSED) from None
        if not _COMMIT.fullmatch(commit):
            raise FetchEndedError("hub-answer", f"ref {revision!r} of {self._folder.root} is no commit")
        return commit

    def listing(self, commit: str) -> Listing:
        """All files of the commit where the hub's client has left its list of them, else those of the snapshot."""
        with _our_errors():
            self._look()
            snapshot = self._folder.snapshot(commit)
            if not snapshot.is_dir():
                message = f"{self._folder.root} has no snapshot of {commit}: fill it with that commit first"
                raise FetchEndedError("no-revision", message, FailureKind.REFUSED)
            try:
                files = read_listing_of_the_client(self._folder, commit)
            except (FileNotFoundError, msgspec.DecodeError):
                paths = (path for path in sorted(snapshot.rglob("*")) if not path.is_dir())
                files = tuple(_as_linked(snapshot, path) for path in paths)
        return Listing(self._folder.repository, commit, tuple(map(_usable, files)))

    def file_url(self, commit: str, path: str) -> str:
        return (self._folder.snapshot(commit) / path).as_uri()

    def headers(self) -> Mapping[str, str]:
        """None: nobody is asked."""
        return {}

    def _look(self) -> None:
        """A mount that is away shows an empty folder; one that is there has the model or has not."""
        if not self._folder.cache.is_dir() or not os.listdir(self._folder.cache):
            raise FetchFaultError("unreachable", f"{self._folder.cache} is empty or not there: is it mounted?")
        if not self._folder.root.is_dir():
            message = f"{self._folder.cache} has no {self._folder.root.name}: it has to be a hub cache, as `hf download` fills it"
            raise FetchEndedError("not-found", message, FailureKind.REFUSED)


def _as_linked(snapshot: Path, path: Path) -> RepositoryFile:
    name = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
    return RepositoryFile(path.relative_to(snapshot).as_posix(), path.stat().st_size, name)


def _usable(file: RepositoryFile) -> RepositoryFile:
    problem = unusable_path(file.path)
    if problem is not None:
        raise FetchEndedError("unusable-name", f"a file name {problem}: {file.path[:80]!r}", FailureKind.REFUSED)
    if not _BLOB.fullmatch(file.blob):
        message = (
            f"{file.path[:80]!r} is no link to a blob that has its hash as its name: there is nothing to check it by"
        )
        raise FetchEndedError("hub-answer", message, FailureKind.REFUSED)
    return file


@contextmanager
def _our_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise FetchFaultError("unreachable", f"the shared cache cannot be read: {error}") from error
