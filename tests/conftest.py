"""What every test shares."""

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# What continuous integration tries is the same each time; a developer's run hunts for more. Neither is timed: a busy machine
# is no fault of the code, and speed is measured by the benchmarks.
settings.register_profile("hunt", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "hunt")


def pytest_configure() -> None:
    """No event loop outside tests: looptime asks for the current one before a synchronous test too, and asyncio would make
    one that nobody closes.
    """
    asyncio.set_event_loop(None)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short one, whoever runs the tests and how often: the path of a Unix socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="t-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
