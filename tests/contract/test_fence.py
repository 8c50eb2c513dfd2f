"""What an agent's token may write under the policies that are shipped, tried on an API server: ours, and a real one.

Every case is a dry run: admission judges it, and the next case finds the same cluster.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from agent.model import labels
from agent.observe.cluster import node_of
from agent.report.events import node_event
from hack.admission_policy import ACCOUNT, MANIFEST
from hack.devcluster.objects import Object, random_suffix
from tests.contract.kube_client import JSON_PATCH, MERGE, STRATEGIC, Answer, Kube, real_cluster
from tests.fakes.devcluster import dev_cluster, simple_pod

ADMISSION = "/apis/admissionregistration.k8s.io/v1"
EVENTS = "/api/v1/namespaces/default/events"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


@dataclass(frozen=True, slots=True)
class Fence:
    """Two nodes, ``own`` and ``other``, with a pod each; ``agent`` holds the token of its pod on ``own``, ``unbound`` a
    token of the same account that is bound to nothing."""

    admin: Kube
    agent: Kube
    unbound: Kube
    namespace: str
    own: str
    other: str

    async def patch(self, who: Kube, node: str, patch: Any, kind: str = MERGE, subresource: str = "") -> Answer:
        return await who.call("PATCH", f"/api/v1/nodes/{node}{subresource}", patch, kind, dryRun="All")

    async def evict(self, who: Kube, pod: str, *, by_uid: bool = True, namespace: str = "") -> Answer:
        namespace = namespace or self.namespace
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}"
        options: Object = {"preconditions": {"uid": (await self.admin.call("GET", path)).body["metadata"]["uid"]}}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
        body |= {"deleteOptions": options if by_uid else {}}
        return await who.call("POST", f"{path}/eviction", body, dryRun="All")

    async def say(self, who: Kube, node: str, **fields: Any) -> Answer:
        return await who.call("POST", EVENTS, {**said_of(node), **fields}, dryRun="All")

    async def say_again(self, who: Kube, event: str) -> Answer:
        return await who.call("PATCH", f"{EVENTS}/{event}", {"count": 2}, MERGE, dryRun="All")

    async def delete(self, who: Kube, pod: str) -> Answer:
        return await who.call("DELETE", f"/api/v1/namespaces/{self.namespace}/pods/{pod}", dryRun="All")


def metadata(**fields: Any) -> Object:
    return {"metadata": fields}


def said_of(node: str) -> Object:
    """As the agent says it."""
    found = node_of({"metadata": {"name": node, "uid": node}})
    return node_event(found, "changing", "a test", "Partition", 1.8e9)


def taint(key: str, value: str = "", effect: str = "NoSchedule") -> Object:
    return {"key": key, "value": value, "effect": effect}


def was_denied(answer: Answer, why: str) -> bool:
    return (
        answer.code == 422
        and "is forbidden: ValidatingAdmissionPolicy" in answer.body["message"]
        and why in str(answer.body["message"])
    )


NODE = {
    "labels": {"team": "a", labels.CONFIG: "mixed", labels.STATE: "pending", labels.DEVICE_PLUGIN: "true"},
    "annotations": {"example.org/owner": "a", labels.STATUS: "{}"},
}
BEGIN = metadata(labels={labels.STATE: "pending"}, annotations={labels.OPERATION: "{}", **labels.AUTOSCALER_GUARDS}) | {
    "spec": {"unschedulable": True}
}

OTHER_TAINTS = [taint("gpu"), taint(labels.WARMING, effect="NoExecute")]
TAINTS = [taint("gpu"), taint(labels.WARMING), taint(labels.WARMING, effect="NoExecute")]

OWN_WRITES: dict[str, Object] = {
    "its state": metadata(labels={labels.STATE: "success"}),
    "its state, removed": metadata(labels={labels.STATE: None}),
    "a GPU client's label": metadata(labels={labels.DEVICE_PLUGIN: labels.PAUSED}),
    "a model's label": metadata(labels={f"{labels.MODEL_PREFIX}minilm": "ready"}),
    "its status": metadata(annotations={labels.STATUS: '{"state": "success"}'}),
    "its status, removed": metadata(annotations={labels.STATUS: None}),
    "the plan of a dry run": metadata(annotations={labels.PLAN: "{}"}),
    "the beginning of a change: cordon, guards and journal in one": BEGIN,
    "the record of the start-up gate": metadata(annotations={labels.GATE: "{}"}),
}
FOREIGN_WRITES: dict[str, tuple[Object, str]] = {
    "a foreign label added": (metadata(labels={"other": "b"}), "no label but its own"),
    "a foreign label changed": (metadata(labels={"team": "b"}), "no label but its own"),
    "a foreign label removed": (metadata(labels={"team": None}), "removes no label"),
    "the wish": (metadata(labels={labels.CONFIG: "all-disabled"}), "no label but its own"),
    "the model set": (metadata(labels={labels.MODEL_SET: "big"}), "no label but its own"),
    "a role of the node": (metadata(labels={"node-role.kubernetes.io/control-plane": ""}), "no label but its own"),
    "a foreign annotation added": (metadata(annotations={"example.org/x": "b"}), "no annotation but its own"),
    "a foreign annotation changed": (metadata(annotations={"example.org/owner": "b"}), "no annotation but its own"),
    "a foreign annotation removed": (metadata(annotations={"example.org/owner": None}), "removes no annotation"),
    "a taint added": ({"spec": {"taints": [*TAINTS, taint("mine")]}}, "taints"),
    "a taint changed": ({"spec": {"taints": [taint("gpu", "x"), *TAINTS[1:]]}}, "taints"),
    "a taint removed": ({"spec": {"taints": TAINTS[1:]}}, "taints"),
    "every taint removed": ({"spec": {"taints": None}}, "taints"),
    "another taint removed with the start-up gate": ({"spec": {"taints": OTHER_TAINTS[1:]}}, "taints"),
    "a taint added in place of the start-up gate": ({"spec": {"taints": [*OTHER_TAINTS, taint("mine")]}}, "taints"),
    "the key of the start-up gate with another effect": ({"spec": {"taints": TAINTS[:2]}}, "taints"),
    "the start-up gate changed": ({"spec": {"taints": [TAINTS[0], taint(labels.WARMING, "x"), TAINTS[2]]}}, "taints"),
    "a provider": ({"spec": {"providerID": "aws:///x"}}, "nothing else"),
    "a finalizer": (metadata(finalizers=["example.org/stay"]), "finalizers"),
    "one foreign label among its own": (metadata(labels={labels.STATE: "success", "other": "b"}), "no label"),
}
STATUS_WRITES: dict[str, tuple[Object, str]] = {
    "capacity": ({"status": {"capacity": {"nvidia.com/gpu": "64"}}}, "status to the kubelet"),
    "the Ready condition": (
        {"status": {"conditions": [{"type": "Ready", "status": "False"}]}},
        "status to the kubelet",
    ),
    "a foreign label by way of the status": (metadata(labels={"other": "b"}), "no label but its own"),
}


class FenceContract:
    @pytest.mark.parametrize("patch", OWN_WRITES.values(), ids=OWN_WRITES)
    async def test_an_agent_writes_its_own_keys_and_the_cordon_of_its_own_node(
        self, fence: Fence, patch: Object
    ) -> None:
        answer = await fence.patch(fence.agent, fence.own, patch)
        assert answer.code == 200, answer.body

    @pytest.mark.parametrize("patch", OWN_WRITES.values(), ids=OWN_WRITES)
    async def test_an_agent_writes_nothing_on_another_node(self, fence: Fence, patch: Object) -> None:
        assert was_denied(await fence.patch(fence.agent, fence.other, patch), "the node that its own pod runs on")

    @pytest.mark.parametrize(("patch", "why"), FOREIGN_WRITES.values(), ids=FOREIGN_WRITES)
    async def test_what_is_not_the_agents_it_leaves_alone(self, fence: Fence, patch: Object, why: str) -> None:
        assert was_denied(await fence.patch(fence.agent, fence.own, patch), why)

    @pytest.mark.parametrize(("patch", "why"), STATUS_WRITES.values(), ids=STATUS_WRITES)
    async def test_the_status_is_the_kubelets_even_where_roles_would_allow(
        self, fence: Fence, patch: Object, why: str
    ) -> None:
        assert was_denied(await fence.patch(fence.agent, fence.own, patch, STRATEGIC, "/status"), why)

    async def test_every_kind_of_patch_is_fenced(self, fence: Fence) -> None:
        patch = [{"op": "replace", "path": "/metadata/labels/team", "value": "b"}]
        assert was_denied(await fence.patch(fence.agent, fence.own, patch, JSON_PATCH), "no label but its own")

    async def test_an_agent_opens_the_start_up_gate_and_shuts_none(self, fence: Fence) -> None:
        """In one write with its record. What was taken away it cannot set again."""
        path = f"/api/v1/nodes/{fence.own}"
        shut = (await fence.admin.call("GET", path)).body["spec"]["taints"]
        opened = [one for one in shut if (one["key"], one["effect"]) != (labels.WARMING, labels.WARMING_EFFECT)]
        assert len(opened) == len(shut) - 1
        patch = metadata(annotations={labels.GATE: None}) | {"spec": {"taints": opened}}
        answer = await fence.patch(fence.agent, fence.own, patch)
        assert answer.code == 200, answer.body
        assert was_denied(await fence.patch(fence.agent, fence.other, patch), "the node that its own pod runs on")
        try:
            assert (await fence.admin.call("PATCH", path, {"spec": {"taints": opened}}, MERGE)).code == 200
            assert was_denied(await fence.patch(fence.agent, fence.own, {"spec": {"taints": shut}}), "taints")
        finally:
            assert (await fence.admin.call("PATCH", path, {"spec": {"taints": shut}}, MERGE)).code == 200

    async def test_a_token_that_is_bound_to_no_pod_writes_nothing(self, fence: Fence) -> None:
        own = metadata(labels={labels.STATE: "success"})
        assert was_denied(await fence.patch(fence.unbound, fence.own, own), "the node that its own pod runs on")
        assert was_denied(await fence.delete(fence.unbound, "here"), "deletes pods of the node")
        assert was_denied(await fence.evict(fence.unbound, "here"), "names no node")
        assert was_denied(await fence.say(fence.unbound, fence.own), "Events of the node")

    async def test_the_fence_is_for_agents_only(self, fence: Fence) -> None:
        assert (await fence.patch(fence.admin, fence.other, metadata(labels={"team": "b"}))).code == 200
        assert (await fence.evict(fence.admin, "here", by_uid=False)).code == 201

    async def test_an_agent_deletes_pods_of_its_own_node_only(self, fence: Fence) -> None:
        assert (await fence.delete(fence.agent, "here")).code in (200, 202)
        assert was_denied(await fence.delete(fence.agent, "there"), "deletes pods of the node")
        assert was_denied(await fence.delete(fence.agent, "nowhere"), "deletes pods of the node")

    async def test_an_eviction_names_the_pods_uid(self, fence: Fence) -> None:
        assert (await fence.evict(fence.agent, "here")).code == 201
        assert was_denied(await fence.evict(fence.agent, "here", by_uid=False), "by its UID")

    async def test_an_eviction_cannot_be_held_to_a_node(self, fence: Fence) -> None:
        """What SECURITY.md admits: the object that admission sees does not name the pod's node."""
        assert (await fence.evict(fence.agent, "there")).code == 201

    async def test_of_nodes_an_agent_speaks_of_its_own_only_and_always_under_its_name(self, fence: Fence) -> None:
        """Of pods, and what makes them, the policy cannot see where they run; who says it, it can."""
        assert (await fence.say(fence.agent, fence.own)).code == 201
        assert was_denied(await fence.say(fence.agent, fence.other), "Events of the node")
        pod = {"kind": "Pod", "name": fence.own, "namespace": "default", "uid": "u"}
        assert (await fence.say(fence.agent, fence.own, involvedObject=pod)).code == 201
        for disguise in ({"reportingInstance": fence.other}, {"reportingComponent": "kubelet"}):
            said = await fence.say(fence.agent, fence.own, involvedObject=pod, **disguise)
            assert was_denied(said, "under no other's name"), disguise

    async def test_an_agent_counts_on_its_own_events_only(self, fence: Fence) -> None:
        assert (await fence.say_again(fence.agent, f"{fence.own}.own")).code == 200
        assert was_denied(await fence.say_again(fence.agent, f"{fence.own}.kubelet"), "under no other's name")
        assert was_denied(await fence.say_again(fence.agent, f"{fence.other}.own"), "Events of the node")

    async def test_nothing_is_evicted_from_kube_system(self, fence: Fence) -> None:
        answer = await fence.evict(fence.agent, f"system-{fence.own}", namespace="kube-system")
        assert was_denied(answer, "nothing from kube-system")


@asynccontextmanager
async def fenced(admin: Kube, nobody: Kube) -> AsyncIterator[Fence]:
    """The shipped policies in force, under names of this test's own and for an account of its own that RBAC allows more
    than any agent, so that it is the policies that refuse."""
    name = f"warmslice-test-{random_suffix()}"
    own, other = f"{name}-own", f"{name}-other"
    made: list[str] = []

    async def make(path: str, obj: Object) -> None:
        body = await admin.made(path, obj)
        made.append(f"{path}/{body['metadata']['name']}")

    async def token(spec: Object) -> str:
        account = f"/api/v1/namespaces/{name}/serviceaccounts/agent/token"
        return str((await admin.made(account, {"spec": spec}))["status"]["token"])

    try:
        await make("/api/v1/namespaces", {"metadata": {"name": name}})
        await make(f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "agent"}})
        await _grant(make, name)
        for node in (own, other):
            await make("/api/v1/nodes", {"metadata": {"name": node, **NODE}, "spec": {"taints": TAINTS}})
        pods = f"/api/v1/namespaces/{name}/pods"
        for pod, node in (("agent", own), ("here", own), ("there", other)):
            await make(pods, _pod(pod, "agent", node=node))
        await make(pods, _pod("nowhere", "agent"))
        await make("/api/v1/namespaces/kube-system/pods", _pod(f"system-{own}", "default", node=own))
        for event, node, fields in (
            ("own", own, {}),
            ("kubelet", own, {"reportingComponent": "kubelet"}),
            ("own", other, {}),
        ):
            await make(EVENTS, {**said_of(node), **fields, **metadata(name=f"{node}.{event}", namespace="default")})
        for document in yaml.safe_load_all(_renamed(MANIFEST.read_text("utf-8"), name)):
            kind = document["kind"].lower()
            await make(
                f"{ADMISSION}/{kind.removesuffix('policy')}{'policies' if kind.endswith('policy') else 's'}", document
            )
        bound = {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "agent"}}
        agent, unbound = nobody.as_holder_of(await token(bound)), nobody.as_holder_of(await token({}))
        yield Fence(admin, agent, unbound, name, own, other)
    finally:
        for path in reversed(made):
            await admin.call("DELETE", path, {"gracePeriodSeconds": 0})


async def _grant(make: Callable[[str, Object], Awaitable[None]], name: str) -> None:
    rules = [
        {"apiGroups": [""], "resources": ["nodes", "nodes/status"], "verbs": ["get", "patch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "delete"]},
        {"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
    ]
    await make(f"{RBAC}/clusterroles", {"metadata": {"name": name}, "rules": rules})
    subjects = [{"kind": "ServiceAccount", "namespace": name, "name": "agent"}]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    await make(f"{RBAC}/clusterrolebindings", {"metadata": {"name": name}, "subjects": subjects, "roleRef": role})


def _renamed(manifest: str, name: str) -> str:
    assert manifest.count(ACCOUNT) == 4
    swapped = manifest.replace(ACCOUNT, f"system:serviceaccount:{name}:agent")
    return re.sub(r"(?<=[nN]ame: )warmslice-", f"{name}-", swapped)


def _pod(name: str, account: str, node: str = "") -> Object:
    """Without a node: one that no scheduler finds a place for."""
    pod = simple_pod(name, node=node)
    pod["spec"] |= {"serviceAccountName": account} | (
        {} if node else {"nodeSelector": {"warmslice.dev/test": "nowhere"}}
    )
    return pod


async def _in_force(fence: Fence) -> None:
    """A real server takes a moment to hear of roles and policies."""
    async with asyncio.timeout(30):
        while True:
            answers = [
                await fence.patch(fence.unbound, fence.own, metadata(labels={"other": "b"})),
                await fence.delete(fence.unbound, "here"),
                await fence.evict(fence.unbound, "here"),
                await fence.say(fence.unbound, fence.own),
            ]
            if {answer.code for answer in answers} == {422}:
                return
            await asyncio.sleep(0.05)


class TestDevelopmentServer(FenceContract):
    @pytest_asyncio.fixture
    async def fence(self, tmp_path: Path) -> AsyncIterator[Fence]:
        async with dev_cluster(tmp_path) as cluster, cluster.session() as session:
            cluster.control_plane.server.gate.authorizer.enforced = True
            nobody = Kube(cluster.url, session)
            async with fenced(nobody.as_holder_of(cluster.control_plane.admin_token), nobody) as fence:
                yield fence


@pytest.mark.cluster
class TestRealCluster(FenceContract):
    @pytest_asyncio.fixture
    async def fence(self) -> AsyncIterator[Fence]:
        async with real_cluster() as (admin, nobody), fenced(admin, nobody) as fence:
            await _in_force(fence)
            yield fence
