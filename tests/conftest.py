"""What every test shares."""

import asyncio
import os

from hypothesis import settings

# What continuous integration tries is the same each time; a developer's run hunts for more.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_configure() -> None:
    """No event loop outside tests: looptime asks for the current one before a synchronous test too, and asyncio would make
    one that nobody closes.
    """
    asyncio.set_event_loop(None)
