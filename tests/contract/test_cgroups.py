"""In which pod a process runs, as the kernel writes it on the nodes there are; real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.adapters.cgroups import Processes
from agent.model.node import Origin

UID = "67a1f0c2-3b7e-4f1d-9a55-0d2b8c1e7f30"
SLICE = UID.replace("-", "_")
STATIC = "8c1b3d5e7f90a1b2c3d4e5f60718293a"
CONTAINER = "4f" * 32
SCOPE = f"cri-containerd-{CONTAINER}.scope"
BURSTABLE = f"kubepods-burstable-pod{SLICE}.slice"
BY_CGROUPFS = f"/kubepods/burstable/pod{UID}/{CONTAINER}"

IN_A_POD = {
    "v2, systemd, burstable": f"0::/kubepods.slice/kubepods-burstable.slice/{BURSTABLE}/{SCOPE}",
    "v2, systemd, guaranteed": f"0::/kubepods.slice/kubepods-pod{SLICE}.slice/{SCOPE}",
    "v2, systemd, CRI-O": f"0::/kubepods.slice/kubepods-pod{SLICE}.slice/crio-{CONTAINER}.scope/container",
    "v2, cgroupfs, burstable": f"0::{BY_CGROUPFS}",
    "v2, cgroupfs, guaranteed": f"0::/kubepods/pod{UID}/{CONTAINER}",
    "a container of a container": f"0::/kubepods/besteffort/pod{UID}/{CONTAINER}/docker/{CONTAINER}",
    "kind, cgroupfs": f"0::/docker/{CONTAINER}/kubelet/kubepods/besteffort/pod{UID}/{CONTAINER}",
    "kind, systemd": f"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-{BURSTABLE}/{SCOPE}",
    "from a cgroup namespace": f"0::/../../kubepods-burstable.slice/{BURSTABLE}/{SCOPE}",
    "a runtime that knows no systemd": f"0::/system.slice/containerd.service/{BURSTABLE}:cri-containerd:{CONTAINER}",
    "v1": f"12:pids:{BY_CGROUPFS}\n3:cpu,cpuacct:{BY_CGROUPFS}\n1:name=systemd:{BY_CGROUPFS}\n0::/",
    "v1, one controller alone": f"4:memory:{BY_CGROUPFS}\n1:name=systemd:/\n0::/",
}  # fmt: skip
IN_NONE = {
    "a login": "0::/user.slice/user-1000.slice/session-3.scope",
    "a service": "0::/system.slice/slurmd.service",
    "docker's": f"0::/docker/{CONTAINER}",
    "podman's": f"0::/machine.slice/libpod-{CONTAINER}.scope",
    "the kubelet's own": "0::/kubepods.slice",
    "no pod's name": f"0::/podruntime.slice/pod{UID}",
    "the root": "0::/",
}


def _process(proc: Path, pid: int, cgroup: str, *command: str) -> None:
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "cgroup").write_text(cgroup + "\n", "utf-8")
    (folder / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in command))


def _users(proc: Path, rows: str) -> None:
    """The host's, by the root of its first process."""
    folder = proc / "1" / "root" / "etc"
    folder.mkdir(parents=True)
    (folder / "passwd").write_text(rows, "utf-8")


@pytest.mark.parametrize("how", IN_A_POD)
def test_a_process_of_a_pod_tells_its_uid(how: str, tmp_path: Path) -> None:
    _process(tmp_path, 4711, IN_A_POD[how], "serve")
    assert Processes(str(tmp_path)).origin(4711) == Origin((UID,))


@pytest.mark.parametrize("how", IN_NONE)
def test_a_process_outside_every_pod_tells_user_and_command(how: str, tmp_path: Path) -> None:
    _process(tmp_path, 4711, IN_NONE[how], "python", "train.py")
    _users(tmp_path, f"nobody:x:65534:65534::/:\nann:x:{os.getuid()}:100:Ann:/home/ann:/bin/sh\n")
    assert Processes(str(tmp_path)).origin(4711) == Origin((), "ann", "python train.py")


def test_a_static_pod_has_a_uid_of_the_kubelet_s(tmp_path: Path) -> None:
    _process(tmp_path, 4711, f"0::/kubepods.slice/kubepods-pod{STATIC}.slice/{SCOPE}", "serve")
    assert Processes(str(tmp_path)).origin(4711) == Origin((STATIC,))


def test_a_node_in_a_pod_shows_both_the_outermost_first(tmp_path: Path) -> None:
    inner = "0a1b2c3d-3b7e-4f1d-9a55-0d2b8c1e7f30"
    _process(
        tmp_path, 4711, f"0::/kubepods/pod{UID}/{CONTAINER}/kubelet/kubepods/besteffort/pod{inner}/{CONTAINER}", "s"
    )
    assert Processes(str(tmp_path)).origin(4711) == Origin((UID, inner))


def test_a_user_that_the_host_does_not_name_is_a_number(tmp_path: Path) -> None:
    _process(tmp_path, 4711, IN_NONE["a login"], "python")
    assert Processes(str(tmp_path)).origin(4711) == Origin((), f"uid {os.getuid()}", "python")


def test_what_may_be_a_secret_is_not_shown(tmp_path: Path) -> None:
    """The command stands in the node's status and Events."""
    _process(tmp_path, 1, IN_NONE["a login"], "python", "-m", "serve", "--api-key", "hf_secret")
    _process(tmp_path, 2, IN_NONE["a login"], "env", "TOKEN=hf_secret", "serve")
    _process(tmp_path, 3, IN_NONE["a login"], "x" * 500)
    of = Processes(str(tmp_path)).origin
    assert [found.command for pid in (1, 2, 3) if (found := of(pid))] == ["python -m serve", "env", "x" * 80]


def test_a_process_that_is_not_there_tells_nothing(tmp_path: Path) -> None:
    """It has ended, or without hostPID its number means another one, or nothing, here."""
    assert Processes(str(tmp_path)).origin(4711) is None


def test_this_very_process_is_in_no_pod_that_an_api_server_here_knows() -> None:
    """The kernel's own files are read as the test's are."""
    found = Processes("/proc").origin(os.getpid())
    assert found is not None
    assert found.pods or "python" in found.command or "pytest" in found.command
