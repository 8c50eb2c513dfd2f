"""The machine reboots under an agent that has applied a layout."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.agent_node import AgentNode, agent_node


def _boot(node: AgentNode) -> Path:
    """What the kernel says of this boot."""
    file = node.folder / "boot_id"
    file.write_text(node.gpus.run("boot-id"))
    return file


async def test_the_slices_come_back_and_the_pods_that_the_kubelet_failed_are_named(tmp_path: Path) -> None:
    async with agent_node(tmp_path) as node:
        await node.start(boot_id_file=_boot(node))
        node.wish("mixed")
        await node.until("success", "mixed")
        slices = node.slices()
        await node.run_deployment("serve", "nvidia.com/mig-3g.40gb")
        (lost,) = [pod["metadata"]["name"] for pod in node.pods("serve").values()]
        await node.stop()
        await node.kubelet.stop()
        node.gpus.run("reboot")
        await node.kubelet.restart()
        await node.start(boot_id_file=_boot(node))
        said = f"failed by the kubelet since the boot: default/{lost} (UnexpectedAdmissionError)"
        await node.cluster_until(lambda: said in node.status().get("message", ""), "the pod is named")
        assert node.status()["state"] == "success"
        assert node.slices() == slices
        await node.cluster_until(lambda: len(node.pods("serve")) == 1, "its Deployment made another")
        assert len([event for event in node.events() if said in event["message"]]) == 1
