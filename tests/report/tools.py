"""Prometheus and promtool, where they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

_UNPACKED = Path(__file__).parents[2] / "build" / "tools"


def promtool() -> str:
    """Its path; skips the test where there is none, fails it where tools are required."""
    return _tool("promtool")


def prometheus() -> str:
    """The same of the server."""
    return _tool("prometheus")


def _tool(name: str) -> str:
    unpacked = _UNPACKED / name
    found = shutil.which(name) or (str(unpacked) if unpacked.exists() else None)
    if found is not None:
        return found
    why = f"{name} is neither on PATH nor in build/tools (./hack/test unpacks it from Debian's package prometheus)"
    if os.environ.get("CI") == "true" or os.environ.get("WARMSLICE_REQUIRE_TOOLS") == "1":
        pytest.fail(why)
    pytest.skip(why)
