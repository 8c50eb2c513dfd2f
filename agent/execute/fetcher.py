"""The fetching process: ``python -m agent.execute.fetcher``, instructions on standard input, JSON lines on output.

It may be killed at any moment; what it had finished is found again by the next one. It dies with its parent, runs at
low CPU priority, and is the only process that loads huggingface_hub.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.adapters.files import allocated_bytes, content_hash, free_bytes, locked, unshare
from agent.adapters.hub_cache import ModelFolder
from agent.adapters.shared_cache import SharedCache, is_shared
from agent.execute.fetch_blob import Part, disk_errors
from agent.execute.fetch_http import Source
from agent.execute.fetch_layout import (
    link_snapshot,
    make_folders,
    settle_listing_of_the_client,
    vouched_blobs,
    write_manifest,
    write_ref,
)
from agent.execute.fetch_messages import Done, Failed, Instructions, Message, Progress, Resolved
from agent.execute.fetch_pool import Download, Pool, retrying
from agent.model.cache import FailureKind, FetchEndedError, FetchError, FetchOrder
from agent.model.catalog import Listing, RepositoryFile, pickled_only, selected

if TYPE_CHECKING:
    from agent.adapters.hub import HubClient
    from agent.adapters.xet import XetStore

_PR_SET_PDEATHSIG = 1
_NICENESS = 10
"""Without a priority of its own for I/O a process has that which follows from this, best effort 6 of 7 (ioprio_set(2))."""
_TICK_SECONDS = 0.25
_PICKLED = (
    "{} has its weights as pickles only ({}), which run code when they are read: name a revision or a model with safetensors, "
    "or set require_safetensors to false"
)
_BLOB_MODE = 0o644
_SENTENCE_CHARACTERS = 1000  # a hub may have put anything into it; it has to fit into an Event

# Read by huggingface_hub at its import. Xet and shared blobs would put bytes where we neither check nor resume them.
_CLIENT_ENVIRONMENT = {
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_SHARED_BLOBS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
}


def main() -> int:
    """0: the model is published and ``done`` was said; 1: ``failed`` was."""
    instructions = msgspec.json.decode(sys.stdin.buffer.read(), type=Instructions)
    _die_with(instructions.order.parent_pid)
    os.umask(0o022)
    os.nice(_NICENESS)
    os.environ.update(_CLIENT_ENVIRONMENT)
    os.environ.pop("HF_HUB_OFFLINE", None)
    try:
        commit = Fetch(instructions, _say).run()
    except FetchError as error:
        sentence = str(error)[:_SENTENCE_CHARACTERS]
        _say(Failed(error.kind, error.reason, sentence, error.after_seconds, error.needed_bytes))
        return 1
    _say(Done(commit))
    return 0


class Fetch:
    """One order from its listing to its publication; what happens is told to ``say``."""

    def __init__(self, instructions: Instructions, say: Callable[[Message], None]) -> None:
        self._say = say
        self._order = order = instructions.order
        self._folder = ModelFolder(Path(order.cache_directory), order.repository)
        self._hub = _origin(order, instructions.token)
        self._said_at = 0.0

    def run(self) -> str:
        """The commit that is published now."""
        listing = self._listing()
        order = self._order
        files = selected(listing.files, order.allow_patterns, order.ignore_patterns, order.engine)
        if not files:
            raise FetchEndedError("nothing", "the patterns leave no file of the model", FailureKind.REFUSED)
        pickled = pickled_only(files) if order.require_safetensors else None
        if pickled is not None:
            raise FetchEndedError("pickled", _PICKLED.format(order.repository, pickled), FailureKind.REFUSED)
        with disk_errors():
            make_folders(self._folder)
        with _only_one(self._folder):
            self._bring(listing, files)
            with disk_errors():
                self._publish(listing, files)
        return listing.commit

    def _listing(self) -> Listing:
        retry = retrying(self._order.limits, threading.Event())
        commit = retry(self._hub.resolve, self._order.revision)
        return retry(self._hub.listing, commit)

    def _bring(self, listing: Listing, files: Sequence[RepositoryFile]) -> None:
        blobs = {file.blob: file for file in files}
        size = sum(file.size_bytes for file in blobs.values())
        vouched = vouched_blobs(self._folder)
        wrong = 0
        parts: list[Part] = []
        for file in blobs.values():
            state = _blob_state(self._folder, file, vouched)
            wrong += state is False
            if not state:
                parts.append(Part.found(self._folder, file))
        missing = sum(part.file.size_bytes for part in parts)
        self._admit(parts)
        self._say(Resolved(listing.commit, size, size - missing + sum(part.done_bytes for part in parts)))
        store = self._xet_store(listing.commit) if any(part.file.xet for part in parts) else None
        pool = Pool([self._download(part, listing.commit, store) for part in parts], self._order.limits)
        pool.tally.verify_failures = wrong
        try:
            pool.run(lambda: self._tell(pool, size - missing), _TICK_SECONDS)
        finally:
            self._said_at = 0.0
            self._tell(pool, size - missing)

    def _download(self, part: Part, commit: str, store: XetStore | None) -> Download:
        url = self._hub.file_url(commit, part.file.path)
        source = Source(url, self._hub.headers(), part.file.size_bytes)
        return Download(part, source, store if part.file.xet is not None else None)

    def _xet_store(self, commit: str) -> XetStore | None:
        limits = self._order.limits
        if not limits.xet or isinstance(self._hub, SharedCache):
            return None
        from agent.adapters.xet import XetStore

        return XetStore(self._hub.xet_token_url(commit), self._hub.headers(), limits.stall_seconds)

    def _admit(self, parts: Sequence[Part]) -> None:
        """Before the first byte: does what is missing fit? What parts take already is not needed again."""
        limits = self._order.limits
        needed = sum(max(0, part.file.size_bytes - allocated_bytes(part.path)) for part in parts)
        free = max(0, free_bytes(self._folder.blobs) - limits.reserve_bytes)
        if needed > free:
            message = f"{needed} bytes are needed and {free} are free beside the reserve of {limits.reserve_bytes}"
            raise FetchEndedError("no-space", message, FailureKind.REFUSED, needed_bytes=needed)
        if limits.allowance_bytes is not None and needed > limits.allowance_bytes:
            message = f"{needed} bytes are needed and the cache's budget leaves {max(0, limits.allowance_bytes)}"
            raise FetchEndedError("budget", message, FailureKind.REFUSED, needed_bytes=needed)

    def _publish(self, listing: Listing, files: Sequence[RepositoryFile]) -> None:
        link_snapshot(self._folder, listing.commit, files)
        settle_listing_of_the_client(self._folder, listing, files)
        from agent.adapters.hub import confirm

        confirm(listing.repository, self._folder.cache, listing.commit)
        write_manifest(self._folder, listing, (file.path for file in files))
        write_ref(self._folder, self._order.revision, listing.commit)

    def _tell(self, pool: Pool, present_bytes: int) -> None:
        now = time.monotonic()
        if now - self._said_at < _TICK_SECONDS:
            return
        self._said_at = now
        tally = pool.tally
        fetched = present_bytes + pool.fetched_bytes
        self._say(Progress(fetched, tally.received_bytes, tally.verify_failures, dict(tally.faults)))


def _origin(order: FetchOrder, token: str | None) -> HubClient | SharedCache:
    if order.endpoint is not None and is_shared(order.endpoint):
        return SharedCache(order.repository, order.endpoint)
    from agent.adapters.hub import HubClient  # here, after main has set the library's environment

    return HubClient(order.repository, order.endpoint, token, order.limits.stall_seconds)


def _blob_state(folder: ModelFolder, file: RepositoryFile, vouched: Collection[str]) -> bool | None:
    """True: there and right; None: not there; False: it was wrong, and is gone now.

    A blob may have been put there by another program, which checks lengths only: it is hashed before we vouch for it.
    """
    blob = folder.blob(file.blob)
    with disk_errors():
        if not blob.is_file():
            return None
        status = blob.stat()
        right = status.st_size == file.size_bytes
        if right and (file.blob in vouched or content_hash(blob, like=file.blob) == file.blob):
            if blob.is_symlink():
                unshare(blob)
            elif stat.S_IMODE(status.st_mode) != _BLOB_MODE:
                blob.chmod(_BLOB_MODE)
            return True
        blob.unlink()
        return False


@contextmanager
def _only_one(folder: ModelFolder) -> Iterator[None]:
    """One fetch per repository and cache; the lock goes with the process that holds it."""
    with disk_errors(), locked(folder.lock) as ours:
        if not ours:
            raise FetchEndedError("busy", "another process fetches this model into this cache, or removes it")
        yield


def _die_with(parent_pid: int) -> None:
    """Be killed when the parent dies, and now if it did before we could say so."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def _say(message: Message) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    code = main()
    # A thread that a library never gave back does not hold up the end.
    os._exit(code)
