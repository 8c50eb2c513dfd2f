"""``warmslice status --all``: what an operator reads first when something is wrong, and does not know where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.commands.fleet import print_fleet
from agent.model import labels
from agent.model.report import NodeStatus, State
from agent.report.fleet import age
from hack.devcluster import kinds
from tests.docs.blocks import looks_like, shown
from tests.fakes.devcluster import DevCluster, bare_node, dev_cluster, simple_pod

NOW = 2_000_000.0
DAY = {"nvidia.com/mig-1g.10gb": "32", "nvidia.com/mig-3g.40gb": "8"}
WORDS: dict[int, tuple[State, str, str, float]] = {
    7: ("pending", "draining", "waiting for pods to end: search/index-5c9", 42.0),
    8: (
        "pending",
        "blocked",
        "'day' needs slices that cannot be freed: ml/train-0 (no controller would start it again)",
        1900.0,
    ),
    23: (
        "failed",
        "no-placement",
        "layout 'day': 4x3g.40gb do not fit together on NVIDIA H100 80GB HBM3 (GPU 0)",
        86_400.0,
    ),
}


def _furnish(cluster: DevCluster) -> None:
    """50 GPU nodes that were asked for a layout, one without GPUs, and some pods."""
    cluster.create(kinds.NODES, bare_node("cpu-01"))
    for number in range(1, 51):
        state, reason, message, since = WORDS.get(number, ("success", "applied", "'day' applied", 9000.0 + 60 * number))
        status = NodeStatus(state, reason, message, NOW - since, layout="day")
        name = f"gpu-{number:02}"
        known = {labels.CONFIG: "day", f"{labels.MODEL_PREFIX}llama": "ready", f"{labels.MODEL_PREFIX}qwen": "fetching"}
        cluster.create(kinds.NODES, bare_node(name, labels=known, allocatable=DAY))
        said = {labels.STATUS: status.to_json(), **({labels.OPERATION: "{}"} if number == 7 else {})}
        cluster.merge(kinds.NODES, name, {"metadata": {"annotations": said}})
    cluster.create(kinds.NODES, bare_node("gpu-51", labels={labels.CONFIG: "day"}))
    cluster.create(kinds.PODS, simple_pod("big", resources={"nvidia.com/mig-3g.40gb": 8}, node="gpu-02"), "default")
    cluster.create(kinds.PODS, simple_pod("small", resources={"nvidia.com/mig-1g.10gb": 2}, node="gpu-02"), "default")


async def test_fifty_nodes_in_one_table_as_the_documentation_shows_it(tmp_path: Path) -> None:
    async with dev_cluster(tmp_path) as cluster:
        _furnish(cluster)
        code, text = await print_fleet(labels.CONFIG, str(cluster.kubeconfig()), as_json=False, now=lambda: NOW)
        _, document = await print_fleet(labels.CONFIG, str(cluster.kubeconfig()), as_json=True, now=lambda: NOW)
    printed = text.splitlines()
    assert code == 1
    assert len([line for line in printed if line.startswith("gpu-") and "  " in line]) == 51
    for page in ("README.md", "docs/operations.md"):
        assert looks_like(shown(page, "warmslice status --all"), text)
    nodes = {node["node"]: node for node in json.loads(document)}
    assert nodes["gpu-02"]["free"] == {"mig-1g.10gb".removeprefix("mig-"): 30}
    assert (nodes["gpu-07"]["changing"], nodes["gpu-51"]["state"], "cpu-01" in nodes) == (True, "", False)


async def test_a_list_of_more_than_one_page_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.adapters.kube._PAGE", "7")
    async with dev_cluster(tmp_path) as cluster:
        _furnish(cluster)
        _, document = await print_fleet(labels.CONFIG, str(cluster.kubeconfig()), as_json=True, now=lambda: NOW)
    assert [node["node"] for node in json.loads(document)] == [f"gpu-{number:02}" for number in range(1, 52)]


async def test_a_cluster_without_us_says_so(tmp_path: Path) -> None:
    async with dev_cluster(tmp_path) as cluster:
        cluster.create(kinds.NODES, bare_node("cpu-01"))
        code, text = await print_fleet(labels.CONFIG, str(cluster.kubeconfig()), as_json=False, now=lambda: NOW)
    assert (code, text) == (0, "no node has a layout, a model or a word of an agent")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0s"),
        (119, "119s"),
        (120, "2m"),
        (599, "9m59s"),
        (3600, "60m"),
        (5 * 3600 + 60, "5h1m"),
        (47 * 3600, "47h"),
        (172800, "2d"),
    ],
)
def test_ages_read_as_kubectls(seconds: float, words: str) -> None:
    assert age(seconds) == words
