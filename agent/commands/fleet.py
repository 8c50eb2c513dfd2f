"""`warmslice status --all`: every node of the cluster, in one table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

from agent.adapters.kube import Kube
from agent.observe.cluster import node_of, pod_of
from agent.report.fleet import FleetNode, fleet_document, fleet_node, fleet_table


async def print_fleet(
    label_key: str, kubeconfig: str | None, as_json: bool, now: Callable[[], float]
) -> tuple[int, str]:
    """How all nodes stand; exit code 1 when an agent's last word is ``failed`` on one of them. Nodes and pods are listed page by
    page."""
    kube = await Kube.connect(kubeconfig)
    try:
        fleet = await _fleet(kube, label_key)
    finally:
        await kube.close()
    code = 1 if any(node.status is not None and node.status.state == "failed" for node in fleet) else 0
    return code, json.dumps(fleet_document(fleet), indent=2) if as_json else fleet_table(fleet, now())


async def _fleet(kube: Kube, label_key: str) -> list[FleetNode]:
    asked: dict[str, Counter[str]] = {}
    async for item in kube.pages("/api/v1/pods", fieldSelector="status.phase!=Succeeded,status.phase!=Failed"):
        node = (item.get("spec") or {}).get("nodeName")
        if node:
            asked.setdefault(node, Counter()).update(pod_of(item).gpus)
    return [
        found
        async for item in kube.pages("/api/v1/nodes")
        if (found := fleet_node(node_of(item), asked.get(item["metadata"]["name"], Counter()), label_key)) is not None
    ]
