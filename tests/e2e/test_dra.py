"""A node whose GPUs NVIDIA's DRA driver offers, as a whole: pods claim slices, and the layout changes under them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hack.devcluster import kinds, nvidia_dra_driver
from hack.devcluster.kubelet.dra_driver import DRIVER_POD_LABEL
from hack.devcluster.objects import Object, dig, uid_of
from tests.e2e.agent_node import NODE, AgentNode, agent_node
from tests.fakes.devcluster import is_running
from tests.fakes.dra import of_profile, request, template


def _offered(node: AgentNode) -> list[str]:
    """Profiles in the ResourceSlices."""
    devices = [
        device for item in node.cluster.api.all(kinds.RESOURCE_SLICES) for device in dig(item, "spec.devices") or []
    ]
    return sorted(str(dig(device, "attributes.profile.string")) for device in devices)


def _is_driver(pod: Object) -> bool:
    """Before it is there, the hardware's word alone counts."""
    key, value = DRIVER_POD_LABEL
    return is_running(pod) and (pod["metadata"].get("labels") or {}).get(key) == value


def _claiming(name: str, template: str) -> Object:
    """A Deployment of one pod with one claim."""
    container: Object = {"name": "main", "image": "example.org/serve:1", "resources": {"claims": [{"name": "gpu"}]}}
    spec: Object = {
        "containers": [container],
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": template}],
        "terminationGracePeriodSeconds": 1,
    }
    pod = {"metadata": {"labels": {"app": name}}, "spec": spec}
    return {
        "metadata": {"name": name},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": pod},
    }


async def _serves(node: AgentNode, name: str) -> str:
    """The UID of its pod, once it runs."""
    await node.cluster_until(lambda: len(node.pods(name)) == 1, f"{name} runs")
    return next(iter(node.pods(name)))


async def test_pods_with_claims_keep_their_slices_or_make_room_and_the_new_ones_can_be_claimed(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"uses_dra": True, "dra_resync_s": 0.05}
    async with agent_node(tmp_path, device_plugin=False, **settings) as node:
        nvidia_dra_driver.install(node.cluster.api)
        node.cluster.label_node(NODE, {"nvidia.com/gpu.present": "true"})
        await node.cluster_until(lambda: any(map(_is_driver, node.cluster.api.all(kinds.PODS))), "the driver runs")
        await node.start()
        node.wish("small")
        await node.until("success", "small")
        assert _offered(node) == ["1g.10gb"] * 7
        node.cluster.create(kinds.CLAIM_TEMPLATES, template("small", request(selectors=of_profile("1g.10gb"))))
        node.cluster.create(kinds.CLAIM_TEMPLATES, template("large", request(selectors=of_profile("3g.40gb"))))
        for number in range(5):
            node.cluster.create(kinds.DEPLOYMENTS, _claiming(f"small-{number}", "small"))
        before = {number: await _serves(node, f"small-{number}") for number in range(5)}
        node.cluster.create(kinds.DEPLOYMENTS, _claiming("large", "large"))
        node.wish("mixed")
        await node.until("success", "mixed")
        assert len(node.evictions()) == 1, "the large slice takes the room of three, of which two were free"
        assert _offered(node) == ["1g.10gb"] * 4 + ["3g.40gb"]
        await _serves(node, "large")
        kept = [number for number, uid in before.items() if uid in node.pods(f"small-{number}")]
        assert len(kept) == 4
        assert not node.node()["spec"].get("unschedulable")
        waiting = [pod for pod in node.cluster.api.all(kinds.PODS) if not is_running(pod)]
        assert len(waiting) == 1
        assert uid_of(waiting[0]) not in before.values()
