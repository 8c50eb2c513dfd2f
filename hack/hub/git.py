"""Object ids as git computes them: SHA-1 of ``<kind> <length>\\0<bytes>``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def blob_oid(content: bytes) -> str:
    return _oid("blob", content)


def tree_oid(entries: Iterable[tuple[str, str, bool]]) -> str:
    """Id of a folder from (name, oid, whether it is a folder); git sorts folders as if their names ended in ``/``."""
    ordered = sorted(entries, key=lambda entry: _bytes(entry[0]) + (b"/" if entry[2] else b""))
    return _oid("tree", b"".join(_tree_line(name, oid, folder) for name, oid, folder in ordered))


def lfs_pointer(sha256: str, size: int) -> bytes:
    """What git itself stores of a file that is in LFS."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _tree_line(name: str, oid: str, folder: bool) -> bytes:
    mode = b"40000" if folder else b"100644"
    return mode + b" " + _bytes(name) + b"\0" + bytes.fromhex(oid)


def _bytes(name: str) -> bytes:
    return name.encode(errors="surrogatepass")


def _oid(kind: str, content: bytes) -> str:
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(content)) + content).hexdigest()
