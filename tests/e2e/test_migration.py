"""What docs/migration.md promises: the agent takes a node over from mig-manager without touching what is there."""

from __future__ import annotations

from pathlib import Path

from agent.model import labels
from hack.devcluster import kinds
from tests.cli.planting import of_daemon_set
from tests.e2e.agent_node import NODE, agent_node

MIG_MANAGER = "nvidia-mig-manager"


async def test_a_node_that_mig_manager_has_cut_is_taken_over_with_its_slices_and_pods(tmp_path: Path) -> None:
    async with agent_node(tmp_path) as node:
        node.gpus.nvidia_smi("mig", "-cgi", "19,19,19,19,19,19,19", "-C")
        node.cluster.label_node(NODE, {labels.CONFIG: "small", labels.STATE: "success"})
        for pod in node.pods("nvidia-device-plugin-daemonset").values():
            node.cluster.delete(kinds.PODS, pod["metadata"]["name"], pod["metadata"]["namespace"], grace_seconds=0)
        await node.run_deployment("serve", "nvidia.com/mig-1g.10gb", replicas=3)
        serving, cut = set(node.pods("serve")), len(node.gpus.log())
        of_daemon_set(MIG_MANAGER, {"app": MIG_MANAGER}, "gpu-operator")(node.cluster)

        await node.start()
        await node.cluster_until(
            lambda: node.status().get("reason") == "second-owner", "the agent waits for mig-manager"
        )
        node.cluster.delete(kinds.DAEMONSETS, MIG_MANAGER, "gpu-operator")
        await node.until("success", "small")
        assert node.status()["reason"] == "applied"
        assert (set(node.pods("serve")), node.evictions(), len(node.gpus.log())) == (serving, [], cut)
