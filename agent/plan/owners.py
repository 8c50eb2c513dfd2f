"""Other programs on this node that change its GPUs: two owners of the same hardware undo each other's work.

Labels and environment are as the programs' public charts set them (read in November 2026): mig-manager by GPU Operator or by
its own manifest; NVIDIA's DRA driver for GPUs, where dynamic MIG is the feature gate ``DynamicMIG`` of the container ``gpus``;
HAMi, whose device plugin registers the mode of each GPU in a node annotation, and cuts those of mode ``mig`` itself; GKE's device
plugin, which cuts all GPUs alike where the node pool has a partition size.
"""

from __future__ import annotations

from agent.model.node import Node, Pod
from agent.model.snapshot import Snapshot
from agent.plan.host_plugin import is_gke_plugin

_GKE_SIZE = "cloud.google.com/gke-gpu-partition-size"
_HAMI_REGISTER = "hami.io/node-nvidia-register"


def second_owner(seen: Snapshot) -> str:
    """Who else cuts the GPUs here and what to do about it, in one sentence; empty when we are alone."""
    for pod in sorted(seen.pods, key=lambda pod: pod.ref):
        what = "" if pod.finished else _owner(pod, seen.node)
        if what:
            return f"pod {pod.ref} changes the GPUs of this node too: {what}"
    return ""


def _owner(pod: Pod, node: Node) -> str:
    if pod.app == "nvidia-mig-manager":
        return (
            "it is NVIDIA's mig-manager; turn it off (GPU Operator: migManager.enabled=false, or for this node alone "
            "the label nvidia.com/gpu.deploy.mig-manager=false)"
        )
    if pod.owner_kind == "DaemonSet" and "DynamicMIG" in pod.gates.get("gpus", ()):
        return (
            "it is NVIDIA's DRA driver with dynamic MIG; turn that off (featureGates.DynamicMIG=false), "
            "or take the layout label from this node"
        )
    if pod.labels.get("app.kubernetes.io/component") == "hami-device-plugin" and _hami_cuts(node):
        return (
            "it is HAMi's device plugin in MIG mode; set operatingmode hami-core for this node in its configuration, "
            "or take the layout label from this node"
        )
    if is_gke_plugin(pod) and node.labels.get(_GKE_SIZE):
        return (
            f"it is GKE's device plugin, and the node pool has the partition size {node.labels[_GKE_SIZE]}; make a node pool "
            "without one, or take the layout label from this node"
        )
    return ""


def _hami_cuts(node: Node) -> bool:
    """The annotation is JSON (``"mode":"mig"``); in older releases a GPU is words with commas, the mode one of them."""
    register = node.annotations.get(_HAMI_REGISTER, "").replace(" ", "")
    return '"mode":"mig"' in register or any("mig" in gpu.split(",") for gpu in register.split(":"))
