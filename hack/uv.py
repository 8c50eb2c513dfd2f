"""The uv that wrote the lock file, where ./hack/test has installed it, else that of PATH."""

from __future__ import annotations

import shutil
from pathlib import Path

_UNPACKED = Path(__file__).resolve().parents[1] / ".tools" / "bin" / "uv"


def uv_program() -> Path:
    """FileNotFoundError says who installs it."""
    found = str(_UNPACKED) if _UNPACKED.exists() else shutil.which("uv")
    if found is None:
        raise FileNotFoundError("uv is neither in .tools nor on PATH (./hack/test installs it)")
    return Path(found)
