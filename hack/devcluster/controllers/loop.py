"""How a controller runs: again after every change of what it watches, and as time passes, always over the whole state."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hack.devcluster.api import Api
from hack.devcluster.errors import ApiError
from hack.devcluster.kinds import Kind

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Controller:
    """``sync`` takes no time of its own and never waits, so no other request is served in between. ``every_s``: how
    long to go without a sync at most, for what happens by time alone."""

    name: str
    watched: Sequence[Kind]
    sync: Callable[[Api], None]
    every_s: float | None = None


async def run_controller(api: Api, controller: Controller) -> None:
    """Returns when the store closes."""
    subscription = api.store.subscribe(*controller.watched)
    try:
        sync_once(api, controller)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(controller.every_s):
                    if not await subscription.next_batch():
                        return
            sync_once(api, controller)
    finally:
        api.store.unsubscribe(subscription)


def sync_once(api: Api, controller: Controller) -> None:
    """One object that a controller cannot make sense of must not end it for all others."""
    try:
        controller.sync(api)
    except ApiError as error:
        log.warning("controller.refused", extra={"controller": controller.name, "error": error.message})
    except Exception:
        log.exception("controller.failed", extra={"controller": controller.name})
