"""The kubelet takes ResourceSlices away whose driver is not there, so that no pod is sent to wait for it.

At once for all drivers when the kubelet starts, since none has registered by then; otherwise when a driver has been gone
for 30 s (from memory of 1.34). A driver that comes back publishes anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import aiohttp

from hack.devcluster.client import Client
from hack.devcluster.errors import ApiError
from hack.devcluster.kubelet.dra_driver import SLICES

log = logging.getLogger(__name__)

_RETRY_S = 1.0


class SliceWiper:
    def __init__(self, client: Client, node: str, delay_s: float) -> None:
        self._client = client
        self._node = node
        self._delay_s = delay_s
        self._pending: asyncio.Task[None] | None = None

    async def wipe(self, driver: str = "") -> None:
        """Until the API server has done it; '' means those of all drivers."""
        selector = f"spec.nodeName={self._node}" + (f",spec.driver={driver}" if driver else "")
        while True:
            try:
                await self._client.request("DELETE", SLICES, query={"fieldSelector": selector})
                return
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                log.warning("slices.not_wiped", extra={"error": str(error)})
                await asyncio.sleep(_RETRY_S)

    def driver_left(self, driver: str) -> None:
        if self._pending is None:
            self._pending = asyncio.create_task(self._wipe_later(driver), name="wipe slices")

    async def driver_came(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pending

    async def _wipe_later(self, driver: str) -> None:
        await asyncio.sleep(self._delay_s)
        await self.wipe(driver)
