"""A node that starts, by processes: no GPU pod comes before slices and models are there, and then the taint goes in one write."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.model import labels
from hack.devcluster import gpu_operator, kinds
from hack.devcluster.objects import Object
from hack.hub.server import Hub
from tests.e2e.agent_node import NODE, AgentNode, agent_node
from tests.fakes.hub import tiny_model

GATE = {"key": labels.WARMING, "effect": "NoSchedule"}
OTHER = {"key": "example.org/other", "value": "x", "effect": "PreferNoSchedule"}
PLUGIN = "nvidia-device-plugin-daemonset"
SMALL = "nvidia.com/mig-1g.10gb"


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    folder = tmp_path / "served"
    folder.mkdir()
    model = tiny_model(folder)
    async with Hub({model.repository: model}) as running:
        yield running


@asynccontextmanager
async def _registered(folder: Path, tolerating: bool = True) -> AsyncIterator[AgentNode]:
    """A node that was registered with the taint, a layout and a device plugin; a pod waits for one of its slices."""
    async with agent_node(folder, mig=False, device_plugin=False, taints=(GATE, OTHER)) as node:
        node.cluster.install_device_plugin()
        if tolerating:
            patch = {"spec": {"template": {"spec": {"tolerations": [{"operator": "Exists"}]}}}}
            node.cluster.merge(kinds.DAEMONSETS, gpu_operator.DEVICE_PLUGIN, patch, gpu_operator.NAMESPACE)
        node.cluster.label_node(NODE, {labels.DEVICE_PLUGIN: "true", labels.CONFIG: "small"})
        container = {"name": "main", "image": "example.org/serve:1", "resources": {"limits": {SMALL: "1"}}}
        template = {"metadata": {"labels": {"app": "serve"}}, "spec": {"containers": [container]}}
        spec = {"replicas": 1, "selector": {"matchLabels": {"app": "serve"}}, "template": template}
        node.cluster.create(kinds.DEPLOYMENTS, {"metadata": {"name": "serve"}, "spec": spec})
        yield node


async def _start(node: AgentNode, hub: Hub, repository: str = "", **flags: object) -> None:
    catalog = node.folder / "catalog.yaml"
    name = repository or next(iter(hub.models))
    catalog.write_text(f"models:\n- {{repository: {name}, name: tiny, gate: true}}\n", "utf-8")
    cache = node.folder / "hub-cache"
    await node.start("all", catalog_file=catalog, hub_endpoint=hub.url, cache_directory=cache, **flags)


def _taints(node: Object) -> list[dict[str, str]]:
    found: list[dict[str, str]] = node["spec"].get("taints", [])
    return found


def _record(node: Object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(node["metadata"].get("annotations", {}).get(labels.GATE, "{}"))
    return found


def _bound(node: AgentNode) -> list[str]:
    """Pods of the Deployment that the scheduler has given to this node."""
    pods = [p for p in node.cluster.api.all(kinds.PODS) if p["metadata"].get("labels", {}).get("app") == "serve"]
    return [pod["metadata"]["name"] for pod in pods if pod["spec"].get("nodeName") == NODE]


class _History:
    """Every version of the node from here on, and whether a pod was bound to it in that moment."""

    def __init__(self, node: AgentNode) -> None:
        self.seen: list[tuple[Object, bool]] = []
        self._node = node
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        subscription = self._node.cluster.api.store.subscribe(kinds.NODES)
        try:
            while True:
                await subscription.next_batch()
                self.seen.append((self._node.node(), bool(_bound(self._node))))
        finally:
            self._node.cluster.api.store.unsubscribe(subscription)

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_no_pod_comes_before_slices_and_model_are_there_and_one_write_lets_them(tmp_path: Path, hub: Hub) -> None:
    """Killed on the way, the next process goes on with the same time."""
    hub.faults.add("GET cdn/", "slow", bytes_per_second=1_500_000)
    async with _registered(tmp_path) as node:
        history = _History(node)
        await _start(node, hub)
        await node.cluster_until(lambda: _record(node.node()).get("waits_for") == "models", "the model is waited for")
        assert SMALL in node.node()["status"]["allocatable"]
        assert not _bound(node)
        await node.kill()
        await _start(node, hub)
        await node.cluster_until(lambda: _taints(node.node()) == [OTHER], "the gate is open")
        state = node.node()["metadata"]["labels"][f"{labels.MODEL_PREFIX}tiny"]
        opened = node.cluster.requests()[-1].number
        await node.cluster_until(lambda: len(node.pods("serve")) == 1, "the pod runs")
        await asyncio.sleep(1.0)
        await history.end()
        assert (state, node.status()["reason"]) == ("ready", "applied")
        shut = [GATE in _taints(version) for version, _ in history.seen]
        assert shut == sorted(shut, reverse=True), "it goes once, and does not come back"
        assert not any(bound for (_, bound), gated in zip(history.seen, shut, strict=True) if gated)
        assert all(OTHER in _taints(version) for version, _ in history.seen)
        assert len({_record(version)["since"] for version, _ in history.seen if _record(version)}) == 1
        last = max(position for position, gated in enumerate(shut) if gated)
        assert (_record(history.seen[last][0]) != {}, _record(history.seen[last + 1][0])) == (True, {})
        after = [one for one in node.cluster.requests("patch", "warmslice", opened) if "/nodes/" in one.path]
        assert after == []
        words = [(event["type"], event["reason"]) for event in node.events()]
        assert words.count(("Normal", "GateOpened")) == 1
        page = await node.page("/metrics")
        assert 'warmslice_gates_opened_total{outcome="ready"} 1.0' in page
        assert "warmslice_gate_waiting{" not in page


async def test_what_never_comes_is_named_at_the_deadline(tmp_path: Path, hub: Hub) -> None:
    """A model that the hub has not, and a device plugin that does not tolerate the taint: it, and with it the
    success of the layout, comes when the taint has gone."""
    async with _registered(tmp_path, tolerating=False) as node:
        await _start(node, hub, "acme/absent", gate_seconds=15)
        await node.cluster_until(lambda: len(node.slices()) == 7, "the slices are there")
        await node.cluster_until(lambda: _record(node.node()).get("waits_for") == "layout", "the layout is waited for")
        page = await node.page("/metrics")
        assert 'warmslice_gate_waiting{reason="layout"} 1.0' in page
        assert 'warmslice_gate_waiting{reason="models"} 1.0' in page
        assert node.pods(PLUGIN) == {}
        await node.cluster_until(lambda: _taints(node.node()) == [OTHER], "the gate is open")
        await node.cluster_until(lambda: any(e["reason"] == "GateOpenedLate" for e in node.events()), "it is said")
        [event] = [event for event in node.events() if event["reason"] == "GateOpenedLate"]
        assert event["type"] == "Warning"
        assert "layout 'small' is not applied in this boot: pending," in event["message"]
        assert "gated model tiny is failed" in event["message"]
        assert 'warmslice_gates_opened_total{outcome="deadline"} 1.0' in await node.page("/metrics")
        [line] = [line for line in node.log() if line["event"] == "gate.opened"]
        assert (line["level"], line["detail"]) == ("warning", event["message"])
        await node.until("success", "small")
        await node.cluster_until(lambda: len(node.pods("serve")) == 1, "the pod runs")


async def test_a_disk_that_hangs_puts_off_no_deadline(tmp_path: Path, hub: Hub) -> None:
    """The cache loop's first pass never ends: not even which models are gated is known."""
    async with agent_node(tmp_path, device_plugin=False, taints=(GATE, OTHER)) as node:
        refs = tmp_path / "hub-cache" / f"models--{next(iter(hub.models)).replace('/', '--')}" / "refs"
        refs.mkdir(parents=True)
        os.mkfifo(refs / "main")
        await _start(node, hub, gate_seconds=3)
        await node.cluster_until(lambda: labels.GATE in str(node.node()["metadata"]), "the time has begun")
        await node.cluster_until(lambda: _taints(node.node()) == [OTHER], "the gate is open")


async def test_labels_that_are_refused_keep_no_node_shut(tmp_path: Path, hub: Hub) -> None:
    """Somebody's policy forbids what the cache role says of its models: its passes fail, and the gate opens all the same."""
    expression = f"!object.metadata.?labels.orValue({{}}).exists(key, key.startsWith('{labels.MODEL_PREFIX}'))"
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["nodes"]}]
    spec = {"matchConstraints": {"resourceRules": rules}, "validations": [{"expression": expression}]}
    async with agent_node(tmp_path, device_plugin=False, taints=(GATE, OTHER)) as node:
        metadata = {"name": "no-models"}
        node.cluster.create(kinds.ADMISSION_POLICIES, {"metadata": metadata, "spec": {"failurePolicy": "Fail", **spec}})
        binding = {"policyName": "no-models", "validationActions": ["Deny"]}
        node.cluster.create(kinds.ADMISSION_BINDINGS, {"metadata": metadata, "spec": binding})
        await _start(node, hub, gate_seconds=3)
        await node.cluster_until(lambda: _taints(node.node()) == [OTHER], "the gate is open")
        assert any(line["event"] == "pass.failed" and line["loop"] == "cache" for line in node.log())
        assert f"{labels.MODEL_PREFIX}tiny" not in node.node()["metadata"]["labels"]


async def test_with_cache_aware_no_slice_goes_before_the_model_of_the_new_layout_is_here(
    tmp_path: Path, hub: Hub
) -> None:
    """The label makes both due: the layout, and the model that the catalog ties to it."""
    hub.faults.add("GET cdn/", "slow", bytes_per_second=2_500_000)
    async with agent_node(tmp_path) as node:
        catalog = tmp_path / "catalog.yaml"
        tied = f"gate: true, nodes: {{{labels.CONFIG}: mixed}}"
        catalog.write_text(f"models: [{{repository: {next(iter(hub.models))}, name: tiny, {tied}}}]", "utf-8")
        cache = tmp_path / "hub-cache"
        await node.start("all", catalog_file=catalog, hub_endpoint=hub.url, cache_directory=cache, cache_aware=True)
        node.wish("small")
        await node.until("success", "small")
        done = len(node.gpus.log())
        history = _History(node)
        node.wish("mixed")
        await node.cluster_until(lambda: node.status().get("reason") == "model-not-ready", "the model is waited for")
        assert len(node.gpus.log()) == done
        await node.until("success", "mixed")
        await history.end()
        stands = [version["metadata"]["labels"].get(f"{labels.MODEL_PREFIX}tiny") for version, _ in history.seen]
        begun = [labels.OPERATION in version["metadata"]["annotations"] for version, _ in history.seen]
        assert stands.index("fetching") < stands.index("ready") < begun.index(True)
        assert "nvmlGpuInstanceDestroy" in [entry["function"] for entry in node.gpus.log()[done:]]
