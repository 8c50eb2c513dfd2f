"""The contract on a real GPU and on the simulated one, and what only the simulated one may be put through."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest

from hack.simgpu.table import gigabytes
from tests.contract.nvml_contract import NvmlContract, profiles
from tests.contract.nvml_session import Session, destroy_all, mig_uuids
from tests.fakes.simgpu import H100, SimulatedGpus

A100 = "A100-SXM4-40GB"
RTX = "RTX-PRO-6000-96GB"
MODELS = json.loads((Path(__file__).parents[2] / "agent/data/mig_geometry.json").read_text())


@pytest.mark.gpu
class TestRealGpu(NvmlContract):
    """Alone in its process, for pynvml binds to one library only: ``pytest -m gpu``."""

    @pytest.fixture
    def gpu(self, request: pytest.FixtureRequest) -> Iterator[Any]:
        if request.config.getoption("-m") != "gpu":
            pytest.skip("needs a process of its own: pytest -m gpu")
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as absent:
            pytest.skip(f"no GPU: {absent}")
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        try:
            pynvml.nvmlDeviceGetMigMode(gpu)
        except pynvml.NVMLError_NotSupported:
            pynvml.nvmlShutdown()
            pytest.skip("this GPU cannot do MIG")
        yield gpu
        pynvml.nvmlShutdown()


on = pytest.mark.parametrize


class TestSimulatedGpu(NvmlContract):
    @pytest.fixture(params=[f"{model}{mode}" for model in (A100, H100, RTX) for mode in ("", " in MIG mode")])
    def gpu(self, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
        model, _, mode = request.param.partition(" ")
        yield Session(SimulatedGpus.create(tmp_path, model, mig=bool(mode))).gpu
        pynvml.nvmlShutdown()


class TestGeometry:
    @on("session", MODELS, indirect=True)
    def test_names_follow_from_memory_and_are_the_tables(
        self, session: Session, request: pytest.FixtureRequest
    ) -> None:
        table = MODELS[request.node.callspec.params["session"]]
        total_mib = pynvml.nvmlDeviceGetMemoryInfo(session.gpu).total / 2**20
        found = profiles(session.gpu)
        assert {profile.name for profile in found} == {row["name"] for row in table["profiles"]}
        for profile in found:
            eighths = -(-profile.memory_mib * 8 // total_mib)
            assert int(eighths / 8 * -(-total_mib // 1024) + 0.5) == gigabytes(profile.name)

    @on("session", MODELS, indirect=True)
    def test_every_profile_can_be_created_at_each_of_its_placements(self, session: Session) -> None:
        for profile in profiles(session.gpu):
            for start in profile.starts:
                instance, compute, device = session.create_slice(profile.name, start)
                attributes = pynvml.nvmlDeviceGetAttributes_v2(device)
                assert attributes.multiprocessorCount == profile.multiprocessors
                pynvml.nvmlComputeInstanceDestroy(compute)
                pynvml.nvmlGpuInstanceDestroy(instance)

    @on("session", [A100, H100], indirect=True)
    def test_without_a_placement_the_driver_chooses_as_seen_on_hardware(self, session: Session) -> None:
        one, two, three, four = ("1g", "2g", "3g", "4g")
        by_slices = {profile.name.split(".")[0]: profile.name for profile in reversed(profiles(session.gpu))}
        extension = next(profile.name for profile in profiles(session.gpu) if profile.name.endswith("+me"))
        one, two, three, four = (by_slices[name] for name in (one, two, three, four))
        for names, starts in (
            ([one] * 7, [6, 4, 5, 0, 1, 2, 3]),
            ([two, two, two, extension], [4, 0, 2, 6]),
            ([one, two, four], [6, 4, 0]),
            ([three, three], [4, 0]),
        ):
            assert session.starts_chosen_for(*names) == starts
            destroy_all(session.gpu)

    @on("session", [A100], indirect=True)
    def test_greedy_choice_can_lose_what_explicit_placements_fit(self, session: Session) -> None:
        with pytest.raises(pynvml.NVMLError_InsufficientResources):
            session.starts_chosen_for("1g.5gb", "1g.5gb", "2g.10gb", "3g.20gb")
        destroy_all(session.gpu)
        for name, start in (("3g.20gb", 4), ("2g.10gb", 2), ("1g.5gb", 0), ("1g.5gb", 1)):
            session.create(name, start)

    @on("session", [RTX], indirect=True)
    def test_media_engines_are_shared_out_once(self, session: Session) -> None:
        session.create("1g.24gb+me.all", 0)
        for name in ("1g.24gb", "1g.24gb+me", "2g.48gb"):
            with pytest.raises(pynvml.NVMLError_InsufficientResources):
                session.create(name)
        session.create("1g.24gb-me", 3)

    @on("session", ["A30"], indirect=True)
    def test_a30_reports_more_instances_than_fit(self, session: Session) -> None:
        profile = session.profile("2g.12gb")
        info = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(session.gpu, profile.enumerator)
        assert info.instanceCount > len(profile.starts)


class TestInstances:
    def test_an_occupied_placement_is_refused(self, session: Session) -> None:
        session.create("3g.40gb", 4)
        with pytest.raises(pynvml.NVMLError_InsufficientResources):
            session.create("1g.10gb", 6)

    def test_a_placement_off_the_grid_is_refused(self, session: Session) -> None:
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            session.create("2g.20gb", 1)

    def test_nothing_is_created_while_mig_is_off(self, tmp_path: Path) -> None:
        off = Session(SimulatedGpus.create(tmp_path, H100))
        with pytest.raises(pynvml.NVMLError_NotSupported):
            off.create("1g.10gb", 0)
        pynvml.nvmlShutdown()

    def test_remaining_capacity_counts_what_still_fits(self, session: Session) -> None:
        session.create("3g.40gb", 0)
        left = {
            p.name: pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(session.gpu, p.id) for p in profiles(session.gpu)
        }
        assert left == {
            "1g.10gb": 3,
            "1g.10gb+me": 1,
            "1g.20gb": 2,
            "2g.20gb": 1,
            "3g.40gb": 1,
            "4g.40gb": 0,
            "7g.80gb": 0,
        }

    def test_an_instance_is_destroyed_from_the_inside_out(self, session: Session) -> None:
        instance, compute, device = session.create_slice("2g.20gb", 0)
        session.node.attach(pynvml.nvmlDeviceGetUUID(device))
        for destroy, handle in (
            (pynvml.nvmlComputeInstanceDestroy, compute),
            (pynvml.nvmlGpuInstanceDestroy, instance),
        ):
            with pytest.raises(pynvml.NVMLError_InUse):
                destroy(handle)
        session.node.detach()
        with pytest.raises(pynvml.NVMLError_InUse):
            pynvml.nvmlGpuInstanceDestroy(instance)
        pynvml.nvmlComputeInstanceDestroy(compute)
        pynvml.nvmlGpuInstanceDestroy(instance)

    def test_a_process_outside_mig_keeps_instances_from_being_created(self, session: Session) -> None:
        session.node.attach(pynvml.nvmlDeviceGetUUID(session.gpu))
        with pytest.raises(pynvml.NVMLError_InUse):
            session.create("1g.10gb", 0)

    def test_a_stale_handle_names_nothing(self, session: Session) -> None:
        instance, compute, device = session.create_slice("1g.10gb", 0)
        pynvml.nvmlComputeInstanceDestroy(compute)
        pynvml.nvmlGpuInstanceDestroy(instance)
        session.create_slice("1g.10gb", 0)
        for ask, handle in (
            (pynvml.nvmlGpuInstanceGetInfo, instance),
            (pynvml.nvmlComputeInstanceGetInfo, compute),
            (pynvml.nvmlDeviceGetUUID, device),
            (pynvml.nvmlGpuInstanceDestroy, instance),
        ):
            with pytest.raises(pynvml.NVMLError_InvalidArgument):
                ask(handle)

    def test_compute_instances_share_the_compute_slices(self, session: Session) -> None:
        instance = session.create("3g.40gb", 0)
        made = [pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 0) for _ in range(3)]
        with pytest.raises(pynvml.NVMLError_InsufficientResources):
            pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 0)
        infos = [pynvml.nvmlComputeInstanceGetInfo(compute) for compute in made]
        assert [(info.id, info.placement.start) for info in infos] == [(0, 0), (1, 1), (2, 2)]
        names = [pynvml.nvmlDeviceGetName(info.device) for info in infos]
        assert names == ["NVIDIA H100 80GB HBM3 MIG 1c.3g.40gb"] * 3

    def test_mig_devices_come_by_instance_id_and_leave_a_hole_for_an_orphan(self, session: Session) -> None:
        _, _, last = session.create_slice("1g.10gb", 3)
        session.create("1g.10gb", 2)
        _, _, first = session.create_slice("3g.40gb", 4)
        uuid = pynvml.nvmlDeviceGetUUID
        assert mig_uuids(session.gpu) == [uuid(first), None, uuid(last), None, None, None, None]

    def test_memory_of_a_mig_device_is_its_gpu_instances(self, session: Session) -> None:
        _, _, device = session.create_slice("3g.40gb", 0)
        idle = pynvml.nvmlDeviceGetMemoryInfo(device)
        session.node.attach(pynvml.nvmlDeviceGetUUID(device), memory_mib=1024)
        held = pynvml.nvmlDeviceGetMemoryInfo(device)
        assert 0.99 < idle.total / 2**20 / session.profile("3g.40gb").memory_mib < 1
        assert 11 <= idle.used >> 20 <= 44
        assert held.used - idle.used == 1 << 30

    def test_processes_are_seen_on_the_device_and_on_its_parent(self, session: Session) -> None:
        _, _, device = session.create_slice("1g.10gb", 0)
        _, _, other = session.create_slice("1g.10gb", 1)
        session.node.attach(pynvml.nvmlDeviceGetUUID(device))
        [seen] = pynvml.nvmlDeviceGetComputeRunningProcesses(session.gpu)
        assert (seen.pid, seen.gpuInstanceId, seen.computeInstanceId) == (os.getpid(), 7, 0)
        assert len(pynvml.nvmlDeviceGetComputeRunningProcesses(device)) == 1
        assert pynvml.nvmlDeviceGetComputeRunningProcesses(other) == []

    def test_a_process_lets_go_when_it_ends(self, session: Session) -> None:
        _, compute, device = session.create_slice("1g.10gb", 0)
        with subprocess.Popen(["sleep", "60"]) as holder:
            session.node.attach(pynvml.nvmlDeviceGetUUID(device), holder.pid)
            with pytest.raises(pynvml.NVMLError_InUse):
                pynvml.nvmlComputeInstanceDestroy(compute)
            holder.kill()
        pynvml.nvmlComputeInstanceDestroy(compute)


class TestMode:
    def test_hopper_switches_at_once(self, tmp_path: Path) -> None:
        session = Session(SimulatedGpus.create(tmp_path, H100))
        assert pynvml.nvmlDeviceSetMigMode(session.gpu, 1) == pynvml.NVML_SUCCESS
        assert pynvml.nvmlDeviceGetMigMode(session.gpu) == [1, 1]
        pynvml.nvmlShutdown()

    def test_ampere_stays_pending_while_another_client_is_there(self, tmp_path: Path) -> None:
        node = SimulatedGpus.create(tmp_path, A100)
        session = Session(node)
        with node.other_client():
            assert pynvml.nvmlDeviceSetMigMode(session.gpu, 1) == pynvml.NVML_ERROR_IN_USE
            assert pynvml.nvmlDeviceGetMigMode(session.gpu) == [0, 1]
        assert node.nvidia_smi("--gpu-reset", "-i", "0").returncode == 255  # our own session is a client too
        pynvml.nvmlShutdown()
        assert node.nvidia_smi("--gpu-reset", "-i", "0").returncode == 0
        assert node.show()["gpus"][0]["mode"] == {"current": 1, "pending": 1}

    def test_instances_keep_the_mode_on_until_they_are_gone(self, session: Session) -> None:
        """What hardware does is not documented; here the wish is kept and waits."""
        instance = session.create("1g.10gb", 0)
        assert pynvml.nvmlDeviceSetMigMode(session.gpu, 0) == pynvml.NVML_ERROR_IN_USE
        assert pynvml.nvmlDeviceGetMigMode(session.gpu) == [1, 0]
        assert pynvml.nvmlGpuInstanceGetInfo(instance).placement.start == 0
        pynvml.nvmlGpuInstanceDestroy(instance)
        assert pynvml.nvmlDeviceSetMigMode(session.gpu, 0) == pynvml.NVML_SUCCESS
        assert pynvml.nvmlDeviceGetMigMode(session.gpu) == [0, 0]

    def test_a_process_on_the_gpu_keeps_the_mode_as_it_is(self, tmp_path: Path) -> None:
        session = Session(SimulatedGpus.create(tmp_path, H100))
        session.node.attach(pynvml.nvmlDeviceGetUUID(session.gpu))
        assert pynvml.nvmlDeviceSetMigMode(session.gpu, 1) == pynvml.NVML_ERROR_IN_USE
        session.node.detach()
        assert pynvml.nvmlDeviceSetMigMode(session.gpu, 1) == pynvml.NVML_SUCCESS
        pynvml.nvmlShutdown()

    def test_a_pending_mode_can_be_called_off(self, tmp_path: Path) -> None:
        node = SimulatedGpus.create(tmp_path, A100)
        session = Session(node)
        with node.other_client():
            pynvml.nvmlDeviceSetMigMode(session.gpu, 1)
            assert pynvml.nvmlDeviceSetMigMode(session.gpu, 0) == pynvml.NVML_SUCCESS
        assert pynvml.nvmlDeviceGetMigMode(session.gpu) == [0, 0]
        pynvml.nvmlShutdown()

    def test_a_reboot_takes_the_instances_and_on_hopper_the_mode(self, tmp_path: Path) -> None:
        node = SimulatedGpus.create(tmp_path, A100, H100, mig=True)
        assert node.nvidia_smi("mig", "-cgi", "19", "-C").returncode == 0
        before = node.run("boot-id")
        node.run("reboot")
        ampere, hopper = node.show()["gpus"]
        assert (ampere["mode"]["current"], hopper["mode"]["current"]) == (1, 0)
        assert ampere["instances"] == hopper["instances"] == []
        assert node.run("boot-id") != before


class TestOneNodeForAll:
    def test_another_process_sees_the_same_instances(self, session: Session) -> None:
        _, _, device = session.create_slice("3g.40gb", 4)
        listed = session.node.nvidia_smi("-L")
        assert pynvml.nvmlDeviceGetUUID(device) in listed.stdout

    def test_a_caller_killed_after_the_effect_leaves_an_orphan(self, session: Session) -> None:
        session.node.fault("nvmlDeviceCreateGpuInstance", "--die", "after")
        killed = session.node.nvidia_smi("mig", "-cgi", "9", "-C")
        assert killed.returncode == -signal.SIGKILL
        [orphan] = session.node.show()["gpus"][0]["instances"]
        assert (orphan["profile"], orphan["cis"]) == ("3g.40gb", [])
        pynvml.nvmlGpuInstanceDestroy(pynvml.nvmlDeviceGetGpuInstanceById(session.gpu, orphan["gi_id"]))

    def test_a_caller_killed_before_the_effect_leaves_nothing(self, session: Session) -> None:
        session.node.fault("nvmlDeviceCreateGpuInstance", "--die", "before")
        assert session.node.nvidia_smi("mig", "-cgi", "9").returncode == -signal.SIGKILL
        assert session.node.show()["gpus"][0]["instances"] == []

    def test_no_kill_at_any_moment_tears_the_state(self, session: Session) -> None:
        """Killed a little later each time, from start-up to past the end."""
        for attempt in range(60):
            words = ["-cgi", "14,19", "-C"] if attempt % 2 else ["-dci"]
            command = [str(session.node.paths.nvidia_smi), "mig", *words]
            with subprocess.Popen(command, env=session.node.env(), stdout=subprocess.DEVNULL) as caller:
                threading.Event().wait(attempt * 0.0001)
                caller.kill()
            [gpu] = session.node.show()["gpus"]
            units = [unit for at in gpu["instances"] for unit in range(at["start"], at["start"] + at["size"])]
            assert len(units) == len(set(units))
        session.node.nvidia_smi("mig", "-dci")
        assert session.node.nvidia_smi("mig", "-dgi").returncode == 0

    def test_many_threads_create_no_more_than_fits(self, session: Session) -> None:
        results: list[bool] = []

        def attempt() -> None:
            try:
                session.create("1g.10gb")
            except pynvml.NVMLError_InsufficientResources:
                results.append(False)
            else:
                results.append(True)

        threads = [threading.Thread(target=attempt) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == [False] * 5 + [True] * 7

    def test_processes_do_not_lose_each_others_writes(self, session: Session) -> None:
        code = "import pynvml as n; n.nvmlInit(); [n.nvmlSystemGetDriverVersion() for _ in range(4000)]"
        callers = [subprocess.Popen([sys.executable, "-c", code], env=session.node.env()) for _ in range(3)]
        assert [caller.wait() for caller in callers] == [0, 0, 0]
        assert session.node.counters()["nvmlSystemGetDriverVersion"] == 12000

    def test_one_process_may_turn_to_another_node(self, tmp_path: Path) -> None:
        seen = []
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            node = SimulatedGpus.create(tmp_path / name, H100 if name == "first" else A100)
            seen.append(pynvml.nvmlDeviceGetName(Session(node).gpu))
            pynvml.nvmlShutdown()
        assert seen == ["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB"]

    def test_without_a_node_the_driver_is_not_loaded(self, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        pynvml.nvmlShutdown()
        monkeypatch.setenv("SIMGPU_STATE", "/nonexistent")
        with pytest.raises(pynvml.NVMLError_DriverNotLoaded):
            pynvml.nvmlInit()
        monkeypatch.setenv("SIMGPU_STATE", str(session.node.state))
        pynvml.nvmlInit()


class TestFaults:
    def test_a_fault_strikes_after_and_for_as_many_calls_as_told(self, session: Session) -> None:
        session.node.fault("nvmlDeviceGetName", "--after", "1", "--count", "1", "--code", "UNKNOWN")
        pynvml.nvmlDeviceGetName(session.gpu)
        with pytest.raises(pynvml.NVMLError_Unknown):
            pynvml.nvmlDeviceGetName(session.gpu)
        pynvml.nvmlDeviceGetName(session.gpu)

    def test_a_fault_may_be_a_delay_and_a_code_at_once(self, session: Session) -> None:
        session.node.fault("nvmlDeviceSetMigMode", "--delay-ms", "20", "--code", "TIMEOUT")
        with pytest.raises(pynvml.NVMLError_Timeout):
            pynvml.nvmlDeviceSetMigMode(session.gpu, 1)
        [entry] = session.node.log()
        assert entry["result"] == pynvml.NVML_ERROR_TIMEOUT
        assert entry["ended_ns"] - entry["begun_ns"] >= 20_000_000

    def test_a_hanging_call_returns_when_faults_are_cleared(self, session: Session) -> None:
        session.node.fault("nvmlDeviceGetName", "--hang")
        hanging = threading.Thread(target=pynvml.nvmlDeviceGetName, args=(session.gpu,))
        hanging.start()
        hanging.join(0.05)
        assert hanging.is_alive()
        session.node.clear_faults()
        hanging.join(5)
        assert not hanging.is_alive()

    def test_failed_mutations_are_logged_too(self, session: Session) -> None:
        session.create("3g.40gb", 4)
        with pytest.raises(pynvml.NVMLError_InsufficientResources):
            session.create("3g.40gb", 4)
        told = [(e["function"], e["profile"], e["start"], e["size"], e["result"]) for e in session.node.log()]
        create = "nvmlDeviceCreateGpuInstanceWithPlacement"
        assert told == [(create, "3g.40gb", 4, 4, 0), (create, "3g.40gb", 4, 4, 23)]

    def test_a_lost_gpu_shifts_the_indices_of_the_next_session(self, tmp_path: Path) -> None:
        node = SimulatedGpus.create(tmp_path, f"{H100}:2")
        session = Session(node)
        first, second = node.gpu_uuids()
        node.run("lost", "--gpu", first)
        with pytest.raises(pynvml.NVMLError_GpuIsLost):
            pynvml.nvmlDeviceGetMigMode(session.gpu)
        pynvml.nvmlShutdown()
        again = Session(node)
        assert pynvml.nvmlDeviceGetCount() == 1
        assert pynvml.nvmlDeviceGetUUID(again.gpu) == second
        pynvml.nvmlShutdown()


def test_every_symbol_that_pynvml_names_is_there(session: Session) -> None:
    source = Path(pynvml.__file__).read_text()
    named = {part.split('"')[0] for part in source.split('_nvmlGetFunctionPointer("')[1:]}
    library = ctypes.CDLL(str(session.node.paths.library))
    assert [name for name in sorted(named) if not hasattr(library, name)] == []
