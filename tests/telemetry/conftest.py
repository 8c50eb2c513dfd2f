"""One H100 for each test, or an A100 beside one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.telemetry.node import Node, simulated_node


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with simulated_node(tmp_path, "H100-80GB-SXM:1") as node:
        yield node


@pytest_asyncio.fixture
async def two_kinds(tmp_path: Path) -> AsyncIterator[Node]:
    """An A100 and an H100 in one node."""
    async with simulated_node(tmp_path, "A100-80GB:1", "H100-80GB-SXM:1") as node:
        yield node
