"""``warmslice doctor --here``: what is wrong with a host, on simulated GPUs, with the rest of the machine in a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.commands.doctor import doctor_here
from agent.model import labels
from agent.model.doctor import Code, Diagnosis, Finding
from agent.model.host_view import Directory, HostView
from agent.model.mig import Gpu
from agent.plan.doctor.host import examine_host
from agent.settings import load
from hack.devcluster import kinds
from tests.fakes.devcluster import dev_cluster
from tests.fakes.simgpu import SimulatedGpus

NODE = "gpu-1"
FIRST_PIDS = "pid:[4026531836]"
MOUNTS = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 0:30 / {cache} rw - {kind} models rw\n"
LAYOUTS = "version: v1\nmig-configs: {day: [{devices: all, mig-enabled: true, mig-devices: {1g.10gb: 7}}]}\n"


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that is right with it; tests take something away."""

    folder: Path
    gpus: SimulatedGpus

    @classmethod
    def laid_out(cls, folder: Path, *boards: str, driver: int = 580) -> Machine:
        """With two slices on its first GPU."""
        gpus = SimulatedGpus.create(folder, *boards, mig=True, driver=driver)
        gpus.nvidia_smi("mig", "-i", "0", "-cgi", "19,19", "-C")
        machine = cls(folder, gpus)
        machine.process_ids(FIRST_PIDS)
        machine.mounted("ext4")
        (folder / "hub").mkdir()
        (folder / "nvidia-caps").mkdir()
        for name in ("io", "memory"):
            (folder / name).write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
        (folder / "layouts.yaml").write_text(LAYOUTS)
        (folder / "catalog.yaml").write_text("models: [{repository: acme/chat}]\n")
        for number, instance in enumerate(gpus.show()["gpus"][0]["instances"]):
            machine._capability(f"gi{instance['gi_id']}", 10 + 2 * number)
            machine._capability(f"gi{instance['gi_id']}/ci0", 11 + 2 * number)
        return machine

    def process_ids(self, namespace: str) -> None:
        here = self.folder / "proc" / "self" / "ns"
        here.mkdir(parents=True, exist_ok=True)
        (here / "pid").unlink(missing_ok=True)
        (here / "pid").symlink_to(namespace)

    def mounted(self, kind: str) -> None:
        text = MOUNTS.format(cache=self.folder / "hub", kind=kind)
        (self.folder / "proc" / "self" / "mountinfo").write_text(text)

    def _capability(self, of: str, minor: int) -> None:
        access = self.folder / "proc" / "driver" / "nvidia" / "capabilities" / "gpu0" / "mig" / of / "access"
        access.parent.mkdir(parents=True)
        access.write_text(f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n")
        (self.folder / "nvidia-caps" / f"nvidia-cap{minor}").touch()

    def flags(self, **changes: object) -> dict[str, str]:
        """Settings that name the parts of this machine."""
        named = {
            "node_name": NODE,
            "proc_directory": self.folder / "proc",
            "device_directory": self.folder,
            "pod_resources_socket": self.folder / "no-kubelet" / "kubelet.sock",
            "layouts_file": self.folder / "layouts.yaml",
            "catalog_file": self.folder / "catalog.yaml",
            "cache_directory": self.folder / "hub",
            "state_directory": self.folder / "state",
            "pressure_file": self.folder / "io",
            "memory_pressure_file": self.folder / "memory",
            "cache_reserve_ratio": 0,
        }
        return {name: str(value) for name, value in {**named, **changes}.items()}

    async def examined(self, **changes: object) -> Diagnosis:
        """In this process, which sees these GPUs from here on."""
        self.gpus.load_into_this_process()
        return await doctor_here(load(os.devnull, {}, self.flags(**changes)))


def found_in(diagnosis: Diagnosis) -> dict[Code, Finding]:
    """But for what is wrong with whoever runs the tests."""
    return {one.code: one for one in diagnosis.findings if one.code is not Code.NOT_ROOT}


@pytest.fixture(autouse=True)
def _no_api_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "NODE_NAME"):
        monkeypatch.delenv(name, raising=False)


async def test_nothing_is_found_on_a_host_that_is_right(tmp_path: Path) -> None:
    found = await Machine.laid_out(tmp_path).examined()
    assert found_in(found) == {}
    assert found.exit_code == (0 if os.geteuid() == 0 else 1)
    assert dict(found.looked) == {"GPUs of this host": 1, "slices": 2}
    assert [(gap.what, gap.refused) for gap in found.gaps] == [("PodResources", False), ("the cluster", False)]


async def test_everything_that_is_wrong_is_found_at_once(tmp_path: Path) -> None:
    machine = Machine.laid_out(tmp_path, "H200-141GB", driver=535)
    (tmp_path / "nvidia-caps" / "nvidia-cap11").unlink()
    (tmp_path / "io").unlink()
    machine.process_ids("pid:[4026532001]")
    machine.mounted("tmpfs")
    (tmp_path / "layouts.yaml").write_text(LAYOUTS.replace("mig-enabled", "mig-on"))
    (tmp_path / "catalog.yaml").write_text("models: [{repository: acme/chat, token: acme}]\n")
    (tmp_path / "kubelet").mkdir()
    found = found_in(
        await machine.examined(
            pod_resources_socket=tmp_path / "kubelet" / "kubelet.sock",
            state_directory=tmp_path / "hub" / "state",
            cache_reserve_ratio=0.9999,
            page_token_file=tmp_path / "page-token",
        )
    )
    words = {
        Code.DRIVER_TOO_OLD: ("the driver is 535", "branch 550 or later"),
        Code.CAPABILITY_NODE_MISSING: ("nvidia-caps/nvidia-cap11 does not", "refresh_commands"),
        Code.NO_HOST_PIDS: ("the host's process ids", "hostPID: true"),
        Code.POD_RESOURCES_SILENT: ("kubelet.sock", "pod_resources_socket"),
        Code.STATE_IN_CACHE: ("inside cache_directory", "set state_directory"),
        Code.CACHE_ON_NO_DISK: ("is on tmpfs, which is memory", "mount a local disk"),
        Code.CACHE_DISK_FULL: ("cache_reserve_ratio leaves", "warmslice cache gc --dry-run"),
        Code.NO_PRESSURE_FILES: (str(tmp_path / "io"), "psi=1"),
        Code.LAYOUTS_UNREADABLE: (f"{tmp_path / 'layouts.yaml'}:2:", "warmslice check layouts.yaml"),
        Code.TOKEN_MISSING: ("hub_tokens_directory is not set", "hub_tokens_directory"),
        Code.FILE_UNREADABLE: ("page-token: there is no such file", "ls -lL"),
    }
    assert found.keys() == words.keys()
    for code, (what, fix) in words.items():
        assert what in found[code].what
        assert fix in found[code].fix


def test_without_a_driver_the_rest_is_looked_at_all_the_same(tmp_path: Path) -> None:
    machine = Machine.laid_out(tmp_path)
    flags = machine.flags(cache_directory=tmp_path / "nowhere")
    told = subprocess.run(
        [sys.executable, "-m", "agent", "doctor", "--here", "--json"],
        env={**os.environ, "LD_LIBRARY_PATH": "", **{f"WARMSLICE_{name.upper()}": flags[name] for name in flags}},
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    found = {one["code"]: one for one in json.loads(told.stdout)["findings"]}
    assert told.returncode == 1, told.stderr
    assert found.keys() - {Code.NOT_ROOT.word} == {"nvml-missing", "cache-not-writable"}
    assert "runtimeClassName: nvidia" in found["nvml-missing"]["fix"]
    assert f"mkdir -p {tmp_path / 'nowhere'}" in found["cache-not-writable"]["fix"]


async def test_each_container_is_asked_for_what_it_needs(tmp_path: Path) -> None:
    """That of the cache has no GPU, and that of the partition no cache."""
    machine = Machine.laid_out(tmp_path)
    of_cache = await machine.examined(role="cache", pod_resources_socket="/nowhere/kubelet.sock")
    of_partition = await machine.examined(role="partition", cache_directory=tmp_path / "nowhere")
    assert (found_in(of_cache), of_cache.looked["GPUs of this host"]) == ({}, 0)
    assert (found_in(of_partition), of_partition.looked["GPUs of this host"]) == ({}, 1)


async def test_device_nodes_are_those_of_the_host_and_not_those_that_the_container_began_with(tmp_path: Path) -> None:
    """A container's /dev is made once: a slice that came later has its node on the host alone."""
    machine = Machine.laid_out(tmp_path)
    (tmp_path / "nvidia-caps").rename(tmp_path / "of-the-host")
    assert found_in(await machine.examined()).keys() == {Code.CAPABILITY_NODE_MISSING}
    of_host = tmp_path / "proc" / "1" / "root" / str(tmp_path).lstrip("/")
    of_host.mkdir(parents=True)
    (tmp_path / "of-the-host").rename(of_host / "nvidia-caps")
    assert found_in(await machine.examined()) == {}


async def test_what_the_driver_does_not_show_is_not_taken_for_right(tmp_path: Path) -> None:
    machine = Machine.laid_out(tmp_path)
    (tmp_path / "proc" / "driver").rename(tmp_path / "driver")
    found = await machine.examined()
    assert found_in(found) == {}
    assert [gap.what for gap in found.gaps if gap.refused] == ["device nodes of slices"]
    assert replace(found, findings=()).exit_code == 3


async def test_what_the_api_server_says_of_the_node_stands_beside_it(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    machine = Machine.laid_out(tmp_path / "host")
    async with dev_cluster(tmp_path) as cluster:
        kubelet = cluster.add_kubelet(NODE, {"nvidia.com/mig-1g.10gb": ["MIG-1", "MIG-2"]})
        await kubelet.wait_for_devices()
        cluster.merge(kinds.NODES, NODE, {"metadata": {"annotations": {labels.OPERATION: "{"}}})
        found = await machine.examined(pod_resources_socket=kubelet.socket, kubeconfig=cluster.kubeconfig())
    assert Code.OPERATION_UNREADABLE in found_in(found)
    assert found_in(found).keys() <= {Code.OPERATION_UNREADABLE, Code.AGENT_ABSENT}
    assert found.looked["nodes"] == 1
    assert "PodResources" not in {gap.what for gap in found.gaps}


RIGHT = HostView(
    roles=frozenset({"partition", "cache"}),
    root=True,
    host_pids=True,
    nvml_error="",
    driver="580.95.05",
    gpus=(Gpu("GPU-1", 0, "NVIDIA H100 80GB HBM3", "", 81559, True, True, True),),
    capabilities=(),
    kubelet="",
    cache=Directory("/var/lib/warmslice/hub", True, True, "ext4", 900, 1000),
    reserve_ratio=0.15,
    state_directory="/var/lib/warmslice/state",
    missing_pressure=(),
    unreadable=(),
    layouts_error="",
    catalog_error="",
    token_fault="",
)


@pytest.mark.parametrize(
    ("view", "code"),
    [
        (RIGHT, None),
        (replace(RIGHT, host_pids=None), None),
        (replace(RIGHT, root=False), Code.NOT_ROOT),
        (replace(RIGHT, gpus=(replace(RIGHT.gpus[0], unknown="it is lost"),)), Code.GPU_UNKNOWN),
        (replace(RIGHT, driver="520.61.05"), Code.DRIVER_TOO_OLD),
        (replace(RIGHT, catalog_error="catalog.yaml:1:1: not YAML"), Code.CATALOG_UNREADABLE),
        (replace(RIGHT, cache=replace(RIGHT.cache, writable=False)), Code.CACHE_NOT_WRITABLE),
        (replace(RIGHT, cache=replace(RIGHT.cache, kind="nfs4")), Code.CACHE_ON_NO_DISK),
        (replace(RIGHT, cache=replace(RIGHT.cache, kind="fuse.s3fs")), Code.CACHE_ON_NO_DISK),
        (replace(RIGHT, cache=replace(RIGHT.cache, free_bytes=149)), Code.CACHE_DISK_FULL),
    ],
)
def test_a_host_is_judged_by_what_was_seen_of_it(view: HostView, code: Code | None) -> None:
    found: tuple[Finding, ...] = examine_host(view, "gpu-1")
    assert [one.code for one in found] == ([code] if code is not None else [])
