"""Xid errors as the driver tells them. Runs on the reading thread, and waits for none."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Any

import pynvml

from agent.adapters.nvml import calls
from agent.model.telemetry import Xid

_MOST_AT_ONCE = 1000
"""A board that dies tells the same again and again."""


class XidListener:
    """What the driver has told since the listener first asked. An event set belongs to the session: ``forget`` it before that is
    closed; what comes while nobody listens is lost, and stands in the kernel's log."""

    def __init__(self) -> None:
        self._set: Any = None
        self._places: dict[int | None, tuple[str, int]] = {}

    def hear(self) -> tuple[tuple[Xid, ...], str]:
        """What came, in that order, and why nothing can be heard, "" where it can. Nothing comes the first time, which begins to
        listen. A GPU that is lost ends the listening for all; it begins anew, without that one, at the next time."""
        if self._set is None:
            try:
                self._listen()
            except pynvml.NVMLError as error:
                return (), f"Xid errors cannot be listened for: {error}"
            return (), ""
        found: list[Xid] = []
        try:
            self._take(found)
        except pynvml.NVMLError as error:
            self.forget()
            return tuple(found), f"listening for Xid errors ended: {error}"
        return tuple(found), ""

    def forget(self) -> None:
        """Stop listening."""
        if self._set is not None:
            with suppress(pynvml.NVMLError):
                pynvml.nvmlEventSetFree(self._set)
        self._set = None
        self._places.clear()

    def _listen(self) -> None:
        self._set = pynvml.nvmlEventSetCreate()
        try:
            for index in range(pynvml.nvmlDeviceGetCount()):
                self._register(index)
        except pynvml.NVMLError:
            self.forget()
            raise

    def _register(self, index: int) -> None:
        """One that cannot be listened to, or is lost, takes no other with it."""
        with suppress(pynvml.NVMLError):
            device = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = calls.text(pynvml.nvmlDeviceGetUUID(device))
            pynvml.nvmlDeviceRegisterEvents(device, pynvml.nvmlEventTypeXidCriticalError, self._set)
            self._places[_address(device)] = (uuid, index)

    def _take(self, found: list[Xid]) -> None:
        """Raises NVMLError; what was taken before that is in ``found``."""
        while len(found) < _MOST_AT_ONCE:
            try:
                event = pynvml.nvmlEventSetWait_v2(self._set, 0)
            except pynvml.NVMLError_Timeout:
                return
            place = self._places.get(_address(event.device))
            if place is not None and event.eventType == pynvml.nvmlEventTypeXidCriticalError:
                instance = None if event.gpuInstanceId == calls.NO_INSTANCE else int(event.gpuInstanceId)
                found.append(Xid(*place, instance, int(event.eventData)))


def _address(device: Any) -> int | None:
    """What a handle is within a session: of a GPU that fell off the bus not even the UUID can be asked."""
    return ctypes.cast(device, ctypes.c_void_p).value
