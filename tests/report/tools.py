"""promtool, where there is one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

_UNPACKED = Path(__file__).parents[2] / "build" / "tools" / "promtool"


def promtool() -> str:
    """Path of promtool; skips the test where there is none, fails it where tools are required."""
    found = shutil.which("promtool") or (str(_UNPACKED) if _UNPACKED.exists() else None)
    if found is not None:
        return found
    why = "promtool is neither on PATH nor in build/tools (./hack/test unpacks it from Debian's package prometheus)"
    if os.environ.get("CI") == "true" or os.environ.get("WARMSLICE_REQUIRE_TOOLS") == "1":
        pytest.fail(why)
    pytest.skip(why)
