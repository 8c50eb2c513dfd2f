"""Programs of others that a test needs: where one is not to be had the test is skipped, and fails where tools are required
(CI=true, or WARMSLICE_REQUIRE_TOOLS=1).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hack.hub.third_parties import NotToBeHadError


async def found_program(find: Callable[[], Path]) -> Path:
    try:
        return await asyncio.to_thread(find)
    except NotToBeHadError as error:
        return missing(str(error))


def missing(why: str) -> Path:
    if os.environ.get("CI") == "true" or os.environ.get("WARMSLICE_REQUIRE_TOOLS") == "1":
        pytest.fail(why)
    pytest.skip(why)
