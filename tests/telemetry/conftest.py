"""One H100 for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from hack.simgpu.build import Paths, build
from tests.telemetry.node import Node, simulated_node


@pytest.fixture(scope="session")
def built() -> Paths:
    return build()


@pytest_asyncio.fixture
async def node(built: Paths, tmp_path: Path) -> AsyncIterator[Node]:
    with simulated_node(built, tmp_path / "state", "--gpu", "H100-80GB-SXM:1") as node:
        yield node
        node.simgpu("fault", "clear")
        await node.hardware.release()
