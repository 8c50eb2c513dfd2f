"""One GPU as NVML shows it now. Runs on the reading thread; every function here blocks."""

from __future__ import annotations

from functools import partial
from typing import Any

import pynvml

from agent.adapters.nvml import calls
from agent.model.errors import RetryError
from agent.model.mig import ComputeInstance, Gpu, GpuInstance, GpuProcess, Placement, Profile

_RESETLESS_FIELD = 184
_PROFILES_WITHOUT_MIG_FIELD = 199
_WIDTHS = {7: (1, 2, 3, 4, 7), 4: (1, 2, 4), 3: (1, 2, 3), 2: (1, 2), 1: (1,)}


class ListedProfiles:
    """What each GPU can be cut into, as its driver last listed it.

    Drivers before 550 list profiles only while MIG is on. What such a driver has listed once holds under that driver, so a
    wish for what the GPU cannot be is not tried again by switching MIG on to ask.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], tuple[Profile, ...]] = {}

    def of(self, device: Any, uuid: str, total_mib: int) -> tuple[Profile, ...]:
        """The profiles of now, else those listed before; empty when there never were any."""
        key = (uuid, calls.text(pynvml.nvmlSystemGetDriverVersion()))
        found = _profiles(device, total_mib)
        if found:
            self._last[key] = found
        return found or self._last.get(key, ())


def read_gpu(device: Any, index: int, uuid: str, listed: ListedProfiles) -> Gpu:
    """Everything about one GPU. Raises NVMLError, and RetryError of ``_instances``."""
    pci = pynvml.nvmlDeviceGetPciInfo(device)
    total_mib = pynvml.nvmlDeviceGetMemoryInfo(device).total >> 20
    mode = calls.optional(lambda: pynvml.nvmlDeviceGetMigMode(device), None)
    profiles = listed.of(device, uuid, total_mib) if mode is not None else ()
    processes = _processes(device)
    return Gpu(
        uuid=uuid,
        index=index,
        name=calls.text(pynvml.nvmlDeviceGetName(device)),
        pci_device_id=f"0x{pci.pciDeviceId:08X}",
        pci_subsystem_id=f"0x{pci.pciSubSystemId:08X}",
        memory_mib=total_mib,
        mig_enabled=bool(mode[0]) if mode is not None else None,
        mig_pending=bool(mode[1]) if mode is not None else None,
        resetless=_resetless(device),
        profiles=profiles,
        instances=_instances(device, uuid, profiles) if mode is not None and mode[0] else (),
        processes=processes,
        profiles_unknown=mode is not None and not mode[0] and not profiles and not _lists_without_mig(device),
    )


def _resetless(device: Any) -> bool:
    """Field 184: MIG mode changes without a GPU reset. A driver that does not know the field is older than such GPUs."""
    return _says_yes(device, _RESETLESS_FIELD)


def _lists_without_mig(device: Any) -> bool:
    """Field 199: profiles can be asked while MIG is off. A driver that does not know the field is older than that."""
    return _says_yes(device, _PROFILES_WITHOUT_MIG_FIELD)


def _says_yes(device: Any, field: int) -> bool:
    values = calls.optional(lambda: pynvml.nvmlDeviceGetFieldValues(device, [field]), None)
    return bool(values and values[0].nvmlReturn == pynvml.NVML_SUCCESS and values[0].value.uiVal)


def _profiles(device: Any, total_mib: int) -> tuple[Profile, ...]:
    found = []
    for enum, info in calls.instance_profiles(device):
        found.append(
            Profile(
                name=calls.profile_name(enum, info, total_mib),
                id=info.id,
                slices=info.sliceCount,
                memory_mib=info.memorySizeMB,
                multiprocessors=info.multiprocessorCount,
                max_instances=info.instanceCount,
                placements=calls.placements(device, info.id),
                # Asked of an instance only, so by the rule until there is one; creating asks the instance itself.
                compute=_WIDTHS.get(info.sliceCount, (info.sliceCount,)),
            )
        )
    return tuple(found)


def _instances(device: Any, uuid: str, profiles: tuple[Profile, ...]) -> tuple[GpuInstance, ...]:
    """What there is; RetryError when the driver contradicts itself: it is asked again, and nothing is concluded."""
    uuids = _mig_uuids(device)
    found = []
    for profile in profiles:
        for handle in calls.gpu_instances(device, profile.id):
            info = pynvml.nvmlGpuInstanceGetInfo(handle)
            place = Placement(info.placement.start, info.placement.size)
            compute = _compute(handle, info.id, uuids)
            split = any(not one.full for one in compute)
            rooms = calls.compute_rooms(handle, calls.compute_profiles(handle)) if split else ()
            found.append(GpuInstance(info.id, profile.name, place, compute, rooms))
    listed = {(instance.id, compute.id) for instance in found for compute in instance.compute}
    if listed != uuids.keys():
        # A slice without its UUID has no holder that the kubelet could name, and one without compute looks like an orphan.
        odd = ", ".join(f"{gi}/{ci}" for gi, ci in sorted(listed ^ uuids.keys()))
        raise RetryError(f"GPU {uuid}: the driver lists instances and MIG devices that do not agree (GI/CI {odd})")
    return tuple(sorted(found, key=lambda instance: instance.placement))


def _compute(handle: Any, gpu_instance: int, uuids: dict[tuple[int, int], str]) -> tuple[ComputeInstance, ...]:
    offered = list(calls.compute_profiles(handle))
    most = max((info.multiprocessorCount for info in offered), default=0)
    found = []
    for info in offered:
        for compute in calls.compute_instances(handle, info.id):
            seen = pynvml.nvmlComputeInstanceGetInfo(compute)
            uuid = uuids.get((gpu_instance, seen.id), "")
            full = info.multiprocessorCount == most
            found.append(ComputeInstance(seen.id, info.sliceCount, full, uuid, seen.placement.start))
    return tuple(sorted(found, key=lambda compute: compute.id))


def _mig_uuids(device: Any) -> dict[tuple[int, int], str]:
    """(GPU instance id, compute instance id) to MIG UUID. Indices have holes: NOT_FOUND is no end."""
    found = {}
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(device)):
        handle = calls.optional(partial(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, device, index), None)
        if handle is None:
            continue
        where = (pynvml.nvmlDeviceGetGpuInstanceId(handle), pynvml.nvmlDeviceGetComputeInstanceId(handle))
        found[where] = calls.text(pynvml.nvmlDeviceGetUUID(handle))
    return found


def _processes(device: Any) -> tuple[GpuProcess, ...]:
    rows = calls.optional(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses_v3(device), [])
    rows += calls.optional(lambda: pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3(device), [])
    return tuple(_process(row) for row in rows)


def _process(row: Any) -> GpuProcess:
    gpu_instance, compute_instance = (
        None if value in (None, calls.NO_INSTANCE) else int(value)
        for value in (row.gpuInstanceId, row.computeInstanceId)
    )
    return GpuProcess(row.pid, gpu_instance, compute_instance, row.usedGpuMemory or 0, _command(row.pid))


def _command(pid: int) -> str:
    try:
        return calls.text(pynvml.nvmlSystemGetProcessName(pid))
    except pynvml.NVMLError:
        return ""
