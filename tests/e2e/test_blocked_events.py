"""The Events of a change that is blocked, and goes on by itself, as kubectl prints them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from agent.model import labels
from hack.devcluster import kinds
from hack.kubectl import NoKubectlError, carried
from tests.e2e.agent_node import NODE, AgentNode, agent_node
from tests.fakes.devcluster import is_running, simple_pod

README = Path(__file__).resolve().parents[2] / "README.md"


async def _kubectl(node: AgentNode, command: str) -> str:
    try:
        program = carried("kubectl")
    except NoKubectlError as error:
        pytest.skip(str(error))
    kubeconfig = node.cluster.kubeconfig()
    process = await asyncio.create_subprocess_exec(
        program, *command.split(), stdout=asyncio.subprocess.PIPE,
        env={"KUBECONFIG": str(kubeconfig), "HOME": str(kubeconfig.parent), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    output, _ = await process.communicate()
    return output.decode()


async def test_readme_shows_what_kubectl_prints_of_a_blocked_change(tmp_path: Path) -> None:
    async with agent_node(tmp_path) as node:
        await node.start()
        node.wish("7x1g.10gb")
        await node.until("success", "7x1g.10gb")
        pod = simple_pod("train-0", resources={"nvidia.com/mig-1g.10gb": 1}, grace_seconds=1)
        node.cluster.create(kinds.PODS, pod, "default")
        await node.cluster.wait_for(kinds.PODS, "train-0", is_running, "default")
        node.wish("1x7g.80gb")
        await node.until("pending", "1x7g.80gb")
        node.cluster.merge(kinds.PODS, "train-0", {"metadata": {"annotations": {labels.EVICT: "true"}}}, "default")
        await node.until("success", "1x7g.80gb")
        shown = README.read_text("utf-8").split("$ kubectl get events ")[1].split("```")[0]
        command, _, table = shown.partition("\n")
        printed = await _kubectl(node, f"get events {command}")
    assert NODE in command
    assert table.strip().splitlines() == [line.rstrip() for line in printed.strip().splitlines()]
