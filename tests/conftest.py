"""What every test shares."""

import asyncio


def pytest_configure() -> None:
    """No event loop outside tests: looptime asks for the current one before a synchronous test too, and asyncio would make
    one that nobody closes.
    """
    asyncio.set_event_loop(None)
