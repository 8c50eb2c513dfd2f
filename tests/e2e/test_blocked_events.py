"""The Events of a change that is blocked, and goes on by itself, as kubectl prints them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from agent.model import labels
from hack.devcluster import kinds
from hack.kubectl import NoKubectlError, carried
from tests.docs.blocks import ROOT, blocks, commands, looks_like
from tests.e2e.agent_node import NODE, AgentNode, agent_node
from tests.fakes.devcluster import is_running, simple_pod

PAGE = "docs/operations.md"


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


async def test_the_documentation_shows_what_kubectl_prints_of_a_blocked_change(tmp_path: Path) -> None:
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
        (block,) = (one for one in blocks(ROOT / PAGE) if "kubectl get events" in one.text)
        (command,) = commands(block)
        printed = await _kubectl(node, command.text.removeprefix("kubectl "))
    assert NODE in command.text
    assert command.shown is not None
    assert looks_like(command.shown, printed)
