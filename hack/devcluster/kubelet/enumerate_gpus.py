"""The NVML side of the simulated device plugin: a process of its own that reads the GPUs once, at its start.

Prints one line of JSON, resource name to device ids, as NVIDIA's plugin advertises them with the strategy named by its
argument: ``none`` (GPUs, MIG or not), ``single`` (slices as GPUs; all GPUs must be cut, into one profile) or ``mixed``.
Then keeps its NVML session open, as the real one does, until its standard input ends.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from math import ceil
from typing import Any

import pynvml

_WHOLE = "nvidia.com/gpu"
_MEDIA_EXTENSIONS = frozenset({7, 8})
"""Enumerators of 1g+me and 2g+me, all that a driver without names knows of."""


def main() -> int:
    pynvml.nvmlInit()
    try:
        print(json.dumps(devices_of(sys.argv[1] if len(sys.argv) > 1 else "mixed")), flush=True)
        sys.stdin.read()
    finally:
        pynvml.nvmlShutdown()
    return 0


def devices_of(strategy: str) -> dict[str, list[str]]:
    """Of an open NVML. ValueError where ``single`` meets GPUs that are not cut alike; the plugin's pod then crashes and is
    started again."""
    gpus = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    if strategy == "none":
        return {_WHOLE: [str(pynvml.nvmlDeviceGetUUID(gpu)) for gpu in gpus]}
    devices: dict[str, list[str]] = {}
    for gpu in gpus:
        for resource, device in _advertised(gpu):
            devices.setdefault(resource, []).append(device)
    cut = [gpu for gpu in gpus if mig_is_on(gpu)]
    if strategy == "mixed" or not cut:
        return devices
    if len(cut) != len(gpus) or len(devices) > 1:
        raise ValueError(f"strategy single: GPUs are not all cut into one profile: {sorted(devices)}")
    return {_WHOLE: [device for ids in devices.values() for device in ids]}


def _advertised(gpu: Any) -> Iterator[tuple[str, str]]:
    """(resource, device id): the whole GPU where MIG is off, each of its slices where it is on."""
    if not mig_is_on(gpu):
        yield _WHOLE, pynvml.nvmlDeviceGetUUID(gpu)
        return
    for slice_ in mig_devices(gpu):
        resource = profile_name(gpu, slice_).replace("+", ".")
        yield f"nvidia.com/mig-{resource}", pynvml.nvmlDeviceGetUUID(slice_)


def mig_devices(gpu: Any) -> Iterator[Any]:
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        with contextlib.suppress(pynvml.NVMLError_NotFound):
            yield pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index)


def mig_is_on(gpu: Any) -> bool:
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(gpu)
    except pynvml.NVMLError_NotSupported:
        return False
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)


def profile_name(gpu: Any, slice_: Any) -> str:
    """``1g.10gb``, ``1g.10gb+me``, ``1c.2g.20gb`` for a part of an instance."""
    instance = pynvml.nvmlDeviceGetGpuInstanceById(gpu, pynvml.nvmlDeviceGetGpuInstanceId(slice_))
    number, profile = gpu_instance_profile(gpu, pynvml.nvmlGpuInstanceGetInfo(instance).profileId)
    given = getattr(profile, "name", None) or _name_by_memory(gpu, number, profile)
    name = (given.decode() if isinstance(given, bytes) else str(given)).removeprefix("MIG ")
    attributes = pynvml.nvmlDeviceGetAttributes_v2(slice_)
    compute, whole = attributes.computeInstanceSliceCount, attributes.gpuInstanceSliceCount
    return name if compute == whole else f"{compute}c.{name}"


def gpu_instance_profile(gpu: Any, profile_id: int) -> tuple[int, Any]:
    """The profile's number, and what the driver says of it. The enumeration has no fixed end: newer drivers add to it, and
    it has holes where a GPU lacks a profile."""
    number = 0
    while True:
        try:
            info = _profile_info(gpu, number)
        except pynvml.NVMLError_NotSupported:
            pass
        else:
            if info.id == profile_id:
                return number, info
        number += 1


def _profile_info(gpu: Any, number: int) -> Any:
    """With the driver's own name where it has one; drivers of 535 and before know the first version alone."""
    try:
        return pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, number, version=2)
    except pynvml.NVMLError_FunctionNotFound:
        return pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, number, version=1)


def _name_by_memory(gpu: Any, number: int, info: Any) -> str:
    """As the device plugin computes it (go-nvlib's NewMigProfile): eighths of the board's memory, in whole GB."""
    total = pynvml.nvmlDeviceGetMemoryInfo(gpu).total
    eighths = ceil((info.memorySizeMB << 20) / total * 8) / 8
    extension = "+me" if number in _MEDIA_EXTENSIONS else ""
    return f"{info.sliceCount}g.{int(eighths * ceil(total / (1 << 30)) + 0.5)}gb{extension}"


if __name__ == "__main__":
    raise SystemExit(main())
