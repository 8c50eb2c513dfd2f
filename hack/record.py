"""What the GPUs of this machine report, in the format of ``agent/data/mig_geometry.json``. Reads only.

``table`` has one row per model, with ``null`` for what cannot be asked: compute profiles are told by GPU instances only, so
by those that exist; the number of MIG devices only in MIG mode; what a reboot does to the mode, by nobody. ``raw`` has what
NVML said, as it said it. Needs nothing but Python and nvidia-ml-py.
"""

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml

TABLE = Path(__file__).resolve().parent.parent / "agent" / "data" / "mig_geometry.json"
ARCHITECTURES = {7: "ampere", 8: "ada", 9: "hopper", 10: "blackwell"}
FIELDS = {"resetless_mig": 184, "profiles_without_mig": 199}
GPM_METRICS = (*range(1, 14), 20, 21, 60, 61)
GPM_INTERVAL_SECONDS = 0.15
LAST_ENUM = 64
ENGINES = {
    "copy_engines": "copyEngineCount",
    "decoders": "decoderCount",
    "encoders": "encoderCount",
    "jpeg": "jpegCount",
    "ofa": "ofaCount",
}

Row = dict[str, Any]


class ProfileInfoV3(ctypes.Structure):
    """nvmlGpuInstanceProfileInfo_v3_t, which pynvml does not have."""

    VERSION = 0x03000098
    _fields_ = [
        *((name, ctypes.c_uint) for name in ("version", "id", "sliceCount", "instanceCount", "multiprocessorCount")),
        *((name, ctypes.c_uint) for name in ENGINES.values()),
        ("memorySizeMB", ctypes.c_ulonglong),
        ("name", ctypes.c_char * 96),
        ("capabilities", ctypes.c_uint),
    ]


def told(question: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, or ``{"error": code}``."""
    try:
        return question(*arguments)
    except pynvml.NVMLError as error:
        return {"error": int(error.value)}


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def value_or_none(answer: Any) -> Any:
    return None if isinstance(answer, dict) and "error" in answer else answer


def fields_of(struct: Any) -> Row:
    """Every number and string of a ctypes struct by its name."""
    names = [field[0] for field in struct._fields_]
    values = {name: getattr(struct, name) for name in names}
    return {name: text(value) if isinstance(value, (bytes, str)) else int(value) for name, value in values.items()}


def profile_info(gpu: Any, enum: int, version: int) -> Row:
    if version < 3:
        return fields_of(pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, enum, version=version))
    info = ProfileInfoV3(version=ProfileInfoV3.VERSION)
    call = pynvml._nvmlGetFunctionPointer("nvmlDeviceGetGpuInstanceProfileInfoV")
    pynvml._nvmlCheckReturn(call(gpu, enum, ctypes.byref(info)))
    return fields_of(info)


def placements(gpu: Any, profile_id: int) -> list[list[int]]:
    """(start, size) of all, in memory slices."""
    count = ctypes.c_uint(0)
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, profile_id, None, ctypes.byref(count))
    found = (pynvml.c_nvmlGpuInstancePlacement_t * max(1, count.value))()
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, profile_id, found, ctypes.byref(count))
    return [[found[i].start, found[i].size] for i in range(count.value)]


def profiles(gpu: Any) -> list[Row]:
    """By enum: the info of each version that the driver knows, and the placements."""
    found = []
    for enum in range(LAST_ENUM):
        first = told(profile_info, gpu, enum, 1)
        if first == {"error": pynvml.NVML_ERROR_INVALID_ARGUMENT}:
            break
        if "error" in first:
            continue
        later = {f"v{version}": told(profile_info, gpu, enum, version) for version in (2, 3)}
        found.append({"enum": enum, "v1": first, **later, "placements": told(placements, gpu, first["id"])})
    return found


def instances(gpu: Any, profile_ids: list[int]) -> list[Row]:
    """GPU instances that exist, with their compute profiles."""
    handles = [(identity, handle) for identity in profile_ids for handle in instance_handles(gpu, identity)]
    return [instance(identity, handle) for identity, handle in handles]


def instance_handles(gpu: Any, profile_id: int) -> list[Any]:
    """None while MIG is off or to a caller who may not list them."""
    handles = (pynvml.c_nvmlGpuInstance_t * 32)()
    count = ctypes.c_uint(0)
    answer = told(pynvml.nvmlDeviceGetGpuInstances, gpu, profile_id, handles, ctypes.byref(count))
    return [] if isinstance(answer, dict) else list(handles[: count.value])


def instance(profile_id: int, handle: Any) -> Row:
    info = pynvml.nvmlGpuInstanceGetInfo(handle)
    place = [info.placement.start, info.placement.size]
    return {"id": info.id, "profile_id": profile_id, "placement": place, "compute": compute_profiles(handle)}


def compute_profiles(instance: Any) -> list[Row]:
    found = []
    for enum in range(LAST_ENUM):
        info = told(compute_profile_info, instance, enum)
        if info == {"error": pynvml.NVML_ERROR_INVALID_ARGUMENT}:
            break
        if "error" not in info:
            found.append({"enum": enum, **info})
    return found


def compute_profile_info(instance: Any, enum: int) -> Row:
    return fields_of(pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, enum, 0, version=1))


def gpm(gpu: Any, instance_ids: list[int]) -> Row:
    """Support, and what each documented metric returns over a short interval: of the first GPU instance, or of the GPU."""
    support = told(lambda: bool(pynvml.nvmlGpmQueryDeviceSupport(gpu).isSupportedDevice))
    if support is not True:
        return {"supported": support}
    first = instance_ids[0] if instance_ids else None
    samples = [pynvml.nvmlGpmSampleAlloc() for _ in range(2)]
    try:
        return {"supported": True, "of_instance": first, **gpm_metrics(gpu, samples, first)}
    except pynvml.NVMLError as error:
        return {"supported": True, "error": int(error.value)}
    finally:
        for sample in samples:
            pynvml.nvmlGpmSampleFree(sample)


def gpm_metrics(gpu: Any, samples: list[Any], instance_id: int | None) -> Row:
    for sample in samples:
        time.sleep(GPM_INTERVAL_SECONDS)
        if instance_id is not None:
            pynvml.nvmlGpmMigSampleGet(gpu, instance_id, sample)
        else:
            pynvml.nvmlGpmSampleGet(gpu, sample)
    request = pynvml.c_nvmlGpmMetricsGet_t()
    request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
    request.sample1, request.sample2 = samples
    request.numMetrics = len(GPM_METRICS)
    for position, metric in enumerate(GPM_METRICS):
        request.metrics[position].metricId = metric
    pynvml.nvmlGpmMetricsGet(request)
    rows = request.metrics[: len(GPM_METRICS)]
    return {"metrics": {str(row.metricId): {"return": row.nvmlReturn, "value": row.value} for row in rows}}


def health(gpu: Any) -> Row:
    """What tells how the GPU does, in the units of NVML: degrees, milliwatts, per cent, counts since the driver was loaded."""
    kinds = {
        "corrected": pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
        "uncorrected": pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
    }
    return {
        "temperature": told(pynvml.nvmlDeviceGetTemperature, gpu, pynvml.NVML_TEMPERATURE_GPU),
        "power": told(pynvml.nvmlDeviceGetPowerUsage, gpu),
        "utilization": told(lambda: fields_of(pynvml.nvmlDeviceGetUtilizationRates(gpu))),
        "ecc": {
            name: told(pynvml.nvmlDeviceGetTotalEccErrors, gpu, kind, pynvml.NVML_VOLATILE_ECC)
            for name, kind in kinds.items()
        },
        "event_types": told(pynvml.nvmlDeviceGetSupportedEventTypes, gpu),
        "no_event": told(first_event, gpu),
    }


def first_event(gpu: Any) -> None:
    """Asked without any time to wait."""
    events = pynvml.nvmlEventSetCreate()
    try:
        pynvml.nvmlDeviceRegisterEvents(gpu, pynvml.nvmlEventTypeXidCriticalError, events)
        pynvml.nvmlEventSetWait_v2(events, 0)
    finally:
        pynvml.nvmlEventSetFree(events)


def field(gpu: Any, number: int) -> Any:
    """The field's value; None where the driver does not tell."""
    answer = told(lambda: pynvml.nvmlDeviceGetFieldValues(gpu, [number])[0])
    if isinstance(answer, dict) or answer.nvmlReturn != pynvml.NVML_SUCCESS:
        return None
    return bool(answer.value.uiVal)


def raw_facts(gpu: Any) -> Row:
    pci = pynvml.nvmlDeviceGetPciInfo(gpu)
    found = profiles(gpu)
    existing = instances(gpu, [profile["v1"]["id"] for profile in found])
    return {
        "name": text(pynvml.nvmlDeviceGetName(gpu)),
        "pci_device_id": f"0x{pci.pciDeviceId:08X}",
        "pci_subsystem_id": f"0x{pci.pciSubSystemId:08X}",
        "nvml_architecture": told(lambda: pynvml.nvmlDeviceGetArchitecture(gpu)),
        "compute_capability": told(lambda: list(pynvml.nvmlDeviceGetCudaComputeCapability(gpu))),
        "memory_bytes": told(lambda: pynvml.nvmlDeviceGetMemoryInfo(gpu).total),
        "mig_mode": told(lambda: list(pynvml.nvmlDeviceGetMigMode(gpu))),
        "max_mig_devices": told(lambda: pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)),
        "fields": {name: field(gpu, number) for name, number in FIELDS.items()},
        "profiles": found,
        "instances": existing,
        "gpm": gpm(gpu, [instance["id"] for instance in existing]),
        "health": health(gpu),
    }


def most_that_fit(places: list[list[int]]) -> int:
    """Placements of one profile that do not overlap, taken from the left."""
    fits, end = 0, 0
    for start, size in sorted(places):
        if start >= end:
            fits, end = fits + 1, start + size
    return fits


def profile_row(profile: Row, existing: list[Row]) -> Row:
    """The table's row. NVML's instance count is wrong on A30, so never more than there are places."""
    info, places = profile["v1"], profile["placements"]
    name = next((profile[version]["name"] for version in ("v2", "v3") if profile[version].get("name")), None)
    computes = [instance["compute"] for instance in existing if instance["profile_id"] == info["id"]]
    return {
        "name": name.removeprefix("MIG ") if name is not None else None,
        "enum": profile["enum"],
        "id": info["id"],
        "slices": info["sliceCount"],
        "memory_mib": info["memorySizeMB"],
        "multiprocessors": info["multiprocessorCount"],
        **{ours: info[theirs] for ours, theirs in ENGINES.items()},
        "max_instances": min(info["instanceCount"], most_that_fit(places)),
        "size": places[0][1],
        "starts": [start for start, _ in places],
        "compute": [compute_row(compute) for compute in computes[0]] if computes else None,
    }


def compute_row(compute: Row) -> Row:
    return {
        "id": compute["id"],
        "enum": compute["enum"],
        "slices": compute["sliceCount"],
        "multiprocessors": compute["multiprocessorCount"],
        "max_instances": compute["instanceCount"],
    }


def table_row(raw: Row, driver: str) -> Row:
    rows = [profile_row(profile, raw["instances"]) for profile in raw["profiles"]]
    capability = value_or_none(raw["compute_capability"])
    memory = value_or_none(raw["memory_bytes"])
    return {
        "names": [raw["name"]],
        "pci_device_ids": [raw["pci_device_id"]],
        "architecture": ARCHITECTURES.get(raw["nvml_architecture"])
        if value_or_none(raw["nvml_architecture"])
        else None,
        "nvml_architecture": value_or_none(raw["nvml_architecture"]),
        "compute_capability": ".".join(map(str, capability)) if capability is not None else None,
        "memory_mib": memory >> 20 if memory is not None else None,
        "memory_slices": max((row["size"] for row in rows), default=None),
        "max_mig_devices": value_or_none(raw["max_mig_devices"]) or None,
        "resetless_mig": raw["fields"]["resetless_mig"],
        "gpm": raw["gpm"]["supported"] is True,
        "mig_mode_survives_reboot": None,
        "name_aliases": {},
        "source": f"recorded with driver {driver}",
        "profiles": rows,
    }


def key_of(name: str) -> str:
    """The project's key of the model, or its name where the table does not know it."""
    rows: dict[str, Row] = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    return next((key for key, row in rows.items() if name in row["names"]), name)


def record() -> Row:
    """Everything, within an open NVML session. Raises NVMLError when not even the names are told."""
    driver = text(pynvml.nvmlSystemGetDriverVersion())
    raws = [raw_facts(pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(pynvml.nvmlDeviceGetCount())]
    return {
        "driver": driver,
        "nvml": text(pynvml.nvmlSystemGetNVMLVersion()),
        "table": {key_of(raw["name"]): table_row(raw, driver) for raw in raws},
        "raw": raws,
    }


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        print(f"record_gpu: no NVML here: {error}", file=sys.stderr)
        return 1
    try:
        print(json.dumps(record(), indent=1))
    finally:
        pynvml.nvmlShutdown()
    return 0
