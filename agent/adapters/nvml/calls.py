"""Single NVML calls with errors named by what to do, and the loops that NVML's lists need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from ctypes import byref, c_uint
from functools import partial
from math import ceil
from typing import Any, NoReturn

import pynvml

from agent.model.errors import AgentError, HardwareError, InUseError, RefusedError, RetryError
from agent.model.mig import Placement

NO_INSTANCE = 0xFFFFFFFF
_PASSING = {
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_TIMEOUT,
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
    pynvml.NVML_ERROR_RESET_REQUIRED,
}
_AWAY = _PASSING | {pynvml.NVML_ERROR_GPU_IS_LOST}
_SKIPPED = {pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_NOT_FOUND}
_UNSUPPORTED = _SKIPPED | {pynvml.NVML_ERROR_FUNCTION_NOT_FOUND}
_PAST_THE_END = {pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH}
_MEDIA_ENUMS = {7: "+me", 8: "+me", 13: "-me", 14: "-me", 15: "+me.all", 16: "+me.all"}
_GRAPHICS_ENUMS = {10: "+gfx", 11: "+gfx", 12: "+gfx", 17: "+gfx"}
_MAX_PROFILES = 64


def fail(what: str, error: Any) -> NoReturn:
    """Raise ours for an NVMLError: ``what`` is the act in words."""
    raise translated(what, error) from error


def translated(what: str, error: Any) -> AgentError:
    """Our error for NVML's."""
    code: int = error.value
    text = f"{what}: {error}"
    if code == pynvml.NVML_ERROR_IN_USE:
        return InUseError(text)
    if code == pynvml.NVML_ERROR_NO_PERMISSION:
        return RefusedError(f"{text} (the agent needs root with access to the mig/config capability)")
    if code in _PASSING:
        return RetryError(text)
    return HardwareError(text)


def optional(call: Callable[[], Any], default: Any) -> Any:
    """The call's value, or the default where this GPU or driver does not support the question."""
    return _unless(lambda code: code in _UNSUPPORTED, call, default)


def unless_gone(call: Callable[[], Any], default: Any) -> Any:
    """As ``optional``; the default too where what is asked about has gone since: the driver calls its id or handle invalid."""
    return _unless(lambda code: code in _UNSUPPORTED | _PAST_THE_END, call, default)


def unless_lost(call: Callable[[], Any], default: Any) -> Any:
    """The call's value, or the default whatever keeps this one question from being answered (a right that is missing, another
    version of a struct). Only what says that the GPU or the driver is away is raised."""
    return _unless(lambda code: code not in _AWAY, call, default)


def _unless(passed_over: Callable[[int], bool], call: Callable[[], Any], default: Any) -> Any:
    try:
        return call()
    except pynvml.NVMLError as error:
        if not passed_over(error.value):
            raise
        return default


def text(value: Any) -> str:
    """NVML strings come as bytes or str, by binding version."""
    return value.decode() if isinstance(value, bytes) else str(value)


def instance_profiles(device: Any) -> Iterator[tuple[int, Any]]:
    """(enum, info) of each GPU instance profile. New drivers add enums: go on until INVALID_ARGUMENT, past holes."""
    for enum in range(_MAX_PROFILES):
        try:
            yield enum, _versioned(pynvml.nvmlDeviceGetGpuInstanceProfileInfo, device, enum)
        except pynvml.NVMLError as error:
            if error.value in _PAST_THE_END:
                return
            if error.value not in _SKIPPED:
                raise


def compute_profiles(instance: Any) -> Iterator[Any]:
    """Info of each compute instance profile that a GPU instance offers."""
    for enum in range(_MAX_PROFILES):
        try:
            yield _versioned(pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo, instance, enum, 0)
        except pynvml.NVMLError as error:
            if error.value in _PAST_THE_END:
                return
            if error.value not in _SKIPPED:
                raise


def _versioned(function: Callable[..., Any], *arguments: Any) -> Any:
    """Version 2 of a profile info where the driver has it (it carries the name), else version 1."""
    try:
        return function(*arguments, version=2)
    except pynvml.NVMLError as error:
        if error.value not in (
            pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        ):
            raise
    return function(*arguments, version=1)


def placements(device: Any, profile_id: int) -> tuple[Placement, ...]:
    """All placements of a profile, occupied or not. Without an array NVML gives their number."""
    count = c_uint(0)
    optional(lambda: pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(device, profile_id, None, byref(count)), None)
    if not count.value:
        return ()
    array = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(device, profile_id, array, byref(count))
    return tuple(Placement(array[i].start, array[i].size) for i in range(count.value))


def gpu_instances(device: Any, profile_id: int) -> list[Any]:
    """Handles of the GPU instances of one profile. The array has room for more than any GPU can have.

    NVMLError whatever it is: the driver has listed the profile, and "none" would be taken for gone.
    """
    array = (pynvml.c_nvmlGpuInstance_t * 32)()
    count = c_uint(0)
    pynvml.nvmlDeviceGetGpuInstances(device, profile_id, array, byref(count))
    return [array[i] for i in range(count.value)]


def compute_instances(instance: Any, profile_id: int) -> list[Any]:
    """Handles of the compute instances of one profile within a GPU instance. NVMLError as of ``gpu_instances``."""
    array = (pynvml.c_nvmlComputeInstance_t * 32)()
    count = c_uint(0)
    pynvml.nvmlGpuInstanceGetComputeInstances(instance, profile_id, array, byref(count))
    return [array[i] for i in range(count.value)]


def compute_rooms(instance: Any, offered: Iterable[Any]) -> tuple[Placement, ...]:
    """All placements, in compute slices, that compute instances of these profiles can have, occupied or not.

    Empty where the driver is too old to have the call. Any other refusal is an NVMLError: taken for "nowhere", a pod would be
    moved that could stay.
    """
    found: set[Placement] = set()
    for info in offered:
        count = c_uint(0)
        ask = partial(pynvml.nvmlGpuInstanceGetComputeInstancePossiblePlacements, instance, info.id)
        try:
            ask(None, byref(count))
        except pynvml.NVMLError_FunctionNotFound:
            return ()
        if count.value:
            array = (pynvml.c_nvmlComputeInstancePlacement_t * count.value)()
            ask(array, byref(count))
            found |= {Placement(array[i].start, array[i].size) for i in range(count.value)}
    return tuple(sorted(found))


def compute_placement_struct(place: Placement) -> Any:
    """By reference only, as ``placement_struct``."""
    return byref(pynvml.c_nvmlComputeInstancePlacement_t(place.start, place.size))


def placement_struct(place: Placement) -> Any:
    """By reference only: pynvml sets no argument types, and a placement by value crashes the process."""
    return byref(pynvml.c_nvmlGpuInstancePlacement_t(place.start, place.size))


def profile_name(enum: int, info: Any, total_mib: int) -> str:
    """The driver's own name without "MIG "; on a driver that gives none, by the rule that NVIDIA's tools share.

    GB = round_half_up(ceil(profile MiB / total MiB * 8) / 8 * ceil(total GiB)), as go-nvlib computes it.
    """
    own = text(getattr(info, "name", b"")).removeprefix("MIG ").strip()
    if own:
        return own
    eighths = ceil(info.memorySizeMB / total_mib * 8) / 8 if total_mib else 0
    gigabytes = int(eighths * ceil(total_mib / 1024) + 0.5)
    suffix = _MEDIA_ENUMS.get(enum, "") or _GRAPHICS_ENUMS.get(enum, "")
    return f"{info.sliceCount}g.{gigabytes}gb{suffix}"
