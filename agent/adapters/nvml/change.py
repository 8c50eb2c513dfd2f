"""Changes of one GPU. Runs on that GPU's thread; every function here blocks, and each may be repeated without harm."""

from __future__ import annotations

from typing import Any

import pynvml

from agent.adapters.nvml import calls
from agent.model.errors import HardwareError, InUseError
from agent.model.mig import Activation, Placement, Shape, arrange

_ONLY_BY_REBOOT = {pynvml.NVML_ERROR_RESET_REQUIRED, pynvml.NVML_ERROR_NOT_SUPPORTED}
"""Activation where nobody can reset the GPU: RESET_REQUIRED under pass-through, where nvml.h says that the guest has to be
rebooted, and NOT_SUPPORTED in some other guests (NVIDIA's mig-parted counts any of them as pending)."""


def set_mode(device: Any, enabled: bool) -> Activation:
    """Ask for a MIG mode, and say when it comes into force.

    The call's own success is only that of the request: the read-back tells whether it is in force or pending, and the
    activation status, which pynvml returns as a number, what a pending one waits for. HardwareError when it is neither.
    """
    what = f"switching MIG mode {'on' if enabled else 'off'}"
    try:
        activation = pynvml.nvmlDeviceSetMigMode(device, int(enabled))
        current, pending = pynvml.nvmlDeviceGetMigMode(device)
    except pynvml.NVMLError as error:
        calls.fail(what, error)
    if bool(current) == enabled:
        return "now"
    if bool(pending) != enabled:
        raise HardwareError(
            f"{what}: the driver took the request (activation {activation}), and shows no such mode pending"
        )
    return "by reboot" if activation in _ONLY_BY_REBOOT else "by reset"


def destroy(device: Any, placement: Placement, profile: str, total_mib: int) -> None:
    """Remove the instance of that profile at that placement, its compute instances first; nothing to do if it is gone.

    InUseError before anything is touched when a process is on it.
    """
    what = f"destroying {profile} at {placement}"
    try:
        _, handle = _find(device, placement, profile, total_mib)
        if handle is None:
            return
        number = pynvml.nvmlGpuInstanceGetInfo(handle).id
        _refuse_if_busy(device, number, what)
        for info in calls.compute_profiles(handle):
            for compute in calls.compute_instances(handle, info.id):
                pynvml.nvmlComputeInstanceDestroy(compute)
        pynvml.nvmlGpuInstanceDestroy(handle)
    except pynvml.NVMLError as error:
        calls.fail(what, error)


def trim(device: Any, placement: Placement, profile: str, parts: tuple[Placement, ...], total_mib: int) -> None:
    """Remove the compute instances at these compute slices of one GPU instance; what is gone already stays gone.

    InUseError before anything is touched when a process is on one of them.
    """
    what = f"removing compute instances {', '.join(map(str, parts))} of {profile} at {placement}"
    try:
        _, handle = _find(device, placement, profile, total_mib)
        if handle is None:
            return
        number = pynvml.nvmlGpuInstanceGetInfo(handle).id
        found = [
            (compute, seen.id)
            for info in calls.compute_profiles(handle)
            for compute in calls.compute_instances(handle, info.id)
            if _compute_placement(seen := pynvml.nvmlComputeInstanceGetInfo(compute)) in parts
        ]
        _refuse_if_busy(device, number, what, {compute_id for _, compute_id in found})
        for compute, _ in found:
            pynvml.nvmlComputeInstanceDestroy(compute)
    except pynvml.NVMLError as error:
        calls.fail(what, error)


def create(device: Any, placement: Placement, shape: Shape, total_mib: int) -> None:
    """Make the instance with its compute instances; one that is there already gets what it lacks.

    When a compute instance cannot be made, an instance that this call made is removed again.
    """
    what = f"creating {shape} at {placement}"
    try:
        profile_id, handle = _find(device, placement, shape.profile, total_mib)
        if profile_id is None:
            raise HardwareError(f"{what}: the driver has no such profile now")
        made = handle is None
        if handle is None:
            place = calls.placement_struct(placement)
            handle = pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(device, profile_id, place)
        try:
            _fill(handle, shape)
        except (pynvml.NVMLError, HardwareError):
            if made:
                _undo(handle)
            raise
    except pynvml.NVMLError as error:
        calls.fail(what, error)


def _fill(handle: Any, shape: Shape) -> None:
    """Make the compute instances that the shape has and the instance lacks, largest first, each where all others still fit."""
    offered = list(calls.compute_profiles(handle))
    there = [(info.id, compute) for info in offered for compute in calls.compute_instances(handle, info.id)]
    ids = [profile_id for profile_id, _ in there]
    lacking: list[int] = []
    for profile_id in _wanted(offered, shape):
        if profile_id in ids:
            ids.remove(profile_id)
        else:
            lacking.append(profile_id)
    widths = {info.id: info.sliceCount for info in offered}
    kept = [_compute_placement(pynvml.nvmlComputeInstanceGetInfo(compute)) for _, compute in there]
    rooms = calls.compute_rooms(handle, offered) if shape.compute else ()
    places = arrange([widths[profile_id] for profile_id in lacking], rooms, kept) or ()
    for number, profile_id in enumerate(lacking):
        if places:
            place = calls.compute_placement_struct(places[number])
            pynvml.nvmlGpuInstanceCreateComputeInstanceWithPlacement(handle, profile_id, place)
        else:
            pynvml.nvmlGpuInstanceCreateComputeInstance(handle, profile_id)


def _compute_placement(info: Any) -> Placement:
    return Placement(info.placement.start, info.placement.size)


def _wanted(offered: list[Any], shape: Shape) -> list[int]:
    """Profile ids of the compute instances: the one with the most multiprocessors, or one for each width of a split."""
    if not shape.compute:
        full = max(offered, key=lambda info: (info.multiprocessorCount, info.sliceCount, -info.id), default=None)
        if full is None:
            raise HardwareError(f"creating {shape}: the driver offers no compute instance profile")
        return [full.id]
    by_width = {info.sliceCount: info.id for info in sorted(offered, key=lambda info: -info.id)}
    missing = [width for width in shape.compute if width not in by_width]
    if missing:
        raise HardwareError(f"creating {shape}: the driver offers no {missing[0]}c compute instance")
    return [by_width[width] for width in shape.compute]


def _undo(handle: Any) -> None:
    """Remove what was just made. If that fails too, an orphan stays, which the next pass sees and removes."""
    try:
        for info in calls.compute_profiles(handle):
            for compute in calls.compute_instances(handle, info.id):
                pynvml.nvmlComputeInstanceDestroy(compute)
        pynvml.nvmlGpuInstanceDestroy(handle)
    except pynvml.NVMLError:
        return


def _find(device: Any, placement: Placement, profile: str, total_mib: int) -> tuple[int | None, Any]:
    """(profile id, handle of the instance there); None for what is not there."""
    for enum, info in calls.instance_profiles(device):
        if calls.profile_name(enum, info, total_mib) != profile:
            continue
        for handle in calls.gpu_instances(device, info.id):
            place = pynvml.nvmlGpuInstanceGetInfo(handle).placement
            if (place.start, place.size) == (placement.start, placement.size):
                return info.id, handle
        return info.id, None
    return None, None


def _refuse_if_busy(device: Any, gpu_instance: int, what: str, compute: set[int] | None = None) -> None:
    """InUseError while a process uses the GPU instance, or, with ``compute``, one of those compute instances of it."""
    rows = calls.optional(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses_v3(device), [])
    busy = [
        row.pid
        for row in rows
        if row.gpuInstanceId == gpu_instance
        and (compute is None or row.computeInstanceId in (None, calls.NO_INSTANCE, *compute))
    ]
    if busy:
        raise InUseError(f"{what}: process {busy[0]} still uses it")
