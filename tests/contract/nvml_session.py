"""This process's NVML session on a simulated node, and the verbs that tests need on it."""

from typing import Any

import pynvml

from tests.contract.nvml_contract import Profile, profiles
from tests.fakes.simgpu import SimulatedGpus


class Session:
    """A simulated node and this process's NVML session on it."""

    def __init__(self, node: SimulatedGpus) -> None:
        self.node = node
        node.load_into_this_process()
        pynvml.nvmlInit()
        self.gpu = pynvml.nvmlDeviceGetHandleByIndex(0)

    def profile(self, name: str) -> Profile:
        return next(profile for profile in profiles(self.gpu) if profile.name == name)

    def create(self, name: str, start: int | None = None) -> Any:
        """A GPU instance at ``start``, or where the driver likes."""
        profile = self.profile(name)
        if start is None:
            return pynvml.nvmlDeviceCreateGpuInstance(self.gpu, profile.id)
        placement = pynvml.c_nvmlGpuInstancePlacement_t(start, profile.size)
        call = pynvml.nvmlDeviceCreateGpuInstanceWithPlacement
        return call(self.gpu, profile.id, pynvml.byref(placement))

    def starts_chosen_for(self, *names: str) -> list[int]:
        return [pynvml.nvmlGpuInstanceGetInfo(self.create(name)).placement.start for name in names]

    def create_slice(self, name: str, start: int) -> tuple[Any, Any, Any]:
        """GPU instance, full-size compute instance, MIG device."""
        instance = self.create(name, start)
        compute = pynvml.nvmlGpuInstanceCreateComputeInstance(instance, widest_compute_profile(instance))
        return instance, compute, pynvml.nvmlComputeInstanceGetInfo(compute).device


def widest_compute_profile(instance: Any) -> int:
    found = []
    for enumerator in range(pynvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
        try:
            info = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, enumerator, 0)
        except pynvml.NVMLError_NotSupported:
            continue
        found.append((info.multiprocessorCount, info.id))
    return int(max(found)[1])


def mig_uuids(gpu: Any) -> list[str | None]:
    """By index; None at a hole."""
    found: list[str | None] = []
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            found.append(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index)))
        except pynvml.NVMLError_NotFound:
            found.append(None)
    return found


def destroy_all(gpu: Any) -> None:
    for profile in profiles(gpu):
        found = (pynvml.c_nvmlGpuInstance_t * 16)()
        count = pynvml.c_uint(16)
        pynvml.nvmlDeviceGetGpuInstances(gpu, profile.id, found, pynvml.byref(count))
        for instance in found[: count.value]:
            pynvml.nvmlGpuInstanceDestroy(instance)
