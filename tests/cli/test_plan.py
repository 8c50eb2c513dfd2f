"""`warmslice plan` for a node elsewhere, and on a host without a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import main
from agent.commands.plan import plan_for_node
from agent.model.errors import BadInputError
from agent.model.mig import Placement, Shape, Slot
from agent.model.report import NodeStatus
from agent.settings import Settings
from hack.devcluster import kinds
from tests.fakes.devcluster import DevCluster, bare_node, dev_cluster, simple_pod
from tests.fakes.simgpu import SimulatedGpus

PRODUCT = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb-SHARED", "nvidia.com/gpu.count": "2"}
APPLIED = NodeStatus(
    "success", "applied", "", 0.0, gpus=2, placements={"GPU-a": [f"1g.10gb@{n}:1" for n in range(7)], "GPU-b": []}
)


def _node(cluster: DevCluster, labels: dict[str, str], status: NodeStatus | None) -> Settings:
    cluster.create(kinds.NODES, bare_node("gpu-1", labels=labels))
    if status is not None:
        annotations = {"warmslice.dev/status": status.to_json()}
        cluster.merge(kinds.NODES, "gpu-1", {"metadata": {"annotations": annotations}})
    return Settings(kubeconfig=str(cluster.kubeconfig()))


async def test_a_node_is_planned_from_what_was_last_applied_there(tmp_path: Path) -> None:
    async with dev_cluster(tmp_path) as cluster:
        settings = _node(cluster, PRODUCT, APPLIED)
        for name, resource in (("serve", "nvidia.com/mig-1g.10gb"), ("train", "nvidia.com/mig-3g.40gb")):
            cluster.create(kinds.PODS, simple_pod(name, resources={resource: 1}, node="gpu-1"), "default")
        answer = await plan_for_node(settings, "gpu-1", "1x3g.40gb_4x1g.10gb", None)
    assert [(gpu.uuid, len(gpu.keep), len(gpu.destroy), len(gpu.create)) for gpu in answer.gpus] == [
        ("GPU-a", 4, 3, 1),
        ("GPU-b", 0, 0, 5),
    ]
    assert (answer.pods, answer.may_move, answer.budgets) == ((), ("default/serve",), {"default/serve": ()})
    assert "who holds which slice only gpu-1 knows: annotate it with warmslice.dev/dry-run=true" in answer.unknown


@pytest.mark.parametrize(
    ("labels", "status", "to", "sentence"),
    [
        (PRODUCT, APPLIED, None, "node gpu-1 has no label nvidia.com/mig.config: say with --to"),
        (PRODUCT, None, "7x1g.10gb", "what its GPUs have now is not known here"),
        (
            {},
            APPLIED,
            "7x1g.10gb",
            "nvidia.com/gpu.product is '', which names no GPU of the table; name one with --gpu",
        ),
    ],
)
async def test_what_is_not_known_is_asked_for(
    labels: dict[str, str], status: NodeStatus | None, to: str | None, sentence: str, tmp_path: Path
) -> None:
    async with dev_cluster(tmp_path) as cluster:
        settings = _node(cluster, labels, status)
        with pytest.raises(BadInputError) as mistake:
            await plan_for_node(settings, "gpu-1", to, None)
        assert sentence in str(mistake.value)
        with pytest.raises(BadInputError, match="there is no node 'gpu-2'"):
            await plan_for_node(settings, "gpu-2", to, None)


@pytest.mark.parametrize("words", [[], ["--gpu", "A30"], ["--to", "7x1g.10gb"]])
def test_a_question_without_an_object_is_a_mistake(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words]) == 2
    assert "say of what: --gpu MODEL with --to LAYOUT, --node NAME, or --here" in capsys.readouterr().err


def test_on_a_host_without_a_cluster_processes_are_the_holders(tmp_path: Path) -> None:
    gpus = SimulatedGpus.create(tmp_path, mig=True)
    gpus.nvidia_smi("mig", "-cgi", "19,19,19,19,19,19,19", "-C")
    gpus.attach(gpus.mig_uuids()[5])
    found = _here(gpus, tmp_path, "--to", "1x3g.40gb_4x1g.10gb")
    assert found.returncode == 3
    answer = json.loads(found.stdout)
    assert (answer["verdict"], answer["reason"]) == ("wait", "blocked")
    assert f"process {os.getpid()}" in answer["message"]
    assert list(answer["gpus"][0]["holders"]) == ["1g.10gb@5:1"]
    assert answer["unknown"].startswith("No API server was asked")


def _here(gpus: SimulatedGpus, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    socket = folder / "no-kubelet" / "kubelet.sock"
    command = [sys.executable, "-m", "agent", "plan", "--here", "--json", "--pod-resources-socket", str(socket), *words]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env={**environment, **gpus.env()}, timeout=30
    )


@given(
    placement=st.builds(Placement, st.integers(0, 7), st.integers(1, 8)),
    profile=st.sampled_from(["1g.10gb", "1g.10gb+me", "1g.24gb+me.all", "2g.48gb-me", "7g.80gb"]),
    compute=st.lists(st.integers(1, 7), max_size=7),
)
def test_a_slot_is_read_back_as_it_was_written(placement: Placement, profile: str, compute: list[int]) -> None:
    slot = Slot(placement, Shape(profile, tuple(compute)))
    assert Slot.parse(str(slot)) == slot


@pytest.mark.parametrize("text", ["", "1g.10gb", "1g.10gb@0", "1g.10gb@0:0", "x@0:1", "1g.10gb@0:1 "])
def test_what_is_no_slot_says_what_one_looks_like(text: str) -> None:
    with pytest.raises(BadInputError, match=r"is not <profile>@<start>:<size> such as 3g\.40gb@4:4"):
        Slot.parse(text)
