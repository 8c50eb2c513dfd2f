"""What every test shares."""

import asyncio
import os

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
