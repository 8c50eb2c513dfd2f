"""What of a GPU changes with the driver, the caller's rights and the machine around it."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import run
from typing import Any
from uuid import UUID

import pynvml
import pytest

from hack.record import profile_info
from tests.contract.nvml_contract import code_of, placements, profiles
from tests.contract.nvml_session import Session, mig_uuids
from tests.fakes.simgpu import H100, SimulatedGpus

A100 = "A100-SXM4-40GB"
RTX = "RTX-PRO-6000-96GB"
on = pytest.mark.parametrize


@pytest.fixture
def driven(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Session]:
    """A GPU under a driver: the parameter is (model, branch, whether MIG is on)."""
    model, branch, mig = request.param
    opened = Session(SimulatedGpus.create(tmp_path, model, driver=branch, mig=mig))
    yield opened
    pynvml.nvmlShutdown()


def names(session: Session) -> set[str]:
    return {profile.name for profile in profiles(session.gpu)}


def first_versions(gpu: Any) -> dict[int, Any]:
    """Version 1 of the profile info by enumerator."""
    found = {}
    for enumerator in range(16):
        try:
            found[enumerator] = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, enumerator, version=1)
        except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_InvalidArgument):
            continue
    return found


class TestDriver:
    @on("driven", [(H100, 535, True)], indirect=True)
    def test_an_old_driver_has_no_profile_names(self, driven: Session) -> None:
        with pytest.raises(pynvml.NVMLError_FunctionNotFound):
            pynvml.nvmlDeviceGetGpuInstanceProfileInfo(driven.gpu, 0, version=2)
        assert first_versions(driven.gpu)[0].id == 19
        assert pynvml.nvmlSystemGetDriverVersion().startswith("535.")

    @on(
        ("driven", "refusal"),
        [
            ((H100, 535, True), pynvml.NVML_ERROR_FUNCTION_NOT_FOUND),
            ((H100, 550, True), pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH),
            ((H100, 570, True), pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH),
        ],
        indirect=["driven"],
    )
    def test_an_older_driver_refuses_the_third_version_of_profile_info(self, driven: Session, refusal: int) -> None:
        with pytest.raises(pynvml.NVMLError) as refused:
            profile_info(driven.gpu, 0, version=3)
        assert code_of(refused) == refusal

    @on("driven", [(RTX, 580, True)], indirect=True)
    def test_the_third_version_tells_which_profiles_can_draw_and_no_names(self, driven: Session) -> None:
        """That the names are empty was seen on H100 and H200 with driver 580.159.04."""
        named = {profile.enumerator: profile.name for profile in profiles(driven.gpu)}
        told = {enum: profile_info(driven.gpu, enum, version=3) for enum in named}
        assert {enum for enum, info in told.items() if info["capabilities"] & 2} == {
            enum for enum, name in named.items() if name.endswith("+gfx")
        }
        assert any(info["capabilities"] for info in told.values())
        assert {info["name"] for info in told.values()} == {""}

    @on("branch", [535, 550, 570, 580])
    def test_nvidia_smi_makes_slices_under_every_driver(self, tmp_path: Path, branch: int) -> None:
        node = SimulatedGpus.create(tmp_path, H100, driver=branch, mig=True)
        made = node.nvidia_smi("mig", "-cgi", "9,1g.10gb", "-C")
        assert made.returncode == 0
        assert "using profile MIG 3g.40gb (ID  9)" in made.stdout

    @on("driven", [(H100, 535, False)], indirect=True)
    def test_an_old_driver_lists_no_profiles_while_mig_is_off(self, driven: Session) -> None:
        [capable] = pynvml.nvmlDeviceGetFieldValues(driven.gpu, [199])
        assert (capable.nvmlReturn, first_versions(driven.gpu)) == (pynvml.NVML_ERROR_NOT_SUPPORTED, {})
        pynvml.nvmlDeviceSetMigMode(driven.gpu, 1)
        assert len(first_versions(driven.gpu)) == 7

    @on(
        ("driven", "memory_mib"),
        [((H100, 550, False), 9856), ((H100, 570, False), 9984), ((H100, 580, False), 9984)],
        indirect=["driven"],
    )
    def test_memory_of_the_smallest_slice_moved_with_the_driver(self, driven: Session, memory_mib: int) -> None:
        assert driven.profile("1g.10gb").memory_mib == memory_mib

    @on(
        ("driven", "name"),
        [(("GB200-186GB", 570, False), "1g.24gb"), (("GB200-186GB", 580, False), "1g.23gb")],
        indirect=["driven"],
    )
    def test_a_name_moved_with_the_driver_and_still_follows_from_memory(self, driven: Session, name: str) -> None:
        total_mib = pynvml.nvmlDeviceGetMemoryInfo(driven.gpu).total >> 20
        assert {name, f"{name}+me"} <= names(driven)
        for profile in profiles(driven.gpu):
            share = -(-profile.memory_mib * 8 // total_mib) / 8
            assert int(share * -(-total_mib // 1024) + 0.5) == int(profile.name.split(".")[1].split("gb")[0])

    @on("driven", [(RTX, 570, True)], indirect=True)
    def test_an_old_driver_does_not_know_new_profiles(self, driven: Session) -> None:
        assert names(driven) == {"1g.24gb", "1g.24gb+me", "2g.48gb", "4g.96gb"}
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            pynvml.nvmlDeviceCreateGpuInstance(driven.gpu, 47)

    @on("driven", [(H100, 570, True)], indirect=True)
    def test_an_old_driver_refuses_a_new_metric_alone(self, driven: Session) -> None:
        samples = [pynvml.nvmlGpmSampleAlloc() for _ in range(2)]
        for sample in samples:
            pynvml.nvmlGpmSampleGet(driven.gpu, sample)
        request = pynvml.c_nvmlGpmMetricsGet_t()
        request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        request.sample1, request.sample2 = samples
        request.numMetrics = 2
        request.metrics[0].metricId, request.metrics[1].metricId = 1, 100
        pynvml.nvmlGpmMetricsGet(request)
        assert [row.nvmlReturn for row in request.metrics[:2]] == [
            pynvml.NVML_SUCCESS,
            pynvml.NVML_ERROR_INVALID_ARGUMENT,
        ]


class TestRights:
    def test_who_has_no_rights_neither_changes_nor_lists_instances(self, session: Session) -> None:
        """The calls for which nvml.h requires a privileged user."""
        instance, compute, _ = session.create_slice("1g.10gb", 0)
        profile = session.profile("1g.10gb").id
        session.node.run("permission", "nobody")
        count = pynvml.c_uint(16)
        room, other_room = (pynvml.c_nvmlGpuInstance_t * 16)(), (pynvml.c_nvmlComputeInstance_t * 16)()
        call = pynvml._nvmlGetFunctionPointer
        deeds: list[Callable[[], Any]] = [
            lambda: pynvml.nvmlDeviceSetMigMode(session.gpu, 0),
            lambda: pynvml.nvmlDeviceCreateGpuInstance(session.gpu, profile),
            lambda: pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 0),
            lambda: pynvml.nvmlComputeInstanceDestroy(compute),
            lambda: pynvml.nvmlGpuInstanceDestroy(instance),
            lambda: placements(session.gpu, profile),
            lambda: pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(session.gpu, profile),
            lambda: pynvml.nvmlDeviceGetGpuInstances(session.gpu, profile, room, pynvml.byref(count)),
            lambda: pynvml.nvmlDeviceGetGpuInstanceById(session.gpu, 7),
            lambda: pynvml.nvmlGpuInstanceGetComputeInstanceRemainingCapacity(instance, 0),
            lambda: pynvml.nvmlGpuInstanceGetComputeInstances(instance, 0, other_room, pynvml.byref(count)),
            lambda: pynvml.nvmlGpuInstanceGetComputeInstanceById(instance, 0),
        ]
        for deed in deeds:
            with pytest.raises(pynvml.NVMLError_NoPermission):
                deed()
        ask = call("nvmlGpuInstanceGetComputeInstancePossiblePlacements")
        assert ask(instance, 0, None, pynvml.byref(count)) == pynvml.NVML_ERROR_NO_PERMISSION
        session.node.run("permission", "all")
        pynvml.nvmlComputeInstanceDestroy(compute)

    def test_but_may_look_at_the_mode_and_at_mig_devices(self, session: Session) -> None:
        _, _, device = session.create_slice("1g.10gb", 0)
        session.node.run("permission", "nobody")
        assert pynvml.nvmlDeviceGetMigMode(session.gpu) == [1, 1]
        assert mig_uuids(session.gpu)[0] == pynvml.nvmlDeviceGetUUID(device)
        assert pynvml.nvmlDeviceGetGpuInstanceId(device) == 7
        assert session.node.nvidia_smi("-L").stdout.count("MIG 1g.10gb") == 1

    def test_root_may_and_another_user_may_not(self, session: Session) -> None:
        """A process that gives root away keeps its session; the driver asks who calls."""
        session.node.run("permission", "root")
        code = (
            "import os, pynvml as n\n"
            "n.nvmlInit()\n"
            "gpu = n.nvmlDeviceGetHandleByIndex(0)\n"
            "if os.geteuid() == 0:\n"
            "    n.nvmlDeviceSetMigMode(gpu, 1)\n"
            "    os.seteuid(65534)\n"
            "try:\n"
            "    n.nvmlDeviceSetMigMode(gpu, 1)\n"
            "except n.NVMLError_NoPermission:\n"
            "    print('refused')\n"
        )
        asked = run([sys.executable, "-c", code], env=session.node.env(), capture_output=True, text=True, check=True)
        assert asked.stdout == "refused\n"


class TestMachine:
    @on(("kind", "activation"), [("passthrough", "RESET_REQUIRED"), ("vm", "NOT_SUPPORTED")])
    def test_in_a_guest_the_mode_waits_for_its_reboot(self, tmp_path: Path, kind: str, activation: str) -> None:
        node = SimulatedGpus.create(tmp_path, A100)
        [uuid] = node.gpu_uuids()
        node.run("virtualization", "--gpu", uuid, "--kind", kind)
        session = Session(node)
        assert pynvml.nvmlDeviceSetMigMode(session.gpu, 1) == getattr(pynvml, f"NVML_ERROR_{activation}")
        assert pynvml.nvmlDeviceGetMigMode(session.gpu) == [0, 1]
        pynvml.nvmlShutdown()
        node.run("reboot")
        assert node.show()["gpus"][0]["mode"] == {"current": 1, "pending": 1}

    def test_a_vgpu_guest_cannot_change_the_mode(self, session: Session) -> None:
        [uuid] = session.node.gpu_uuids()
        session.node.run("virtualization", "--gpu", uuid, "--kind", "vgpu")
        with pytest.raises(pynvml.NVMLError) as refused:
            pynvml.nvmlDeviceSetMigMode(session.gpu, 0)
        assert code_of(refused) == pynvml.NVML_ERROR_NOT_SUPPORTED
        assert pynvml.nvmlDeviceGetMigMode(session.gpu) == [1, 1]
        assert pynvml.nvmlDeviceGetVirtualizationMode(session.gpu) == pynvml.NVML_GPU_VIRTUALIZATION_MODE_VGPU


class TestTime:
    def test_every_call_may_take_time(self, session: Session) -> None:
        session.node.run("latency", "--function", "*", "--ms", "50")
        started = time.monotonic()
        pynvml.nvmlDeviceGetName(session.gpu)
        pynvml.nvmlDeviceGetUUID(session.gpu)
        assert time.monotonic() - started >= 0.1

    def test_latency_of_zero_takes_it_back(self, session: Session) -> None:
        session.node.run("latency", "--function", "nvmlDeviceGetName", "--ms", "600000")
        session.node.run("latency", "--function", "nvmlDeviceGetName", "--ms", "0")
        pynvml.nvmlDeviceGetName(session.gpu)


class TestUuids:
    """A MIG UUID outlives its device, or does not: hardware has been seen to do the first, and promises neither."""

    def two_lives(self, session: Session) -> list[str]:
        uuids = []
        for _ in range(2):
            instance, compute, device = session.create_slice("1g.10gb", 0)
            uuids.append(pynvml.nvmlDeviceGetUUID(device))
            pynvml.nvmlComputeInstanceDestroy(compute)
            pynvml.nvmlGpuInstanceDestroy(instance)
        return uuids

    def test_the_same_place_gets_the_same_uuid(self, session: Session) -> None:
        first, second = self.two_lives(session)
        assert first == second
        assert first.startswith("MIG-")
        assert UUID(first.removeprefix("MIG-")).version == 5

    def test_or_a_fresh_one_each_time(self, session: Session) -> None:
        pynvml.nvmlShutdown()
        session.node.run("init", "--gpu", H100, "--mig", "--fresh-mig-uuids")
        first, second = self.two_lives(Session(session.node))
        assert first != second


def test_show_draws_the_gpus(session: Session) -> None:
    session.create_slice("3g.40gb", 4)
    session.create("1g.10gb", 2)
    lines = session.node.run("show").splitlines()
    boxes = [box.strip() for box in lines[1].split("|")[1:-1]]
    assert boxes == [".", ".", "1g.10gb", ".", "3g.40gb"]
    assert "(no compute instance)" in lines[3]
    session.node.run("lost", "--gpu", pynvml.nvmlDeviceGetUUID(session.gpu))
    assert session.node.run("show").splitlines()[0].endswith("MIG on  LOST")
