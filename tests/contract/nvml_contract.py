"""What the agent relies on in NVML, as far as it can be asked without changing anything."""

from dataclasses import dataclass
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

    def test_memory_adds_up(self, gpu: Any) -> None:
        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu, version=pynvml.nvmlMemory_v2)
        assert memory.total == memory.free + memory.used + memory.reserved

    def test_generations_before_hopper_need_a_reset_and_have_no_gpm(self, gpu: Any) -> None:
        hopper = pynvml.nvmlDeviceGetArchitecture(gpu) >= pynvml.NVML_DEVICE_ARCH_HOPPER
        [field] = pynvml.nvmlDeviceGetFieldValues(gpu, [184])
        assert field.nvmlReturn == pynvml.NVML_SUCCESS
        assert bool(field.value.uiVal) == hopper
        assert bool(pynvml.nvmlGpmQueryDeviceSupport(gpu).isSupportedDevice) == hopper

    def test_an_event_set_without_events_times_out(self, gpu: Any) -> None:
        events = pynvml.nvmlEventSetCreate()
        pynvml.nvmlDeviceRegisterEvents(gpu, pynvml.nvmlEventTypeXidCriticalError, events)
        with pytest.raises(pynvml.NVMLError_Timeout):
            pynvml.nvmlEventSetWait_v2(events, 1)
        pynvml.nvmlEventSetFree(events)
