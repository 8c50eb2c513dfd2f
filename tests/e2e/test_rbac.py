"""The roles that are shipped, against what the agent really asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from hack.devcluster import kinds
from hack.devcluster.access.tokens import answer_token_request
from hack.devcluster.kinds import ALL_KINDS
from hack.devcluster.kubeconfig import write_kubeconfig
from tests.e2e.agent_node import NODE, AgentNode, agent_node
from tests.fakes.devcluster import simple_pod

SHIPPED = Path(__file__).resolve().parents[2] / "manifests" / "base" / "rbac.yaml"
ACCOUNT = "system:serviceaccount:warmslice:warmslice"


async def test_the_shipped_roles_are_enough_for_a_change_that_moves_pods(tmp_path: Path) -> None:
    """And every request of the agent is made as its service account."""
    async with agent_node(tmp_path) as node:
        node.wish("mixed")
        kubeconfig = tmp_path / "agent.kubeconfig"
        _enforce_shipped_roles(node, kubeconfig)
        await node.start(kubeconfig=kubeconfig)
        await node.until("success", "mixed")
        await node.run_deployment("web", "nvidia.com/mig-3g.40gb")
        node.wish("small")
        await node.until("success", "small")
        asked = node.cluster.requests(user_agent="warmslice")
        assert {entry.user for entry in asked} == {ACCOUNT}
        assert [(entry.verb, entry.object) for entry in asked if entry.status in (401, 403)] == []
        assert {"list", "watch", "patch", "create"} <= {entry.verb for entry in asked}
        evictions = [entry for entry in asked if entry.object.endswith("/eviction")]
        assert [(entry.user, entry.verb, entry.status) for entry in evictions] == [(ACCOUNT, "create", 201)]


def _enforce_shipped_roles(node: AgentNode, kubeconfig: Path) -> None:
    """The kubelet has its own user and role."""
    cluster = node.cluster
    cluster.create(kinds.NAMESPACES, {"metadata": {"name": "warmslice"}})
    documents: list[dict[str, Any]] = [d for d in yaml.safe_load_all(SHIPPED.read_text("utf-8")) if d]
    for document in documents:
        kind = next(k for k in ALL_KINDS if (k.api_version, k.name) == (document["apiVersion"], document["kind"]))
        cluster.create(kind, document)
    pod = simple_pod("warmslice-x", node=NODE)
    pod["metadata"]["namespace"] = "warmslice"
    pod["spec"]["serviceAccountName"] = "warmslice"
    cluster.create(kinds.PODS, pod)
    gate = cluster.control_plane.server.gate
    gate.authorizer.enforced = True
    gate.authenticator.without_token = None
    bound = {"spec": {"boundObjectRef": {"kind": "Pod", "name": "warmslice-x"}}}
    request = answer_token_request(cluster.api, gate.authenticator.signer, "warmslice", "warmslice", bound)
    write_kubeconfig(kubeconfig, cluster.control_plane.access(request["status"]["token"]))
    assert json.loads(kubeconfig.read_text("utf-8"))["users"][0]["user"]["token"]
