"""Reads a fetched model as a serving pod does, in a process of its own, and says as JSON what it found.

    python -m tests.cache.reader REPOSITORY ORIGINAL USER

The cache is that of the environment (HF_HUB_CACHE), as in a pod. The folder ORIGINAL is read the same way first, and only then
the process becomes USER: the libraries load parts of themselves late, and USER may have no access to where they are installed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
from huggingface_hub import scan_cache_dir, snapshot_download
from safetensors import safe_open
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoTokenizer

_SENTENCE = "a slice that is held stays where it is"
_HERE = {"local_files_only": True}
_ASKED: tuple[dict[str, Any], ...] = (
    {},
    _HERE,
    {**_HERE, "allow_patterns": ["*.json"]},
    {**_HERE, "ignore_patterns": ["*.md"]},
)


@dataclass(frozen=True, slots=True)
class Found:
    """``writing``: the error that a new file ends with; ``warnings``: of ``scan_cache_dir``; ``revisions``: commit and number
    of files by repository, as that lists them; ``snapshots``: where ``snapshot_download`` leads, without and with patterns;
    ``files``: sha256 by path; ``as_original``: whether the libraries read there what they read of the original; ``model_type``
    and ``tensors`` (their number), so that equal is not empty."""

    user: int
    writing: str
    warnings: list[str]
    revisions: dict[str, dict[str, int]]
    snapshots: list[str]
    files: dict[str, str]
    as_original: bool
    model_type: str
    tensors: int


def main() -> None:
    repository, original, user = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    expected = _read(str(original), original)
    scan_cache_dir()
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    sys.stdout.write(json.dumps(asdict(_find(repository, expected))))


def _find(repository: str, expected: dict[str, Any]) -> Found:
    cache = Path(os.environ["HF_HUB_CACHE"])
    scanned = scan_cache_dir()
    snapshots = {snapshot_download(repository, **how) for how in _ASKED}
    snapshot = Path(max(snapshots))
    read = _read(repository, snapshot)
    return Found(
        user=os.geteuid(),
        writing=_error_of_writing(cache / "new"),
        warnings=[str(warning) for warning in scanned.warnings],
        revisions={r.repo_id: {c.commit_hash: len(c.files) for c in r.revisions} for r in scanned.repos},
        snapshots=sorted(snapshots),
        files={p.relative_to(snapshot).as_posix(): _sha256(p.read_bytes()) for p in _files(snapshot)},
        as_original=read == expected,
        model_type=read["config"]["model_type"],
        tensors=len(read["tensors"]),
    )


def _read(name: str, folder: Path) -> dict[str, Any]:
    """Configuration and tokens by ``name``, which is a repository or a folder; tensors from the folder, in both ways."""
    config = AutoConfig.from_pretrained(name).to_dict()
    tensors: dict[str, str] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        loaded = {key: _digest(value) for key, value in load_file(shard).items()}
        with safe_open(shard, framework="np") as mapped:
            assert loaded == {key: _digest(mapped.get_tensor(key)) for key in mapped.keys()}  # noqa: SIM118 - no dict
        tensors |= loaded
    return {
        "config": {key: value for key, value in config.items() if key != "_name_or_path"},
        "tokens": AutoTokenizer.from_pretrained(name)(_SENTENCE)["input_ids"],
        "tensors": tensors,
    }


def _digest(tensor: Any) -> str:
    return f"{tensor.dtype} {tensor.shape} {_sha256(numpy.ascontiguousarray(tensor).tobytes())}"


def _error_of_writing(path: Path) -> str:
    try:
        path.touch()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "none"


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
