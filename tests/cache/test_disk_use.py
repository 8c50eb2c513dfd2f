"""How much disk the cache takes, whoever else puts folders there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from agent.adapters.hub_cache import disk_use

# Everything is imported first, since the reader may have no access to this environment once it is nobody.
READER = """
import os, sys
from pathlib import Path
from agent.adapters.hub_cache import disk_use
os.setgroups([]), os.setgid(65534), os.setuid(65534)
print(disk_use(Path(sys.argv[1])).used_bytes)
"""


def blob(cache: Path, model: str) -> Path:
    path = cache / f"models--{model}" / "blobs" / ("0" * 64)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 10_000)
    return path


def test_blobs_are_counted_by_the_blocks_they_take(cache: Path) -> None:
    size = sum(blob(cache, model).stat().st_blocks * 512 for model in ("acme--one", "acme--two"))
    assert disk_use(cache).used_bytes == size >= 20_000


def test_a_cache_that_does_not_exist_yet_takes_nothing(cache: Path) -> None:
    assert disk_use(cache).used_bytes == 0
    assert disk_use(cache).free_bytes > 0


def test_a_folder_that_cannot_be_listed_counts_as_empty(cache: Path) -> None:
    """Other programs keep models here too, some for themselves alone."""
    ours = blob(cache, "acme--ours").stat().st_blocks * 512
    for odd, make in (("file", Path.touch), ("loop", lambda path: path.symlink_to(path))):
        folder = cache / f"models--acme--{odd}"
        folder.mkdir()
        make(folder / "blobs")
    assert disk_use(cache).used_bytes == ours


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_of_another_user_counts_as_empty() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        blob(Path(folder), "acme--theirs").parent.chmod(0o700)
        read = subprocess.run([sys.executable, "-c", READER, folder], capture_output=True, text=True, check=True)
    assert read.stdout == "0\n"
