"""How much memory the kernel lets us have, as it says so on the nodes there are; real files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.adapters.memory import Memory
from agent.adapters.pressure import waiting_per_cent
from agent.model.page_cache import MemoryLimit

GB = 1 << 30
POD = "/kubepods.slice/kubepods-pod67a1f0c2.slice"
OURS = f"{POD}/cri-containerd-4f4f.scope"
V1_MOUNT = "35 31 0:32 {shown} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
V1_OTHER = "34 31 0:31 {shown} /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu"
V2_MOUNT = "30 23 0:26 {shown} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V2_BESIDE_V1 = "41 31 0:38 {shown} /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"


@dataclass(frozen=True, slots=True)
class Machine:
    """What the kernel shows, below a folder. State is what the files say; a group changes by being written again."""

    root: Path

    def process(self, cgroup: str, *mounts: str, shown: str = "/") -> None:
        folder = self.root / "self"
        folder.mkdir(exist_ok=True)
        (folder / "cgroup").write_text(cgroup + "\n")
        (folder / "mountinfo").write_text("".join(line.format(shown=shown) + "\n" for line in mounts))

    def group(self, path: str, files: Mapping[str, object]) -> None:
        folder = self.root / "sys/fs/cgroup" / path.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_text(f"{content}\n")

    def v1(self, path: str, limit: int, used: int, files: int = 0, tightest: int = (1 << 63) - 4096) -> None:
        stat = f"inactive_file 1\ntotal_inactive_file {files // 2}\ntotal_active_file {files - files // 2}\n"
        stat += f"hierarchical_memory_limit {tightest}"
        counts = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": stat}
        self.group(f"memory{path}", counts)

    def v2(self, path: str, limit: int | str, used: int, files: int = 0, high: int | str = "max") -> None:
        stat = f"anon 77\nfile {files + 99}\ninactive_file {files // 2}\nactive_file {files - files // 2}"
        self.group(path, {"memory.max": limit, "memory.high": high, "memory.current": used, "memory.stat": stat})

    @property
    def memory(self) -> Memory:
        return Memory(self.root / "meminfo", self.root / "pressure", self.root / "self", self.root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_version_2_on_the_node_every_group_above_counts(machine: Machine) -> None:
    machine.process(f"0::{OURS}", V2_MOUNT)
    machine.v2(OURS, 2 * GB, GB, GB // 2)
    machine.v2(POD, "max", GB)
    machine.v2("/kubepods.slice", 30 * GB, 20 * GB, 10 * GB)
    assert machine.memory.limits() == (MemoryLimit(2 * GB, GB, GB // 2), MemoryLimit(30 * GB, 20 * GB, 10 * GB))
    assert machine.memory.limits()[0].for_files_bytes == 2 * GB - GB // 2


def test_version_2_in_a_container_its_own_group_is_the_top(machine: Machine) -> None:
    machine.process("0::/", V2_MOUNT)
    machine.v2("/", GB, 100, 10)
    assert machine.memory.limits() == (MemoryLimit(GB, 100, 10),)


@pytest.mark.parametrize("group", ["/../../kubepods-pod1.slice/x.scope", "/docker/elsewhere"])
def test_where_the_group_is_not_below_what_is_mounted_the_top_is_the_nearest(machine: Machine, group: str) -> None:
    machine.process(f"0::{group}", V2_MOUNT, shown="/../..")
    machine.v2("/", GB, 100)
    assert machine.memory.limits() == (MemoryLimit(GB, 100, 0),)
    machine.process(f"0::{group}", V2_MOUNT)  # below, by its name, but nothing is there
    assert machine.memory.limits() == (MemoryLimit(GB, 100, 0),)


def test_version_2_slows_down_at_high(machine: Machine) -> None:
    machine.process("0::/", V2_MOUNT)
    machine.v2("/", GB, 100, high=GB // 2)
    assert machine.memory.limits() == (MemoryLimit(GB // 2, 100, 0),)


def test_version_1_on_the_node_beside_version_2_without_controllers(machine: Machine) -> None:
    machine.process(f"8:cpu,cpuacct:/\n4:memory:{OURS}\n1:name=systemd:/\n0::/", V1_OTHER, V1_MOUNT, V2_BESIDE_V1)
    machine.v1(OURS, 2 * GB, GB, GB // 2)
    machine.v1("/kubepods.slice", 30 * GB, 20 * GB)
    machine.v1("", (1 << 63) - 4096, 90 * GB)
    assert machine.memory.limits() == (MemoryLimit(2 * GB, GB, GB // 2), MemoryLimit(30 * GB, 20 * GB, 0))


def test_version_1_in_a_container_only_its_part_of_the_tree_is_mounted(machine: Machine) -> None:
    """The group has its long name, and what is above is not there, but its tightest limit is known."""
    machine.process(f"4:memory:{OURS}\n0::/", V1_MOUNT, shown=OURS)
    machine.v1("", 4 * GB, GB, tightest=2 * GB)
    assert machine.memory.limits() == (MemoryLimit(2 * GB, GB, 0),)


def test_version_1_in_a_group_below_that_of_the_container(machine: Machine) -> None:
    machine.process(f"4:memory:{OURS}/inner\n0::/", V1_MOUNT, shown=OURS)
    machine.v1("/inner", GB, 5)
    machine.v1("", 2 * GB, 7)
    assert machine.memory.limits() == (MemoryLimit(GB, 5, 0), MemoryLimit(2 * GB, 7, 0))


def test_the_memory_of_a_hybrid_tree_may_be_in_version_2(machine: Machine) -> None:
    machine.process("8:cpu:/\n0::/a", V1_OTHER, V2_MOUNT)
    machine.v2("/a", GB, 5)
    assert machine.memory.limits() == (MemoryLimit(GB, 5, 0),)


def test_what_is_missing_is_no_limit(machine: Machine) -> None:
    assert machine.memory.limits() == ()  # no /proc at all
    machine.process("0::/a/b", V2_MOUNT)
    assert machine.memory.limits() == ()  # nothing mounted there
    machine.group("/a/b", {"memory.max": GB})
    assert machine.memory.limits() == ()  # what it uses is not said
    machine.v2("/a", "max", 5)
    assert machine.memory.limits() == ()
    machine.group("/a/b", {"memory.current": 7})
    assert machine.memory.limits() == (MemoryLimit(GB, 7, 0),)  # without a memory.stat nothing can be taken back
    machine.process("garbage\n0::/a/b\n:", "too short", V2_MOUNT, " - ")
    assert len(machine.memory.limits()) == 1


def test_what_is_available_and_how_long_is_waited(machine: Machine) -> None:
    memory = machine.memory
    assert (memory.available_bytes(), memory.waiting_per_cent()) == (0, 0.0)
    memory.meminfo.write_text("MemTotal: 24 kB\nMemFree:  3 kB\nMemAvailable:      21 kB\n")
    memory.pressure.write_text("some avg10=12.50 avg60=1.00 avg300=0.00 total=1\nfull avg10=3.00 avg60=0 total=1\n")
    assert (memory.available_bytes(), memory.waiting_per_cent()) == (21 * 1024, 12.5)
    memory.pressure.write_text("nothing that we know\n")
    assert memory.waiting_per_cent() == 0.0


def test_this_machine_is_understood() -> None:
    memory = Memory(Path("/proc/meminfo"), Path("/proc/pressure/memory"))
    assert memory.available_bytes() > 0
    assert 0.0 <= waiting_per_cent(Path("/proc/pressure/memory")) <= 100.0
    for limit in memory.limits():
        assert 0 <= limit.file_bytes <= limit.used_bytes
