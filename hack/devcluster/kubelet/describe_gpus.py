"""The NVML side of the simulated DRA driver: prints the devices of a ResourceSlice as one line of JSON, and ends.

As NVIDIA's driver describes them in its source of the end of 2025: a GPU whole where MIG is off, else its MIG devices
(earlier releases listed the GPU besides them). Two compute instances of one GPU instance have the same name, so that only
one of them is listed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pynvml

from hack.devcluster.kubelet.enumerate_gpus import gpu_instance_profile, mig_devices, mig_is_on, profile_name
from hack.devcluster.objects import Object

_ARCHITECTURES = {
    pynvml.NVML_DEVICE_ARCH_AMPERE: "Ampere",
    pynvml.NVML_DEVICE_ARCH_HOPPER: "Hopper",
    pynvml.NVML_DEVICE_ARCH_BLACKWELL: "Blackwell",
}
_ENGINES = {
    "multiprocessors": "multiprocessorCount",
    "copyEngines": "copyEngineCount",
    "decoders": "decoderCount",
    "encoders": "encoderCount",
    "jpegEngines": "jpegCount",
    "ofaEngines": "ofaCount",
}


def main() -> int:
    pynvml.nvmlInit()
    try:
        gpus = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        named = {device["name"]: device for gpu in gpus for device in _devices(gpu)}
        print(json.dumps(list(named.values())), flush=True)
    finally:
        pynvml.nvmlShutdown()
    return 0


def _devices(gpu: Any) -> Iterator[Object]:
    name = f"gpu-{pynvml.nvmlDeviceGetMinorNumber(gpu)}"
    common = _common_attributes(gpu)
    if not mig_is_on(gpu):
        attributes = {"type": _text("gpu"), "uuid": _text(pynvml.nvmlDeviceGetUUID(gpu)), **common}
        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu).total
        yield {"name": name, "attributes": attributes, "capacity": {"memory": {"value": _binary(memory)}}}
        return
    for slice_ in mig_devices(gpu):
        yield _mig_device(gpu, slice_, name, common)


def _mig_device(gpu: Any, slice_: Any, parent: str, common: Object) -> Object:
    instance = pynvml.nvmlDeviceGetGpuInstanceById(gpu, pynvml.nvmlDeviceGetGpuInstanceId(slice_))
    info = pynvml.nvmlGpuInstanceGetInfo(instance)
    _, profile = gpu_instance_profile(gpu, info.profileId)
    placement = info.placement
    capacity = {name: {"value": str(getattr(profile, field))} for name, field in _ENGINES.items()}
    capacity["memory"] = {"value": _binary(profile.memorySizeMB * 2**20)}
    for number in range(placement.start, placement.start + placement.size):
        capacity[f"memorySlice{number}"] = {"value": "1"}
    attributes = {
        "type": _text("mig"),
        "uuid": _text(pynvml.nvmlDeviceGetUUID(slice_)),
        "parentUUID": _text(pynvml.nvmlDeviceGetUUID(gpu)),
        "profile": _text(profile_name(gpu, slice_)),
        **common,
    }
    name = f"{parent}-mig-{info.profileId}-{placement.start}-{placement.size}"
    return {"name": name, "attributes": attributes, "capacity": capacity}


def _common_attributes(gpu: Any) -> Object:
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(gpu)
    cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
    return {
        "productName": _text(pynvml.nvmlDeviceGetName(gpu)),
        "brand": _text("Nvidia"),
        "architecture": _text(_ARCHITECTURES.get(pynvml.nvmlDeviceGetArchitecture(gpu), "Unknown")),
        "cudaComputeCapability": _version(f"{major}.{minor}"),
        "driverVersion": _version(pynvml.nvmlSystemGetDriverVersion()),
        "cudaDriverVersion": _version(f"{cuda // 1000}.{cuda % 1000 // 10}"),
        "pcieBusID": _text(pynvml.nvmlDeviceGetPciInfo(gpu).busId.lower()[-12:]),
    }


def _text(value: str) -> Object:
    return {"string": value}


def _version(text: str) -> Object:
    """Semantic versions have three numbers without leading zeros: 580.95.05 is published as 580.95.5."""
    numbers = [str(int(part)) for part in text.split(".")]
    return {"version": ".".join([*numbers, "0", "0"][:3])}


def _binary(amount: int) -> str:
    """As Go prints a quantity: the largest unit that leaves a whole number."""
    for unit in ("", "Ki", "Mi", "Gi", "Ti"):
        if amount % 1024:
            return f"{amount}{unit}"
        amount //= 1024
    return f"{amount}Pi"


if __name__ == "__main__":
    raise SystemExit(main())
