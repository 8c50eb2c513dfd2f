"""What the agent relies on in NVML, as far as it can be asked without changing anything."""

import ctypes
import time
from contextlib import suppress
from dataclasses import dataclass
from math import nan
from typing import Any

import pynvml
import pytest

WRONG_VERSION = (pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH)


@dataclass(frozen=True, slots=True)
class Profile:
    """A GPU instance profile as the driver tells it; ``starts`` and ``size`` in memory slices."""

    enumerator: int
    id: int
    name: str
    slices: int
    memory_mib: int
    multiprocessors: int
    starts: tuple[int, ...]
    size: int


def code_of(error: pytest.ExceptionInfo[BaseException]) -> int:
    return int(getattr(error.value, "value"))  # noqa: B009  (pynvml is untyped)


def placements(gpu: Any, profile_id: int) -> list[tuple[int, int]]:
    """(start, size) of every legal placement, occupied or not."""
    count = pynvml.c_uint(0)
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, profile_id, None, pynvml.byref(count))
    found = (pynvml.c_nvmlGpuInstancePlacement_t * max(1, count.value))()
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, profile_id, found, pynvml.byref(count))
    return [(place.start, place.size) for place in found[: count.value]]


def profiles(gpu: Any) -> list[Profile]:
    """Every profile the GPU has: loop until INVALID_ARGUMENT, pass over NOT_SUPPORTED."""
    found: list[Profile] = []
    for enumerator in range(256):
        try:
            info = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, enumerator)
        except pynvml.NVMLError_NotSupported:
            continue
        except pynvml.NVMLError_InvalidArgument:
            return found
        places = placements(gpu, info.id)
        name = info.name.decode() if isinstance(info.name, bytes) else info.name
        starts = tuple(start for start, _ in places)
        found.append(
            Profile(
                enumerator,
                info.id,
                name.removeprefix("MIG "),
                info.sliceCount,
                info.memorySizeMB,
                info.multiprocessorCount,
                starts,
                places[0][1],
            )
        )
    raise AssertionError("the profile enumeration does not end")


class NvmlContract:
    """Holds on any GPU that can do MIG, whatever its mode. ``gpu`` is its handle in an open session."""

    def test_mig_mode_is_told_as_current_and_pending(self, gpu: Any) -> None:
        current, pending = pynvml.nvmlDeviceGetMigMode(gpu)
        assert {current, pending} <= {0, 1}

    def test_there_are_no_mig_devices_to_count_while_mig_is_off(self, gpu: Any) -> None:
        current, _ = pynvml.nvmlDeviceGetMigMode(gpu)
        assert (pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu) > 0) == (current == 1)

    def test_while_mig_is_off_there_are_no_instances_and_asking_is_no_error(self, gpu: Any) -> None:
        """Seen on H100 and H200 with driver 580.159.04."""
        if pynvml.nvmlDeviceGetMigMode(gpu)[0] == 1:
            return
        for profile in profiles(gpu):
            handles, count = (pynvml.c_nvmlGpuInstance_t * 32)(), pynvml.c_uint(7)
            pynvml.nvmlDeviceGetGpuInstances(gpu, profile.id, handles, pynvml.byref(count))
            assert count.value == 0
            assert pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, profile.id) >= 1
        with pytest.raises(pynvml.NVMLError_NotFound):
            pynvml.nvmlDeviceGetGpuInstanceById(gpu, 1)
        with pytest.raises(pynvml.NVMLError_NotFound):
            pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)

    def test_profiles_and_placements_can_be_asked_in_any_mode(self, gpu: Any) -> None:
        found = profiles(gpu)
        assert len({profile.id for profile in found}) == len(found) >= 5
        assert all(profile.starts and profile.size and profile.memory_mib for profile in found)

    def test_every_placement_lies_on_the_board_of_the_largest_profile(self, gpu: Any) -> None:
        found = profiles(gpu)
        board = max(profile.size for profile in found)
        assert all(start + profile.size <= board for profile in found for start in profile.starts)

    def test_the_first_and_second_version_of_profile_info_agree(self, gpu: Any) -> None:
        for profile in profiles(gpu):
            first = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, profile.enumerator, version=1)
            second = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, profile.enumerator, version=2)
            for field in ("id", "sliceCount", "instanceCount", "multiprocessorCount", "memorySizeMB"):
                assert getattr(first, field) == getattr(second, field)

    def test_a_struct_of_an_unknown_version_is_refused(self, gpu: Any) -> None:
        info = pynvml.c_nvmlGpuInstanceProfileInfo_v2_t()
        info.version = 0x7F000098
        call = pynvml._nvmlGetFunctionPointer("nvmlDeviceGetGpuInstanceProfileInfoV")
        assert call(gpu, 0, pynvml.byref(info)) in WRONG_VERSION

    def test_an_unknown_profile_id_has_no_placements(self, gpu: Any) -> None:
        with pytest.raises(pynvml.NVMLError) as refused:
            placements(gpu, 999)
        assert code_of(refused) in (pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_NOT_SUPPORTED)

    def test_a_gpu_is_found_again_by_its_uuid(self, gpu: Any) -> None:
        uuid = pynvml.nvmlDeviceGetUUID(gpu)
        again = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        assert uuid.startswith("GPU-")
        assert pynvml.nvmlDeviceGetMinorNumber(again) == pynvml.nvmlDeviceGetMinorNumber(gpu)

    def test_a_uuid_of_no_gpu_is_not_found(self, gpu: Any) -> None:
        with pytest.raises(pynvml.NVMLError_NotFound):
            pynvml.nvmlDeviceGetHandleByUUID("GPU-00000000-0000-0000-0000-000000000000")

    def test_a_physical_gpu_is_no_mig_device(self, gpu: Any) -> None:
        assert pynvml.nvmlDeviceIsMigDeviceHandle(gpu).value == 0

    def test_a_physical_gpu_has_no_ids_of_instances(self, gpu: Any) -> None:
        for question in (pynvml.nvmlDeviceGetGpuInstanceId, pynvml.nvmlDeviceGetComputeInstanceId):
            with pytest.raises(pynvml.NVMLError_InvalidArgument):
                question(gpu)

    def test_memory_adds_up(self, gpu: Any) -> None:
        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu, version=pynvml.nvmlMemory_v2)
        assert memory.total == memory.free + memory.used + memory.reserved

    def test_generations_before_hopper_need_a_reset_and_have_no_gpm(self, gpu: Any) -> None:
        hopper = pynvml.nvmlDeviceGetArchitecture(gpu) >= pynvml.NVML_DEVICE_ARCH_HOPPER
        [field] = pynvml.nvmlDeviceGetFieldValues(gpu, [184])
        assert field.nvmlReturn == pynvml.NVML_SUCCESS
        assert bool(field.value.uiVal) == hopper
        assert bool(pynvml.nvmlGpmQueryDeviceSupport(gpu).isSupportedDevice) == hopper

    def test_two_samples_at_the_same_time_tell_nothing_and_do_not_say_so(self, gpu: Any) -> None:
        """Zeros with SUCCESS, whatever the load; of DRAM no number."""
        if not pynvml.nvmlGpmQueryDeviceSupport(gpu).isSupportedDevice:
            return
        samples = [pynvml.nvmlGpmSampleAlloc() for _ in range(2)]
        for sample in samples:
            pynvml.nvmlGpmSampleGet(gpu, sample)
        request = pynvml.c_nvmlGpmMetricsGet_t()
        request.version, request.numMetrics = pynvml.NVML_GPM_METRICS_GET_VERSION, 3
        request.sample1, request.sample2 = samples
        for position, metric in enumerate((1, 2, 10)):
            request.metrics[position].metricId = metric
        pynvml.nvmlGpmMetricsGet(request)
        told = [(row.nvmlReturn, row.value) for row in request.metrics[:3]]
        assert told[:2] == [(pynvml.NVML_SUCCESS, 0.0)] * 2
        assert told[2] == (pynvml.NVML_SUCCESS, pytest.approx(nan, nan_ok=True))
        for sample in samples:
            pynvml.nvmlGpmSampleFree(sample)

    def test_gpm_has_no_sample_of_an_instance_that_is_not_there(self, gpu: Any) -> None:
        if not pynvml.nvmlGpmQueryDeviceSupport(gpu).isSupportedDevice:
            return
        sample = pynvml.nvmlGpmSampleAlloc()
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            pynvml.nvmlGpmMigSampleGet(gpu, 99, sample)
        pynvml.nvmlGpmSampleFree(sample)

    def test_health_is_told_in_any_mode(self, gpu: Any) -> None:
        """ECC may be off, and is then NOT_SUPPORTED."""
        assert 0 < pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU) < 120
        assert 1_000 < pynvml.nvmlDeviceGetPowerUsage(gpu) < 2_000_000
        for kind in (pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED):
            with suppress(pynvml.NVMLError_NotSupported):
                assert pynvml.nvmlDeviceGetTotalEccErrors(gpu, kind, pynvml.NVML_VOLATILE_ECC) >= 0

    def test_rates_are_told_of_a_gpu_that_is_whole_only(self, gpu: Any) -> None:
        if pynvml.nvmlDeviceGetMigMode(gpu)[0] == 1:
            with pytest.raises(pynvml.NVMLError_NotSupported):
                pynvml.nvmlDeviceGetUtilizationRates(gpu)
            return
        assert 0 <= pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu <= 100

    def test_a_handle_is_the_same_address_each_time_within_a_session(self, gpu: Any) -> None:
        """By which an event's GPU is known when nothing can be asked of it any more."""
        again = pynvml.nvmlDeviceGetHandleByUUID(pynvml.nvmlDeviceGetUUID(gpu))
        addresses = {ctypes.cast(handle, ctypes.c_void_p).value for handle in (gpu, again)}
        assert len(addresses) == 1

    def test_who_waits_for_an_event_for_no_time_at_all_has_the_answer_at_once(self, gpu: Any) -> None:
        events = pynvml.nvmlEventSetCreate()
        pynvml.nvmlDeviceRegisterEvents(gpu, pynvml.nvmlEventTypeXidCriticalError, events)
        began = time.monotonic()
        with pytest.raises(pynvml.NVMLError_Timeout):
            pynvml.nvmlEventSetWait_v2(events, 0)
        assert time.monotonic() - began < 1
        pynvml.nvmlEventSetFree(events)

    def test_an_event_set_without_events_times_out(self, gpu: Any) -> None:
        events = pynvml.nvmlEventSetCreate()
        pynvml.nvmlDeviceRegisterEvents(gpu, pynvml.nvmlEventTypeXidCriticalError, events)
        with pytest.raises(pynvml.NVMLError_Timeout):
            pynvml.nvmlEventSetWait_v2(events, 1)
        pynvml.nvmlEventSetFree(events)
