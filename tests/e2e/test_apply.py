"""`warmslice apply` on a host without Kubernetes: the real command on simulated GPUs, killed, held up, and refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.adapters.host_node import HostNode
from tests.docs.blocks import shown
from tests.fakes.simgpu import SimulatedGpus

SEVEN = [f"1g.10gb@{start}" for start in range(7)]
MIXED = [*SEVEN[:4], "3g.40gb@4"]
DESTROY, CREATE = "nvmlGpuInstanceDestroy", "nvmlDeviceCreateGpuInstanceWithPlacement"


@dataclass
class HostMachine:
    """GPUs, a folder for the command's record, and no kubelet."""

    gpus: SimulatedGpus
    folder: Path

    def start(self, *words: str) -> subprocess.Popen[str]:
        flags = {
            "state-directory": self.folder / "state",
            "pod-resources-socket": self.folder / "none" / "kubelet.sock",
        }
        command = [
            sys.executable,
            "-m",
            "agent",
            "apply",
            *words,
            *(f"--{name}={value}" for name, value in flags.items()),
        ]
        path = f"{self.gpus.paths.nvidia_smi.parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, **self.gpus.env(), "PATH": path}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def apply(self, *words: str) -> tuple[int, list[str]]:
        """(exit code, lines)."""
        process = self.start(*words)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said.splitlines()

    def slices(self, gpu: int = 0) -> list[str]:
        instances = self.gpus.show()["gpus"][gpu]["instances"]
        return [f"{i['profile']}@{i['start']}" for i in sorted(instances, key=lambda i: i["start"])]

    def mutations(self) -> int:
        return len(self.gpus.log())


@pytest.fixture
def host(tmp_path: Path) -> HostMachine:
    """One H100 in seven slices."""
    gpus = SimulatedGpus.create(tmp_path, mig=True)
    gpus.nvidia_smi("mig", "-cgi", "19,19,19,19,19,19,19", "-C")
    return HostMachine(gpus, tmp_path)


def test_only_what_is_in_the_way_goes_and_every_step_is_said(host: HostMachine) -> None:
    kept = host.gpus.mig_uuids()[:4]
    code, said = host.apply("1x3g.40gb_4x1g.10gb")
    assert (code, [line.split()[0] for line in said]) == (0, ["begun:", *["destroyed"] * 3, "created", "done:"])
    assert said == shown("docs/layouts.md", "warmslice apply 1x3g.40gb_4x1g.10gb").splitlines()
    assert host.slices() == MIXED
    assert host.gpus.mig_uuids()[:4] == kept
    before = host.mutations()
    assert host.apply("1x3g.40gb_4x1g.10gb")[0] == 0
    assert host.apply("--resume") == (0, ["no change is unfinished here"])
    assert host.mutations() == before


def test_a_slice_with_a_process_is_never_touched_and_its_holder_is_named(host: HostMachine) -> None:
    host.gpus.attach(host.gpus.mig_uuids()[5])
    before = host.mutations()
    code, said = host.apply("1x7g.80gb")
    assert code == 3
    assert said[-1].startswith("blocked: '1x7g.80gb' needs slices that cannot be freed: process ")
    assert f"process {os.getpid()} " in said[-1]
    assert (host.mutations(), host.slices()) == (before, SEVEN)
    assert host.apply("3x2g.20gb")[0] == 3
    assert host.apply("5x1g.10gb_1x2g.20gb")[0] == 0
    assert "1g.10gb@5" in host.slices()


@pytest.mark.parametrize(
    ("layout", "code", "sentence"),
    [
        ("2x3g.40gb_1x2g.20gb", 1, "no-placement: layout '2x3g.40gb_1x2g.20gb'"),
        ("1x3g.71gb", 1, "unknown-profile: "),
        ("4x1g10gb", 2, "unparsable-layout: "),
        ("nightly", 2, "layouts-unreadable: layout 'nightly' cannot be looked up: there is no layouts file"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_touched(
    host: HostMachine, layout: str, code: int, sentence: str
) -> None:
    before = host.mutations()
    found, said = host.apply(layout, f"--layouts-file={host.folder}/none.yaml")
    assert (found, said[-1][: len(sentence)]) == (code, sentence)
    assert (host.mutations(), host.slices()) == (before, SEVEN)


def test_a_driver_that_refuses_is_followed_by_the_way_back(host: HostMachine) -> None:
    host.gpus.fault(CREATE, "--code", "INSUFFICIENT_RESOURCES", "--count", "1")
    code, said = host.apply("1x3g.40gb_4x1g.10gb")
    assert (code, host.slices()) == (1, SEVEN)
    assert said[-1].startswith("rolled-back: creating 3g.40gb at 4:4: ")
    assert host.apply("1x3g.40gb_4x1g.10gb")[0] == 0  # a person need not wait for a back-off


def test_what_only_a_reboot_brings_is_left_to_who_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = HostMachine(SimulatedGpus.create(tmp_path, "A100-80GB"), tmp_path)
    host.gpus.run("virtualization", "--gpu", host.gpus.gpu_uuids()[0], "--kind", "passthrough")
    boot = tmp_path / "boot_id"
    boot.write_text("first")
    monkeypatch.setenv("WARMSLICE_BOOT_ID_FILE", str(boot))
    monkeypatch.setenv("WARMSLICE_REBOOT_COMMAND", f"[touch, {tmp_path}/rebooted]")
    code, said = host.apply("1x3g.40gb")
    assert code == 1
    assert said[-1].startswith(
        "reboot-required: GPU 0: MIG on is pending and comes into force at the next reboot of this machine"
    )
    assert said[-1].endswith("; after the reboot, ask again")
    assert not (tmp_path / "rebooted").exists()
    host.gpus.run("reboot")
    boot.write_text("second")
    assert host.apply("1x3g.40gb")[0] == 0
    assert len(host.slices()) == 1


@pytest.mark.parametrize(
    ("function", "moment", "again", "slices"),
    [
        (DESTROY, "before", "--resume", MIXED),
        (DESTROY, "after", "1x3g.40gb_4x1g.10gb", MIXED),
        (DESTROY, "after", "7x1g.10gb", SEVEN),
        (CREATE, "before", "7x1g.10gb", SEVEN),
        (CREATE, "before", "1x3g.40gb_4x1g.10gb", MIXED),
        (CREATE, "after", "--resume", MIXED),
    ],
)
def test_killed_in_the_middle_it_goes_on_or_back(
    host: HostMachine, function: str, moment: str, again: str, slices: list[str]
) -> None:
    host.gpus.fault(function, "--die", moment, "--count", "1")
    assert host.apply("1x3g.40gb_4x1g.10gb")[0] == -signal.SIGKILL
    assert host.apply(again)[0] == 0
    assert host.slices() == slices
    assert host.apply("--resume") == (0, ["no change is unfinished here"])


def test_two_at_once_exclude_each_other(host: HostMachine) -> None:
    with HostNode.held(host.folder / "state", "this-test"):
        assert host.apply("1x3g.40gb_4x1g.10gb") == (3, ["blocked: another warmslice apply changes this host now"])
    assert host.slices() == SEVEN


def test_what_takes_too_long_is_undone(host: HostMachine) -> None:
    """The driver says "in use" for a while, longer than the person wants to wait."""
    host.gpus.fault(CREATE, "--code", "IN_USE", "--count", "5")
    code, said = host.apply("1x3g.40gb_4x1g.10gb", "--timeout-seconds=1")
    assert (code, host.slices()) == (1, SEVEN)
    assert "out of time: going back to what was before" in said
    assert said[-1].startswith("withdrawn: ")


def test_a_signal_undoes_too(host: HostMachine) -> None:
    host.gpus.fault(CREATE, "--code", "IN_USE", "--count", "5")
    process = host.start("1x3g.40gb_4x1g.10gb")
    _until(lambda: SEVEN[6] not in host.slices())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert (process.returncode, host.slices()) == (1, SEVEN)


def test_one_gpu_of_two_is_changed_and_the_other_is_not_looked_at(tmp_path: Path) -> None:
    gpus = SimulatedGpus.create(tmp_path, "H100-80GB-SXM:2")
    host = HostMachine(gpus, tmp_path)
    gpus.fault(CREATE, "--die", "after", "--count", "1")
    assert host.apply("7x1g.10gb", "--gpu-index", "1")[0] == -signal.SIGKILL
    refused = host.apply("7x1g.10gb")
    assert refused[0] == 2
    assert refused[1][0].startswith("warmslice: a change of GPU 1 to '7x1g.10gb' is unfinished: ")
    assert host.apply("--resume")[0] == 0
    assert (host.slices(0), host.slices(1)) == ([], SEVEN)
    assert [gpu["mode"]["current"] for gpu in gpus.show()["gpus"]] == [0, 1]
    assert host.apply("7x1g.10gb", "--gpu-index", "5")[1] == ["warmslice: there is no GPU 5; this host has 0, 1"]


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
