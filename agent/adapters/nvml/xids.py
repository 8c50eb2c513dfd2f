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

    def hear(self) -> tuple[Xid, ...]:
        """In the order in which they came; nothing the first time, which begins to listen. RetryError, HardwareError."""
        try:
            if self._set is None:
                self._listen()
                return ()
            return tuple(self._waiting())
        except pynvml.NVMLError as error:
            calls.fail("listening for Xid errors", error)

    def forget(self) -> None:
        """Stop listening."""
        if self._set is not None:
            with suppress(pynvml.NVMLError):
                pynvml.nvmlEventSetFree(self._set)
        self._set = None
        self._places.clear()

    def _listen(self) -> None:
        events = pynvml.nvmlEventSetCreate()
        for index in range(pynvml.nvmlDeviceGetCount()):
            # One that cannot be listened to, or is lost, takes no other with it.
            with suppress(pynvml.NVMLError):
                device = pynvml.nvmlDeviceGetHandleByIndex(index)
                uuid = calls.text(pynvml.nvmlDeviceGetUUID(device))
                pynvml.nvmlDeviceRegisterEvents(device, pynvml.nvmlEventTypeXidCriticalError, events)
                self._places[_address(device)] = (uuid, index)
        self._set = events

    def _waiting(self) -> list[Xid]:
        found: list[Xid] = []
        while len(found) < _MOST_AT_ONCE:
            try:
                event = pynvml.nvmlEventSetWait_v2(self._set, 0)
            except pynvml.NVMLError_Timeout:
                break
            place = self._places.get(_address(event.device))
            if place is not None and event.eventType == pynvml.nvmlEventTypeXidCriticalError:
                instance = None if event.gpuInstanceId == calls.NO_INSTANCE else int(event.gpuInstanceId)
                found.append(Xid(*place, instance, int(event.eventData)))
        return found


def _address(device: Any) -> int | None:
    """What a handle is within a session: of a GPU that fell off the bus not even the UUID can be asked."""
    return ctypes.cast(device, ctypes.c_void_p).value
