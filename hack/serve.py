"""``python -m hack.serve org/model``: what a server does with its weights before it is ready, and no more.

Takes the model from HF_HUB_CACHE, or with HF_HUB_OFFLINE unset from the hub (HF_ENDPOINT), as every server that uses the hub's
client does; then maps each file of weights and touches all of it. Ends with 0 when it could serve.
"""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

_STEP_BYTES = 4096


def load(repository: str) -> int:
    """Bytes of weights that were read."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(repository))
    return sum(_touch(path) for path in sorted(folder.rglob("*.safetensors")))


def _touch(path: Path) -> int:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        return len(mapped[::_STEP_BYTES]) and len(mapped)


if __name__ == "__main__":
    print(f"{load(sys.argv[1])} bytes of weights are mapped")
