"""`warmslice layouts`: what a GPU can still become, on paper and on a host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.model.mig import Gpu
from agent.model.node import DeviceOwner, Pod, PodRef
from agent.model.snapshot import Snapshot
from agent.reconcile.paper import node_on_paper
from agent.reconcile.reach import reach_of
from agent.report.reach import reach_drawn
from tests.fakes.simgpu import SimulatedGpus
from tests.fakes.world import h100

H100 = "H100-80GB-SXM"


def _on_paper(capsys: pytest.CaptureFixture[str], model: str, holding: str) -> dict[str, Any]:
    assert main(["layouts", "--gpu", model, "--holding", holding, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["gpus"][0]
    return found


def test_nothing_held_leaves_every_maximal_geometry(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layouts", "--gpu", "RTX-PRO-6000-96GB", "--json"]) == 0
    everything = json.loads(capsys.readouterr().out)
    found = _on_paper(capsys, "RTX-PRO-6000-96GB", "")
    assert [geometry["layout"] for geometry in found["geometries"]] == everything


def test_a_full_gpu_can_become_what_it_is_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    found = _on_paper(capsys, H100, "3g.40gb@4:4,4g.40gb@0:4")
    slots = ["4g.40gb@0:4", "3g.40gb@4:4"]
    assert (found["held"], found["geometries"]) == (slots, [{"layout": "1x4g.40gb_1x3g.40gb", "slots": slots}])


def test_a_held_instance_keeps_its_split(capsys: pytest.CaptureFixture[str]) -> None:
    found = _on_paper(capsys, H100, "1c+2c.3g.40gb@0:4")
    assert found["held"] == ["2c+1c.3g.40gb@0:4"]
    assert {
        "layout": "1x3g.40gb_1x2c.3g.40gb_1x1c.3g.40gb",
        "slots": ["2c+1c.3g.40gb@0:4", "3g.40gb@4:4"],
    } in found["geometries"]
    assert all("2c+1c.3g.40gb@0:4" in geometry["slots"] for geometry in found["geometries"])


def test_a_split_into_one_of_full_size_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert _on_paper(capsys, H100, "3c.3g.40gb@0:4") == _on_paper(capsys, H100, "3g.40gb@0:4")


def test_a_slice_answers_to_the_name_of_another_driver(capsys: pytest.CaptureFixture[str]) -> None:
    assert _on_paper(capsys, "GB200-186GB", "1g.24gb@0:1") == _on_paper(capsys, "GB200-186GB", "1g.23gb@0:1")


@pytest.mark.parametrize(
    ("model", "holding", "sentence"),
    [
        (H100, "3g.40gb", "'3g.40gb' is not <profile>@<start>:<size> such as 3g.40gb@4:4"),
        (H100, "3g.71gb@0:4", "3g.71gb@0:4: NVIDIA H100 80GB HBM3 has no profile 3g.71gb; it has 1g.10gb, "),
        (H100, "3g.40gb@2:4", "3g.40gb@2:4: 3g.40gb cannot be at 2:4 on NVIDIA H100 80GB HBM3, only at 0:4, 4:4"),
        (H100, "3g.40gb@4:3", "3g.40gb@4:3: 3g.40gb cannot be at 4:3"),
        (H100, "3g.40gb@4:4 2g.20gb@4:2", "2g.20gb@4:2 and 3g.40gb@4:4 overlap: a memory slice belongs to one"),
        (H100, "1g.10gb@0:1 1g.10gb@0:1", "1g.10gb@0:1 and 1g.10gb@0:1 overlap"),
        (H100, "3c+1c.3g.40gb@0:4", "3g.40gb has no room for that split; it has 3 compute slices for 1c, 2c, 3c"),
        (H100, "1g.10gb+me@0:1 1g.10gb+me@1:1", "1g.10gb+me@0:1, 1g.10gb+me@1:1 cannot be together: one instance may"),
        ("RTX-PRO-6000-96GB", "1g.24gb+me.all@0:3 1g.24gb@3:3", "beside +me.all only -me may be"),
    ],
)
def test_slices_that_cannot_be_held_are_named(
    model: str, holding: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["layouts", "--gpu", model, "--holding", holding]) == 2
    said = capsys.readouterr().err
    assert said.startswith("warmslice: --holding: ")
    assert sentence in said
    assert said.count("\n") == 1


def test_what_is_held_here_is_not_asked_of_the_caller(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layouts", "--here", "--holding", "1g.10gb@0:1"]) == 2
    assert "--holding names slices on paper: it goes with --gpu MODEL" in capsys.readouterr().err


def _here(gpus: SimulatedGpus, folder: Path, *words: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "agent", "layouts", "--here", *words]
    command += ["--pod-resources-socket", str(folder / "kubelet" / "kubelet.sock")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}
    told = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**environment, **gpus.env()}, timeout=30
    )
    assert told.returncode == code, told.stderr
    return told.stdout if code == 0 else told.stderr


def test_on_a_host_without_a_cluster_a_slice_with_a_process_is_held(tmp_path: Path) -> None:
    gpus = SimulatedGpus.create(tmp_path, f"{H100}:2", mig=True)
    gpus.nvidia_smi("mig", "-cgi", "19,19,19,19,19,19,19", "-C", "-i", "0")
    gpus.attach(gpus.mig_uuids()[5])
    reach = json.loads(_here(gpus, tmp_path, "--json"))
    cut, empty = reach["gpus"]
    assert (cut["held"], empty["held"]) == (["1g.10gb@5:1"], [])
    assert cut["holders"]["1g.10gb@5:1"][0].startswith(f"process {os.getpid()} (")
    assert all("1g.10gb@5:1" in geometry["slots"] for geometry in cut["geometries"])
    assert (_first(cut), _first(empty)) == ("1x4g.40gb_1x1g.20gb_2x1g.10gb", "1x7g.80gb")
    assert reach["unknown"].startswith("No API server was asked")


def _first(gpu: dict[str, Any]) -> str:
    layout: str = gpu["geometries"][0]["layout"]
    return layout


def _seen(gpu: Gpu, *pods: Pod, **devices: str) -> Snapshot:
    owners = tuple(
        DeviceOwner("default", name, "main", "nvidia.com/gpu", (device,)) for name, device in devices.items()
    )
    return Snapshot(0.0, node_on_paper({}), (gpu,), pods, owners)


def _pod(name: str, phase: str = "Running", owner: str = "ReplicaSet") -> Pod:
    ref = PodRef("default", name, f"uid-{name}")
    return Pod(ref, phase, False, owner, "owner", {}, {}, {"nvidia.com/mig-1g.10gb": 1})


def test_a_slice_is_held_by_a_pod_that_can_be_moved_and_by_one_that_cannot_but_not_by_one_that_ended() -> None:
    gpu = h100("1g.10gb@0:1 1g.10gb@1:1 1g.10gb@2:1 1g.10gb@3:1")
    moves, stays, ended, _ = (instance.compute[0].uuid for instance in gpu.instances)
    pods = (_pod("moves"), _pod("stays", owner="DaemonSet"), _pod("ended", "Succeeded"), _pod("starting", "Pending"))
    reach = reach_of(_seen(gpu, *pods, moves=moves, stays=stays, ended=ended))
    assert reach.gpus[0].holders == {"1g.10gb@0:1": ("default/moves",), "1g.10gb@1:1": ("default/stays",)}
    assert reach.gpus[0].held == tuple(reach.gpus[0].holders)
    assert reach.starting == ("default/starting",)
    assert "about to take a slice, which one is not known yet: default/starting" in reach_drawn(reach)


def test_idle_slices_stay_where_they_are_when_the_geometry_lets_them() -> None:
    """What is drawn is what the agent would make of this GPU, and it destroys no more than it must."""
    gpu = h100("1g.10gb@2:1 1g.10gb@5:1")
    reach = reach_of(_seen(gpu, _pod("serve"), serve=gpu.instances[0].compute[0].uuid)).gpus[0]
    slots = {found.layout: found.slots for found in reach.geometries}
    assert reach.held == ("1g.10gb@2:1",)
    assert slots["1x2g.20gb_5x1g.10gb"][0] == "2g.20gb@0:2"
    assert "1g.10gb@5:1" not in slots["1x3g.40gb_1x2g.20gb_2x1g.10gb"]


def test_a_gpu_that_cannot_be_read_is_named_and_one_without_mig_is_not() -> None:
    silent = replace(h100(), unknown="a call has not come back", mig_enabled=None, profiles=())
    assert reach_drawn(reach_of(_seen(silent))) == (
        "GPU 0  NVIDIA H100 80GB HBM3: cannot be read: a call has not come back"
    )
    assert reach_drawn(reach_of(_seen(replace(silent, unknown="")))) == "no GPU of this host supports MIG"


def test_a_gpu_outside_mig_mode_says_so_in_a_line(tmp_path: Path) -> None:
    gpus = SimulatedGpus.create(tmp_path, f"{H100}:2")
    said = _here(gpus, tmp_path).splitlines()
    assert said[:2] == [f"GPU {index}  NVIDIA H100 80GB HBM3: MIG mode is off" for index in (0, 1)]
    assert len(said) == 3


def test_nobody_is_known_to_be_free_while_the_kubelet_does_not_answer(tmp_path: Path) -> None:
    """The folder of its socket tells that there is one."""
    gpus = SimulatedGpus.create(tmp_path, mig=True)
    (tmp_path / "kubelet").mkdir()
    said = _here(gpus, tmp_path, code=1)
    assert said.startswith("warmslice: who holds which slice is not known: PodResources at ")
    assert said.count("\n") == 1
