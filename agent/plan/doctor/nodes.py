"""What the doctor's checks ask of a node: has it GPUs, is an agent meant for it, does it wish for a layout. Pure."""

from __future__ import annotations

from agent.model import labels
from agent.model.cluster_view import ClusterView, DaemonSet, SeenPod, Wished
from agent.model.node import Node, Taint
from agent.model.place import NODE_NAME, Place

GPU_LABELS = (
    ("nvidia.com/gpu.present", "true"),
    ("feature.node.kubernetes.io/pci-10de.present", "true"),
    ("feature.node.kubernetes.io/pci-0302_10de.present", "true"),
    ("feature.node.kubernetes.io/pci-0300_10de.present", "true"),
)
"""What node feature discovery and GPU Operator write on nodes with NVIDIA GPUs (their public sources, November 2026)."""
_GKE_GPU = "cloud.google.com/gke-accelerator"
_WORKLOAD = "nvidia.com/gpu.workload.config"
"""GPU Operator's: the GPUs of such nodes belong to containers, or (``vm-passthrough``, ``vm-vgpu``) to virtual machines."""
YOUNG_SECONDS = 900.0
"""A node that is younger is still becoming one: its driver is built, its agent is pulled."""
_DAEMON_TOLERATED = "node.kubernetes.io/"
"""Taints of a node's lifecycle, which every DaemonSet's pods tolerate (but for that of a node without a network)."""
_HARD = frozenset({"NoSchedule", "NoExecute"})


def sign_of_gpus(node: Node) -> str:
    """What tells that the node has NVIDIA GPUs; empty where nothing does."""
    if node.labels.get(_WORKLOAD, "container") != "container":
        return ""
    resource = next((name for name, count in sorted(node.capacity.items()) if count and _is_gpu(name)), "")
    if resource:
        return f"capacity {resource}={node.capacity[resource]}"
    found = next((f"label {key}={value}" for key, value in GPU_LABELS if node.labels.get(key) == value), "")
    return found or (f"label {_GKE_GPU}={node.labels[_GKE_GPU]}" if _GKE_GPU in node.labels else "")


def _is_gpu(resource: str) -> bool:
    """NVIDIA's other operators give their NICs and virtual GPUs away in the same domain."""
    plain = resource.removesuffix(".shared")
    return plain == "nvidia.com/gpu" or plain.startswith("nvidia.com/mig-")


def selects(place: Place, node: Node) -> bool:
    """Whether its labels are those that such pods ask for."""
    known = {**node.labels, NODE_NAME: node.name}
    if any(known.get(key) != value for key, value in place.selector):
        return False
    return place.terms is None or any(term and all(one.matches(known) for one in term) for term in place.terms)


def barred_by(place: Place, node: Node) -> Taint | None:
    """A taint that keeps a DaemonSet's pods away."""
    hard = (taint for taint in node.taints if taint.effect in _HARD and not taint.key.startswith(_DAEMON_TOLERATED))
    return next((taint for taint in hard if not any(one.tolerates(taint) for one in place.tolerations)), None)


def agents_meant_for(view: ClusterView, node: Node) -> tuple[DaemonSet, ...]:
    """Those whose pods this node should have."""
    return tuple(one for one in view.agents or () if selects(one.place, node))


def is_ours(view: ClusterView, node: Node) -> bool:
    """Whether an agent is there, or meant to be."""
    stay = any(not one.pod.terminating for one in view.agents_on(node))
    return stay or bool(agents_meant_for(view, node))


def ready_agents(view: ClusterView, node: Node) -> tuple[SeenPod, ...]:
    """Agents of the node that work."""
    return tuple(one for one in view.agents_on(node) if one.ready and not one.pod.terminating)


def wish_of(view: ClusterView, node: Node) -> str:
    """The layouts that its labels ask for, as the agent calls them; empty for none."""
    return labels.asked_layout(node.labels, view.config.label_key)


def wished_on(view: ClusterView, node: Node) -> Wished:
    """What the node's labels mean together; GPUs with a layout of their own make slices if one of these does."""
    whole = view.wished.get(node.labels.get(view.config.label_key, ""), Wished())
    own = [view.wished.get(value, Wished()) for value in labels.own_layouts(node.labels).values()]
    if not own:
        return whole
    parts = [whole, *own]
    refusal = next((one.refusal for one in parts if one.refusal), "")
    return Wished(refusal, any(one.slices for one in parts), max(one.kinds for one in parts), whole.entries)
