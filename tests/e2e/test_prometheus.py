"""A real Prometheus scrapes both roles of an agent: it takes what they expose, and has an answer for all that is shipped."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.model import labels
from hack.check_dashboards import Asked, complaints, without_answer
from hack.devcluster import kinds
from hack.hub.server import Hub
from hack.prometheus import Prometheus, serving
from tests.e2e.agent_node import NODE, AgentNode, AgentProcess, agent_node
from tests.fakes.hub import tiny_model
from tests.report.tools import prometheus, promtool

READY, COMING, LACKING = "org/ready", "org/coming", "org/nobody-has-it"
PRICE = 2.5
LAYOUTS = """\
version: v1
mig-configs:
  day:
  - {devices: [0], mig-enabled: true, mig-devices: {3g.40gb: 1, 1g.10gb: 3}}
  - {devices: [1], mig-enabled: false}
  night:
  - {devices: [0], mig-enabled: true, mig-devices: {7g.80gb: 1}}
  - {devices: [1], mig-enabled: false}
"""
DEADLINE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Scene:
    """A node with pods and models, its two containers, and who scrapes them."""

    node: AgentNode
    addresses: tuple[str, str]
    server: Prometheus

    async def ask(self, query: str) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self.server.ask, query)

    async def value(self, query: str) -> float:
        (found,) = await self.ask(query)
        return float(found["value"][1])

    async def page(self, role: int, accept: str) -> str:
        url = f"http://{self.addresses[role]}/metrics"
        async with aiohttp.ClientSession(headers={"Accept": accept}) as session, session.get(url) as answer:
            return await answer.text()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """Chat holds a slice and serves a model that is ready; batch holds a whole GPU; a pod that nobody would start again is in the
    way of the layout that is wished now; one model is being fetched, and one cannot be had."""
    models = [
        tiny_model(tmp_path / "ready", repository=READY),
        tiny_model(tmp_path / "coming", repository=COMING, weights_bytes=64 * 2**20),
    ]
    async with (
        Hub({m.repository: m for m in models}) as hub,
        agent_node(tmp_path, "H100-80GB-SXM:2", mig=False) as node,
    ):
        node.layouts.write_text(LAYOUTS, "utf-8")
        cache = await _both_roles(node, hub)
        try:
            await _pods(node, hub)
            addresses = (_address(node), _address(cache))
            with serving(prometheus(), tmp_path / "prometheus", {NODE: addresses}) as server:
                yield Scene(node, addresses, server)
        finally:
            await cache.kill()


async def _both_roles(node: AgentNode, hub: Hub) -> AgentProcess:
    await node.start("partition", gpu_prices=json.dumps({"NVIDIA H100*": PRICE}), telemetry_period_seconds=0.5)
    folder = node.folder / "cache"
    folder.mkdir()
    cache = AgentProcess(node.cluster.kubeconfig(), node.gpus, node.kubelet, folder)
    catalog = folder / "catalog.yaml"
    catalog.write_text(f"models:\n- repository: {READY}\n  page_cache: true\n", "utf-8")
    await cache.start(
        "cache",
        catalog_file=catalog,
        hub_endpoint=hub.url,
        cache_directory=folder / "hub",
        cache_budget_bytes=10**9,
    )
    return cache


async def _pods(node: AgentNode, hub: Hub) -> None:
    node.wish("day")
    await node.until("success", "day")
    label = f"{labels.MODEL_PREFIX}{READY.replace('/', '--')}"
    await node.cluster_until(lambda: node.node()["metadata"]["labels"].get(label) == "ready", "the model is ready")
    await node.run_deployment("batch", "nvidia.com/gpu")
    _serve(node, "chat", "nvidia.com/mig-3g.40gb")
    await node.cluster_until(lambda: len(node.pods("chat")) == 1, "chat runs")
    container = {"name": "main", "image": "train:1", "resources": {"limits": {"nvidia.com/mig-1g.10gb": "1"}}}
    node.cluster.create(kinds.PODS, {"metadata": {"name": "train"}, "spec": {"containers": [container]}})
    hub.throttle.address_bytes_per_second = 400e3
    catalog = node.folder / "cache" / "catalog.yaml"
    more = "".join(f"- repository: {name}\n" for name in (COMING, LACKING))
    catalog.write_text(f"{catalog.read_text('utf-8')}{more}", "utf-8")
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not (uuid := await _slice_of(node, "chat")):
            await asyncio.sleep(0.1)
    node.gpus.run("util", "--device", uuid, "--graphics", "0.5", "--sm", "0.5", "--tensor", "0.2", "--dram", "0.3")


async def _slice_of(node: AgentNode, app: str) -> str:
    """The UUID of the slice that an app's pod holds; empty until the agent shows it."""
    lines = (await node.page("/metrics")).splitlines()
    held = next((line for line in lines if "slice_info{" in line and f'pod="{app}' in line), "")
    return held.partition('mig_uuid="')[2].partition('"')[0]


def _serve(node: AgentNode, name: str, resource: str) -> None:
    container = {
        "name": "main",
        "image": "vllm/vllm-openai:v0.11",
        "command": ["vllm", "serve", READY],
        "resources": {"limits": {resource: "1"}},
    }
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": template}
    node.cluster.create(kinds.DEPLOYMENTS, {"metadata": {"name": name}, "spec": spec})


def _address(process: AgentProcess) -> str:
    started = [line for line in process.log() if line["event"] == "started"]
    return str(started[-1]["address"])


async def until(holds: Callable[[], Any], what: Callable[[], object]) -> None:
    """Ask, on a thread, until it is so."""
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await asyncio.to_thread(holds):
                await asyncio.sleep(0.5)
    except TimeoutError:
        raise AssertionError(await asyncio.to_thread(what)) from None


async def test_prometheus_has_an_answer_for_every_panel_rule_and_question(scene: Scene) -> None:
    """The store has been running for a moment only: nothing here needs a day to show something."""
    node, server = scene.node, scene.server
    node.wish("night")
    await node.cluster_until(lambda: node.status().get("reason") == "blocked", "train is in the way")
    # What an agent has counted before the first scrape is no news.
    await until(lambda: server.ask('warmslice_pass_limit_seconds{loop="telemetry"}'), lambda: "nothing is scraped")
    node.gpus.run("xid", "--device", node.gpus.gpu_uuids()[0], "--xid", "79")
    await until(lambda: not complaints(server.url, docs=True), lambda: "\n".join(complaints(server.url, docs=True)))
    nothing, wrong = without_answer(server, [Asked("here", "warmslice_nothing"), Asked("there", "sum(")])
    assert nothing == "here: no data: warmslice_nothing"
    assert wrong.startswith("there: ")
    assert "unclosed left parenthesis" in wrong

    # Every part of both GPUs is paid once, and the empty labels of a slice without a pod are not the scraped pod's.
    assert await scene.value("sum(warmslice:gpu_state:cost_per_hour)") == pytest.approx(2 * PRICE)
    assert await scene.value("count(warmslice_slice_info{pod=''})") == 2
    assert await scene.value("sum(warmslice:workload_state:cost_per_hour{workload='batch'})") == pytest.approx(PRICE)
    assert await scene.value("sum(warmslice:model_state:cost_per_hour)") == pytest.approx(PRICE / 2)
    assert not await scene.ask("warmslice_slice_info{pod=~'warmslice-.*'}")
    assert await scene.value("count(up == 1)") == 2
    # It asked for OpenMetrics, and got it: there the name of a counter's family is without _total.
    described = await asyncio.to_thread(server.get, "metadata")
    assert described["warmslice_pods_evicted"][0]["type"] == "counter"
    assert "warmslice_pods_evicted_total" not in described
    await until(
        lambda: server.ask('ALERTS{alertname="WarmSliceXid", alertstate="firing", xid="79"}'),
        lambda: server.ask("ALERTS"),
    )


async def test_promtool_has_nothing_to_say_of_either_role(scene: Scene) -> None:
    for role in (0, 1):
        body = (await scene.page(role, "text/plain;version=0.0.4")).encode()
        command = [promtool(), "check", "metrics"]
        checked = await asyncio.to_thread(
            subprocess.run, command, input=body, capture_output=True, timeout=30, check=False
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
        assert (await scene.page(role, "application/openmetrics-text;version=1.0.0")).endswith("# EOF\n")
