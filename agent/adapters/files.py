"""The disk, with writes that are whole or absent after a crash, and contents checked by hash."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agent.model.errors import BadInputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_HASH_CHUNK_BYTES = 1024 * 1024
_FILE_MODE = 0o644
_SHA256_DIGITS = 64
_OTHERS_ENTER = stat.S_IROTH | stat.S_IXOTH
_LOCK_MODE = 0o664
_F_SETSIG = 10  # fcntl(2); Python's fcntl does not name it


class Digest(Protocol):
    """As hashlib's."""

    def update(self, content: ReadableBuffer, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file read whole at each look, such as a mounted ConfigMap."""

    path: Path

    def read(self) -> str:
        """Raises OSError, or UnicodeDecodeError (a ValueError), naming nothing but the cause."""
        return self.path.read_text(encoding="utf-8")


def token_reader(file: str | None, directory: str | None) -> Callable[[str | None], str | None]:
    """Reads a token anew at each call, so that a renewed one is used: the one of that name in ``directory``, which raises
    BadInputError where it cannot be had, or without a name that of ``file``, None where there is none."""

    def read(name: str | None) -> str | None:
        if name is not None:
            return _named_token(name, directory)
        try:
            return (Path(file).read_text("utf-8").strip() or None) if file is not None else None
        except (OSError, ValueError):
            return None

    return read


def _named_token(name: str, directory: str | None) -> str:
    if directory is None:
        raise BadInputError(f"token {name!r} cannot be had: the setting hub_tokens_directory is not set")
    try:
        token = (Path(directory) / name).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BadInputError(f"token {name!r} cannot be read in {directory}: {what}") from error
    if not token:
        raise BadInputError(f"token {name!r} in {directory} is empty")
    return token


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Replace ``path`` (mode 0644) in one step: a reader, or a crash, finds the old content or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def content_digest(like: str, size_bytes: int) -> Digest:
    """Of the kind that ``like`` is: sha256 (64 digits), else git's sha1 of a blob (40), which knows its size beforehand."""
    if len(like) == _SHA256_DIGITS:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)


def content_hash(path: Path, like: str) -> str:
    """The file's hash of the kind that ``like`` is."""
    with path.open("rb") as stream:
        digest = content_digest(like, os.fstat(stream.fileno()).st_size)
        while chunk := stream.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def preallocate(descriptor: int, size_bytes: int) -> None:
    """Reserve the file's blocks and set its size. Raises OSError(ENOSPC) where they are not to be had; where the file
    system cannot reserve, the file becomes sparse."""
    try:
        if size_bytes:
            os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
            raise
        os.ftruncate(descriptor, size_bytes)


def enterable_by_others(status: os.stat_result) -> bool:
    return status.st_mode & _OTHERS_ENTER == _OTHERS_ENTER


def open_direct(path: Path) -> int | None:
    """A descriptor whose writes go around the page cache; None where the file system has none."""
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None


def readable_by_others(status: os.stat_result) -> bool:
    return bool(status.st_mode & stat.S_IROTH)


def unshare(path: Path) -> None:
    """Put the file itself in place of the link to it: a second name for it where that can be, else a copy."""
    draft = path.with_name(f"{path.name}.unshared")
    draft.unlink(missing_ok=True)
    target = path.resolve(strict=True)
    try:
        os.link(target, draft)
    except OSError:
        shutil.copyfile(target, draft)
        draft.chmod(stat.S_IMODE(target.stat().st_mode))
    draft.replace(path)


def free_bytes(directory: Path) -> int:
    """Bytes an unprivileged writer may still use on the file system of ``directory``."""
    numbers = os.statvfs(directory)
    return numbers.f_bavail * numbers.f_frsize


def total_bytes(directory: Path) -> int:
    numbers = os.statvfs(directory)
    return numbers.f_blocks * numbers.f_frsize


def allocated_bytes(path: Path) -> int:
    """Bytes of disk that ``path`` takes; 0 where there is no such file."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def existing_parent(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.is_dir())


def is_open(path: Path) -> bool:
    """Whether a process has the file open or mapped; True too where that cannot be told.

    A lease for writing is refused while anybody else has the file open (fcntl(2), F_SETLEASE); it takes the file's owner. Who
    opens the file in the moment of the question waits until it is answered.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        # The kernel says by a signal that somebody waits; this one is ignored where nobody asked for it, SIGIO is not.
        fcntl.fcntl(descriptor, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        return True
    else:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False
    finally:
        os.close(descriptor)


def take_lock(path: Path) -> int | None:
    """A descriptor that holds the lock file ``path`` (flock(2)) until it is closed, or the process ends; None where another
    holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _LOCK_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno != errno.EWOULDBLOCK:
            raise
        return None
    return descriptor


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Whether the lock file ``path`` is ours now; it is free again at the end."""
    descriptor = take_lock(path)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)
