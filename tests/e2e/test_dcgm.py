"""An A100 in the agent's own metrics: the load of its slices from the node's dcgm-exporter, by pod, and under its names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from hack.dcgm_exporter import Fault, SimulatedExporter
from hack.devcluster import gpu_operator, kinds
from hack.devcluster.objects import Object
from tests.e2e.agent_node import DEADLINE_SECONDS, AgentNode, agent_node

SMALL = "nvidia.com/mig-1g.10gb"
INTERVAL_SECONDS = 0.3
OWN = "warmslice_slice_utilization_ratio"
THEIRS = "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
LAYOUT = "1x3g.40gb_2x1g.10gb"
RECUT = "1x3g.40gb_1x1g.20gb"

Row = tuple[dict[str, str], float]


async def test_the_load_of_an_a100_slice_is_on_its_pod_while_the_exporter_of_the_node_tells_it(tmp_path: Path) -> None:
    """Found by its pod, joined by GPU and GPU instance, shown under both names; gone with the exporter, and never of a slice
    that was there before."""
    async with agent_node(tmp_path, "A100-80GB") as node:
        exporter = SimulatedExporter(node.gpus.show, INTERVAL_SECONDS)
        async with exporter.serving() as url:
            node.cluster.create(kinds.DAEMONSETS, exporter_daemonset(url), gpu_operator.NAMESPACE)
            await node.start(dcgm_exporter_interval_seconds=INTERVAL_SECONDS, dcgm_names="true")
            node.wish(LAYOUT)
            await node.until("success", LAYOUT)
            await node.run_deployment("serve", SMALL)
            (pod,) = node.pods("serve").values()
            name = pod["metadata"]["name"]

            held = [labels for labels, _ in await seen(node, OWN, lambda rows: len(rows) == 3 and name in pods(rows))]
            (mine,) = (labels["mig_uuid"] for labels in held if labels["pod"] == name)
            node.gpus.run("util", "--device", mine, "--graphics", "0.5", "--dram", "0.25")
            rows = await seen(node, OWN, lambda rows: 0.5 in values(rows))
            assert {(labels["pod"], value) for labels, value in rows} == {(name, 0.5), ("", 0)}
            rows = await seen(node, THEIRS, lambda rows: 0.5 in values(rows))
            ((labels, _),) = [row for row in rows if row[1] == 0.5]
            assert (labels["pod"], labels["namespace"], labels["Hostname"]) == (name, "default", "gpu-1")
            assert (labels["UUID"], labels["GPU_I_PROFILE"]) == (node.gpus.gpu_uuids()[0], "1g.10gb")

            exporter.fault = Fault.SLOW
            await seen(node, OWN, lambda rows: not rows)
            assert len(await seen(node, "warmslice_slice_memory_used_bytes", bool)) == 3

            exporter.fault = Fault.NONE
            node.wish(RECUT)
            await node.until("success", RECUT)
            rows = await seen(node, OWN, lambda rows: len(rows) == 2)
            assert {labels["profile"] for labels, _ in rows} == {"3g.40gb", "1g.20gb"}


def exporter_daemonset(url: str) -> Object:
    """As GPU Operator has it, paused by its label in a change; in the node's network, at the port of ``url``."""
    port = int(url.rpartition(":")[2].partition("/")[0])
    labels = {"app": "nvidia-dcgm-exporter"}
    ports = [{"name": "metrics", "containerPort": port}]
    container = {"name": "exporter", "image": "nvcr.io/nvidia/k8s/dcgm-exporter:4.8.4", "ports": ports}
    spec = {
        "hostNetwork": True,
        "nodeSelector": {"nvidia.com/gpu.deploy.dcgm-exporter": "true"},
        "containers": [container],
    }
    return {
        "metadata": {"name": "nvidia-dcgm-exporter"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


async def seen(node: AgentNode, name: str, holds: Callable[[list[Row]], bool]) -> list[Row]:
    """The series of that name, once it is so."""
    rows: list[Row] = []
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not holds(rows := list(series(await node.page("/metrics"), name))):
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"never came: {name}; last {rows}; log ends {node.log()[-5:]}") from None
    return rows


def series(page: str, name: str) -> Iterable[Row]:
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == name:
                yield sample.labels, sample.value


def pods(rows: list[Row]) -> set[str]:
    return {labels["pod"] for labels, _ in rows}


def values(rows: list[Row]) -> set[float]:
    return {value for _, value in rows}
