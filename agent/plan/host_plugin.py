"""Device plugins that this agent cannot start anew by deleting a pod.

What is known of them is from public documentation and sources, read in November 2026: on Bottlerocket NVIDIA's device plugin is
a service of the host; GKE's own plugin, a DaemonSet in ``kube-system``, offers slices only of the one partition size that the
node pool was made with, and makes them itself when it starts.
"""

from __future__ import annotations

from agent.model.node import Pod
from agent.model.snapshot import Snapshot
from agent.plan.advertise import has_known_advertiser, is_advertised

_HOOK = "set refresh_commands to what makes it read the GPUs anew"


def host_plugin(seen: Snapshot) -> str:
    """Who advertises the GPUs here and cannot be told of a new layout without a command of the host, and what to do; empty where
    there is none such."""
    for pod in seen.pods:
        if is_gke_plugin(pod):
            return (
                f"pod {pod.ref} is GKE's own device plugin, which does not show slices that it has not made: make the node "
                f"pool with the label gke-no-default-nvidia-gpu-device-plugin=true and run NVIDIA's, or {_HOOK}"
            )
    if seen.node.os_image.startswith("Bottlerocket") and is_advertised(seen.node) and not has_known_advertiser(seen):
        return (
            f"on {seen.node.os_image} the device plugin is a service of the host, which reads the GPUs only when it starts: "
            f'{_HOOK}, such as [["nsenter", "-t", "1", "-m", "systemctl", "restart", "nvidia-k8s-device-plugin"]]'
        )
    return ""


def is_gke_plugin(pod: Pod) -> bool:
    """A pod of the device plugin that GKE brings."""
    name = pod.labels.get("k8s-app", "")
    return pod.owner_kind == "DaemonSet" and pod.ref.namespace == "kube-system" and name == "nvidia-gpu-device-plugin"
