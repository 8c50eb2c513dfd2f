"""`warmslice plan` and `warmslice layouts` beside a running agent: several places to ask, one answer."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from agent.model import labels
from hack.devcluster import kinds
from tests.e2e.agent_node import NODE, AgentNode, agent_node


async def _plan(node: AgentNode, *words: str) -> dict[str, Any]:
    return await _told(node, "plan", "--layouts-file", str(node.layouts), *words)


async def _told(node: AgentNode, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "agent", *words, "--json", "--kubeconfig", str(node.cluster.kubeconfig())]
    command += ["--node-name", NODE, "--pod-resources-socket", str(node.kubelet.socket)]
    command += ["--proc-directory", str(node.kubelet.proc)]
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **node.gpus.env()}, stdout=asyncio.subprocess.PIPE
    )
    text, _ = await process.communicate()
    answer: dict[str, Any] = json.loads(text)
    return answer


async def test_the_host_the_agent_and_the_api_say_the_same(tmp_path: Path) -> None:
    async with agent_node(tmp_path) as node:
        await node.start()
        node.wish("small")
        await node.until("success", "small")
        await node.run_deployment("serve", "nvidia.com/mig-1g.10gb", replicas=7)
        spec = {"minAvailable": 7, "selector": {"matchLabels": {"app": "serve"}}}
        node.cluster.create(kinds.BUDGETS, {"metadata": {"name": "serving", "namespace": "default"}, "spec": spec})

        here = await _plan(node, "--here", "--to", "mixed")
        assert (here["verdict"], here["unknown"]) == ("change", "")
        assert len(here["gpus"][0]["holders"]) == 7
        assert len(here["pods"]) == 3
        assert here["held_back"] == here["pods"]
        assert set(map(tuple, here["budgets"].values())) == {("serving",)}

        node.cluster.label_node(NODE, {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.count": "1"})
        by_api = await _plan(node, "--node", NODE, "--to", "mixed")
        assert [gpu["destroy"] for gpu in by_api["gpus"]] == [["1g.10gb@4:1", "1g.10gb@5:1", "1g.10gb@6:1"]]
        assert (len(by_api["may_move"]), by_api["pods"]) == (7, [])
        assert "who holds which slice only gpu-1 knows" in by_api["unknown"]

        node.cluster.merge(kinds.NODES, NODE, {"metadata": {"annotations": {labels.DRY_RUN: "true"}}})
        node.wish("mixed")
        await node.cluster_until(lambda: _annotation(node)["layout"] == "mixed", "the agent's own answer")
        assert _annotation(node) == here == await _plan(node, "--node", NODE)


def _annotation(node: AgentNode) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(node.node()["metadata"]["annotations"].get(labels.PLAN, '{"layout": ""}'))
    return answer


async def test_a_layout_that_leaves_the_running_pods_alone_is_found_and_moves_nobody(tmp_path: Path) -> None:
    async with agent_node(tmp_path) as node:
        await node.start()
        node.wish("small")
        await node.until("success", "small")
        await node.run_deployment("serve", "nvidia.com/mig-1g.10gb", replicas=2)
        pods = set(node.pods("serve"))

        reach = await _told(node, "layouts", "--here")
        gpu = reach["gpus"][0]
        assert (reach["unknown"], reach["starting"], len(gpu["held"])) == ("", [], 2)
        assert set(gpu["holders"]) == set(gpu["held"])
        chosen = gpu["geometries"][0]
        node.wish(chosen["layout"])
        await node.until("success", chosen["layout"])
        assert node.status()["placements"][gpu["uuid"]] == chosen["slots"]
        assert (set(node.pods("serve")), node.evictions()) == (pods, [])
