"""Models that workloads name are on the node before their pods: the agent as a process, a hub, the development cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.model import labels
from agent.model.demand import Demand
from agent.model.demand_map import KEY, NAME, read
from hack.devcluster import kinds
from hack.devcluster.faults import Fault
from hack.hub.server import Hub
from tests.e2e.agent_node import NODE, AgentNode, agent_node
from tests.fakes.devcluster import is_running
from tests.fakes.hub import tiny_model

MODEL = "org/tiny"
EVIL = "evil/tiny"
LABEL = f"{labels.MODEL_PREFIX}org--tiny"
SPACE = "serving"


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    folder = tmp_path / "served"
    folder.mkdir()
    models = [tiny_model(folder, repository=name) for name in (MODEL, EVIL)]
    async with Hub({model.repository: model for model in models}) as running:
        yield running


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[AgentNode]:
    async with agent_node(tmp_path) as running:
        for namespace in ("warmslice", SPACE, "others"):
            running.cluster.create(kinds.NAMESPACES, {"metadata": {"name": namespace}})
        (tmp_path / "catalog.yaml").write_text("models: []\n", "utf-8")
        yield running


async def start(node: AgentNode, hub: Hub, **flags: Any) -> None:
    values = {
        "catalog_file": node.folder / "catalog.yaml",
        "hub_endpoint": hub.url,
        "cache_directory": node.folder / "hub-cache",
        "prewarm": "auto",
        "prewarm_allow": json.dumps({SPACE: ["org/*"]}),
    }
    await node.start("cache", **{**values, **flags})


def serving(model: str = MODEL, **more: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "vllm/vllm-openai:v0.11", "command": ["vllm", "serve", model]}
    return {"containers": [container], "terminationGracePeriodSeconds": 1, **more}


def deployment(name: str, spec: dict[str, Any], replicas: int, namespace: str = SPACE) -> dict[str, Any]:
    app = {"app": name}
    template = {"metadata": {"labels": app}, "spec": spec}
    wish = {"replicas": replicas, "selector": {"matchLabels": app}, "template": template}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": wish}


def state(node: AgentNode) -> str | None:
    found: str | None = node.node()["metadata"]["labels"].get(LABEL)
    return found


def published(node: AgentNode) -> tuple[Demand, ...]:
    found = node.cluster.find(kinds.CONFIGMAPS, NAME, "warmslice")
    return read(found["data"][KEY]) if found is not None else ()


async def last_pass(node: AgentNode) -> str:
    name = 'warmslice_last_pass_timestamp_seconds{loop="cache"}'
    return next((line for line in (await node.page("/metrics")).splitlines() if line.startswith(name)), "")


async def test_a_deployment_scaled_to_zero_has_its_model_on_disk_before_its_first_pod(
    node: AgentNode, hub: Hub
) -> None:
    """And a pod that asks for a node with the model finds one."""
    await start(node, hub)
    spec = serving(nodeSelector={LABEL: "ready"})
    node.cluster.create(kinds.DEPLOYMENTS, deployment("chat", spec, 0))
    await node.cluster_until(lambda: state(node) == "ready", "the model is ready")
    node.cluster.merge(kinds.DEPLOYMENTS, "chat", {"spec": {"replicas": 1}}, SPACE)
    await node.cluster_until(lambda: any(map(is_running, node.cluster.api.all(kinds.PODS, SPACE))), "its pod runs")
    assert [demand.named.repository for demand in published(node)] == [MODEL]


async def test_a_restart_takes_no_label_away_meanwhile(node: AgentNode, hub: Hub) -> None:
    """Pods that wait for it would not be scheduled: what workloads want is not known at once after a start."""
    await start(node, hub)
    node.cluster.create(kinds.DEPLOYMENTS, deployment("chat", serving(), 0))
    await node.cluster_until(lambda: state(node) == "ready", "the model is ready")
    await node.stop()
    node.cluster.inject(Fault(method="GET", path="configmaps", delay_s=2.0, count=1))
    seen = set[str | None]()
    await start(node, hub)
    await node.cluster_until(lambda: len([x for x in node.log() if x["event"] == "started"]) == 2, "started again")
    for _ in range(80):
        seen.add(state(node))
        await asyncio.sleep(0.05)
    assert "\nwarmslice_cache_used_bytes " in await node.page("/metrics")
    assert seen == {"ready"}


async def test_a_workload_that_cannot_come_here_brings_no_model(node: AgentNode, hub: Hub) -> None:
    """It asks for another zone; and once the node is in that zone its model comes."""
    await start(node, hub)
    spec = serving(nodeSelector={"zone": "elsewhere"})
    node.cluster.create(kinds.DEPLOYMENTS, deployment("chat", spec, 0))
    await node.cluster_until(lambda: bool(published(node)), "published")
    node.cluster.label_node(NODE, {"zone": "here"})
    passed = await last_pass(node)
    node.cluster.label_node(NODE, {"touched": "yes"})
    while await last_pass(node) == passed:
        await asyncio.sleep(0.05)
    assert (state(node), hub.counters.requests) == (None, {})
    node.cluster.label_node(NODE, {"zone": "elsewhere"})
    await node.cluster_until(lambda: state(node) == "ready", "the model is ready")


async def test_who_may_make_pods_outside_the_allow_list_can_have_nothing_fetched(node: AgentNode, hub: Hub) -> None:
    """Not by a workload, not by a pod of the node, and not by a namespace that may have other models. It is counted, and said."""
    await start(node, hub)
    node.cluster.create(kinds.DEPLOYMENTS, deployment("sly", serving(), 0, "others"))
    node.cluster.create(kinds.DEPLOYMENTS, deployment("sly", serving(EVIL), 1, SPACE))
    await node.cluster_until(lambda: any(map(is_running, node.cluster.api.all(kinds.PODS, SPACE))), "its pod runs")
    await node.cluster_until(lambda: _refusals(node) == {"others", SPACE}, "both are refused in the log")
    await node.cluster_until(lambda: any(EVIL in event["message"] for event in node.events()), "it is said")
    page = await node.page("/metrics")
    assert 'warmslice_demand_refused_total{namespace="others"} 1.0' in page
    assert f'warmslice_demand_refused_total{{namespace="{SPACE}"}} 1.0' in page
    assert [event["reason"] for event in node.events() if EVIL in event["message"]] == ["ModelNotAllowed"]
    assert hub.counters.requests == {}
    assert [name for name in node.node()["metadata"]["labels"] if name.startswith(labels.MODEL_PREFIX)] == []


def _refusals(node: AgentNode) -> set[str]:
    return {line["namespace"] for line in node.log() if line["event"] == "demand.refused"}


async def test_a_workload_brings_a_declared_model_forward_and_nothing_else_in(node: AgentNode, hub: Hub) -> None:
    """``declared``: the catalog says what, workloads say what first."""
    (node.folder / "catalog.yaml").write_text(f"models: [{{repository: {MODEL}}}]\n", "utf-8")
    node.cluster.create(kinds.DEPLOYMENTS, deployment("chat", serving(), 1))
    node.cluster.create(kinds.DEPLOYMENTS, deployment("more", serving(EVIL), 0))
    await start(node, hub, prewarm="declared", prewarm_allow="{}")
    await node.cluster_until(lambda: state(node) == "ready", "the model is ready")
    await node.cluster_until(lambda: len(published(node)) == 2, "published")
    assert not any("evil" in line for line in hub.counters.request_lines)


async def test_nobody_looks_at_workloads_unless_asked_to(node: AgentNode, hub: Hub) -> None:
    await start(node, hub, prewarm="off")
    await node.cluster_until(lambda: any(line["event"] == "started" for line in node.log()), "started")
    node.cluster.create(kinds.DEPLOYMENTS, deployment("chat", serving(), 1))
    await node.cluster_until(lambda: any(map(is_running, node.cluster.api.all(kinds.PODS, SPACE))), "its pod runs")
    asked = {entry.object for entry in node.cluster.requests(user_agent="warmslice")}
    assert not {one for one in asked if "deployments" in one or "leases" in one or "configmaps" in one}
    assert state(node) is None
