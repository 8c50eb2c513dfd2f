"""Who may ask what: tokens, roles, reviews, admission policies and quotas."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from hack.devcluster import kinds
from hack.devcluster.objects import Object
from tests.contract.kube_client import MERGE, Kube
from tests.fakes.devcluster import DevCluster, bare_node, dev_cluster, simple_pod

RBAC = "/apis/rbac.authorization.k8s.io/v1"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
NODE_NAME = "authentication.kubernetes.io/node-name"


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[DevCluster]:
    async with dev_cluster(tmp_path) as running:
        running.control_plane.server.gate.authorizer.enforced = True
        running.create(kinds.NODES, bare_node("gpu-1"))
        running.create(kinds.NODES, bare_node("gpu-2"))
        running.create(kinds.SERVICE_ACCOUNTS, {"metadata": {"name": "agent"}})
        yield running


@pytest_asyncio.fixture
async def admin(cluster: DevCluster) -> AsyncIterator[Kube]:
    async with cluster.session() as session:
        yield Kube(cluster.url, session, cluster.control_plane.admin_token)


@pytest_asyncio.fixture
async def agent(cluster: DevCluster, admin: Kube) -> Kube:
    """A service account's own client, with the token of its pod on gpu-1."""
    pod = simple_pod("agent-x", node="gpu-1")
    pod["spec"]["serviceAccountName"] = "agent"
    cluster.create(kinds.PODS, pod)
    return admin.as_holder_of(await token_for(admin, {"kind": "Pod", "name": "agent-x", "apiVersion": "v1"}))


async def token_for(admin: Kube, bound: Object | None = None) -> str:
    spec: Object = {"boundObjectRef": bound} if bound else {}
    made = await admin.made("/api/v1/namespaces/default/serviceaccounts/agent/token", {"spec": spec})
    return str(made["status"]["token"])


async def grant(admin: Kube, *rules: Object) -> None:
    await admin.made(f"{RBAC}/clusterroles", {"metadata": {"name": "agent"}, "rules": list(rules)})
    subjects = [{"kind": "ServiceAccount", "namespace": "default", "name": "agent"}]
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "agent"}
    binding = {"metadata": {"name": "agent"}, "subjects": subjects, "roleRef": reference}
    await admin.made(f"{RBAC}/clusterrolebindings", binding)


def rule(resource: str, *verbs: str, names: tuple[str, ...] = ()) -> Object:
    given: Object = {"apiGroups": [""], "resources": [resource], "verbs": list(verbs)}
    return given | ({"resourceNames": list(names)} if names else {})


class TestTokens:
    async def test_a_pods_token_names_its_node(self, cluster: DevCluster, agent: Kube) -> None:
        claims = json.loads(base64.urlsafe_b64decode(agent.token.split(".")[1] + "=="))
        assert claims["sub"] == "system:serviceaccount:default:agent"
        node = cluster.get(kinds.NODES, "gpu-1")
        assert claims["kubernetes.io"]["node"] == {"name": "gpu-1", "uid": node["metadata"]["uid"]}
        review = await agent.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
        assert review.body["status"]["userInfo"]["extra"][NODE_NAME] == ["gpu-1"]

    async def test_a_spoilt_token_is_refused(self, agent: Kube) -> None:
        head, claims, signature = agent.token.split(".")
        other = base64.urlsafe_b64encode(base64.urlsafe_b64decode(claims + "==").replace(b"gpu-1", b"gpu-2"))
        answer = await agent.as_holder_of(f"{head}.{other.decode().rstrip('=')}.{signature}").call("GET", "/version")
        assert (answer.code, answer.body["reason"]) == (401, "Unauthorized")

    async def test_a_token_ends_with_the_pod_it_is_bound_to(self, cluster: DevCluster, agent: Kube) -> None:
        assert (await agent.call("GET", "/version")).code == 200
        cluster.delete(kinds.PODS, "agent-x", grace_seconds=0)
        assert (await agent.call("GET", "/version")).code == 401

    async def test_a_token_ends_with_the_node_it_is_bound_to(self, cluster: DevCluster, agent: Kube) -> None:
        cluster.delete(kinds.NODES, "gpu-1")
        assert (await agent.call("GET", "/version")).code == 401

    async def test_nobody_may_come_in_without_a_token_where_that_is_switched_off(
        self, cluster: DevCluster, admin: Kube
    ) -> None:
        nobody = admin.as_holder_of("")
        assert (await nobody.call("GET", "/version")).code == 200
        assert "system:anonymous" in (await nobody.call("GET", "/api/v1/nodes")).body["message"]
        cluster.control_plane.server.gate.authenticator.without_token = None
        assert (await nobody.call("GET", "/version")).code == 401

    async def test_whoever_does_not_know_the_authority_does_not_talk_to_the_server(self, cluster: DevCluster) -> None:
        async with aiohttp.ClientSession() as stranger:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await stranger.get(f"{cluster.url}/version")

    async def test_a_kubelet_is_a_node_and_no_administrator(self, cluster: DevCluster, admin: Kube) -> None:
        kubelet = admin.as_holder_of(cluster.control_plane.kubelet_access("gpu-1").token)
        assert (await kubelet.call("GET", "/api/v1/nodes/gpu-1")).code == 200
        assert (await kubelet.call("DELETE", "/api/v1/nodes/gpu-1")).code == 403

    async def test_the_log_tells_who_it_was(self, cluster: DevCluster, agent: Kube) -> None:
        await agent.call("GET", "/api/v1/nodes/gpu-1")
        [entry] = [entry for entry in cluster.requests() if entry.object == "nodes/gpu-1"]
        assert (entry.user, entry.status) == ("system:serviceaccount:default:agent", 403)


class TestRoles:
    async def test_what_no_role_allows_is_forbidden(self, agent: Kube) -> None:
        answer = await agent.call("GET", "/api/v1/nodes/gpu-1")
        assert (answer.code, answer.body["reason"]) == (403, "Forbidden")
        assert answer.body["details"] == {"name": "gpu-1", "kind": "nodes"}
        assert answer.body["message"] == (
            'nodes "gpu-1" is forbidden: User "system:serviceaccount:default:agent" cannot get resource "nodes" '
            'in API group "" at the cluster scope'
        )

    async def test_a_rule_allows_its_verbs_and_no_others(self, admin: Kube, agent: Kube) -> None:
        await grant(admin, rule("nodes", "get"))
        assert (await agent.call("GET", "/api/v1/nodes/gpu-1")).code == 200
        assert (await agent.call("PATCH", "/api/v1/nodes/gpu-1", {}, MERGE)).code == 403
        assert (await agent.call("GET", "/api/v1/nodes")).code == 403

    async def test_a_resource_does_not_include_its_subresources(self, admin: Kube, agent: Kube) -> None:
        await grant(admin, rule("nodes", "get", "patch"))
        assert (await agent.call("PATCH", "/api/v1/nodes/gpu-1/status", {}, MERGE)).code == 403

    async def test_named_resources_are_all_a_rule_covers(self, admin: Kube, agent: Kube) -> None:
        await grant(admin, rule("nodes", "get", "list", names=("gpu-1",)))
        assert (await agent.call("GET", "/api/v1/nodes/gpu-1")).code == 200
        assert (await agent.call("GET", "/api/v1/nodes/gpu-2")).code == 403
        assert (await agent.call("GET", "/api/v1/nodes")).code == 403

    async def test_a_role_holds_in_its_namespace_only(self, admin: Kube, agent: Kube) -> None:
        home = f"{RBAC}/namespaces/default"
        await admin.made(f"{home}/roles", {"metadata": {"name": "r"}, "rules": [rule("configmaps", "list")]})
        binding = {"metadata": {"name": "r"}, "subjects": [{"kind": "ServiceAccount", "name": "agent"}]}
        await admin.made(f"{home}/rolebindings", binding | {"roleRef": {"kind": "Role", "name": "r"}})
        assert (await agent.call("GET", "/api/v1/namespaces/default/configmaps")).code == 200
        assert (await agent.call("GET", "/api/v1/namespaces/kube-system/configmaps")).code == 403
        assert (await agent.call("GET", "/api/v1/configmaps")).code == 403

    async def test_reviews_say_what_would_happen(self, admin: Kube, agent: Kube) -> None:
        await grant(admin, rule("nodes", "get"))
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        allowed = {}
        for verb in ("get", "delete"):
            review = {"spec": {"resourceAttributes": {"verb": verb, "resource": "nodes"}}}
            allowed[verb] = (await agent.made(path, review))["status"]["allowed"]
        assert allowed == {"get": True, "delete": False}
        rules = await agent.made(
            "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", {"spec": {"namespace": "default"}}
        )
        assert rule("nodes", "get") in rules["status"]["resourceRules"]


async def fence(admin: Kube, expression: str, *resources: str, **more: object) -> None:
    """A policy on updates of these resources, in force."""
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": list(resources)}]
    validation = {"expression": expression, "message": "not yours", **more}
    spec = {"matchConstraints": {"resourceRules": rules}, "validations": [validation]}
    await admin.made(f"{ADMISSION}/validatingadmissionpolicies", {"metadata": {"name": "fence"}, "spec": spec})
    bound = {"policyName": "fence", "validationActions": ["Deny"]}
    await admin.made(f"{ADMISSION}/validatingadmissionpolicybindings", {"metadata": {"name": "b"}, "spec": bound})


OWN_NODE = f"request.userInfo.extra[?'{NODE_NAME}'][0].orValue('') == request.name"


class TestPolicies:
    async def test_an_agent_can_be_fenced_to_its_own_node(self, admin: Kube, agent: Kube) -> None:
        await grant(admin, rule("nodes", "patch"))
        await fence(admin, OWN_NODE, "nodes", "nodes/*")
        label = {"metadata": {"labels": {"a": "b"}}}
        assert (await agent.call("PATCH", "/api/v1/nodes/gpu-1", label, MERGE)).code == 200
        answer = await agent.call("PATCH", "/api/v1/nodes/gpu-2", label, MERGE)
        assert (answer.code, answer.body["reason"]) == (422, "Invalid")
        assert answer.body["message"] == (
            "nodes \"gpu-2\" is forbidden: ValidatingAdmissionPolicy 'fence' with binding 'b' denied request: not yours"
        )
        assert (await admin.call("PATCH", "/api/v1/nodes/gpu-2", label, MERGE)).code == 422  # no claim at all

    async def test_a_policy_compares_the_old_object_with_the_new(self, admin: Kube) -> None:
        await fence(admin, "object.spec == oldObject.spec", "nodes")
        assert (
            await admin.call("PATCH", "/api/v1/nodes/gpu-1", {"metadata": {"labels": {"a": "b"}}}, MERGE)
        ).code == 200
        assert (await admin.call("PATCH", "/api/v1/nodes/gpu-1", {"spec": {"unschedulable": True}}, MERGE)).code == 422

    async def test_a_policy_for_a_resource_does_not_see_its_subresources(self, admin: Kube) -> None:
        await fence(admin, "false", "nodes")
        status = {"status": {"capacity": {"x": "1"}}}
        assert (await admin.call("PATCH", "/api/v1/nodes/gpu-1/status", status, MERGE)).code == 200

    async def test_a_validation_may_choose_another_reason(self, admin: Kube) -> None:
        await fence(admin, "false", "nodes", reason="Forbidden", messageExpression="'no, ' + request.name")
        answer = await admin.call("PATCH", "/api/v1/nodes/gpu-1", {"spec": {"unschedulable": True}}, MERGE)
        assert (answer.code, answer.body["reason"]) == (403, "Forbidden")
        assert answer.body["message"].endswith("no, gpu-1")

    async def test_an_expression_that_fails_denies(self, admin: Kube) -> None:
        await fence(admin, "object.spec.nowhere == 1", "nodes")
        answer = await admin.call("PATCH", "/api/v1/nodes/gpu-1", {"metadata": {"labels": {"a": "b"}}}, MERGE)
        assert answer.code == 422
        assert "resulted in error" in answer.body["message"]

    async def test_an_expression_that_cannot_be_read_is_refused(self, admin: Kube) -> None:
        spec = {"validations": [{"expression": "object.("}]}
        policy = {"metadata": {"name": "bad"}, "spec": spec}
        answer = await admin.call("POST", f"{ADMISSION}/validatingadmissionpolicies", policy)
        assert answer.code == 422
        assert answer.body["details"]["causes"][0]["field"] == "spec.validations[0].expression"


class TestQuotas:
    async def test_what_a_namespace_may_not_hold_is_not_created(self, cluster: DevCluster, admin: Kube) -> None:
        hard = {"pods": "3", "requests.nvidia.com/mig-1g.10gb": "2"}
        cluster.create(kinds.QUOTAS, {"metadata": {"name": "q"}, "spec": {"hard": hard}})
        pods = "/api/v1/namespaces/default/pods"
        for name in ("a", "b"):
            await admin.made(pods, simple_pod(name, resources={"nvidia.com/mig-1g.10gb": 1}))
        over = await admin.call("POST", pods, simple_pod("c", resources={"nvidia.com/mig-1g.10gb": 1}))
        assert (over.code, over.body["reason"]) == (403, "Forbidden")
        assert over.body["message"] == (
            'pods "c" is forbidden: exceeded quota: q, requested: requests.nvidia.com/mig-1g.10gb=1, '
            "used: requests.nvidia.com/mig-1g.10gb=2, limited: requests.nvidia.com/mig-1g.10gb=2"
        )
        await admin.made(pods, simple_pod("d"))
        assert (await admin.call("POST", pods, simple_pod("e"))).code == 403

    async def test_a_quota_of_a_priority_class_counts_the_pods_of_that_class_alone(
        self, cluster: DevCluster, admin: Kube
    ) -> None:
        cluster.create(kinds.PRIORITY_CLASSES, {"metadata": {"name": "urgent"}, "value": 1000})
        scope = {"scopeName": "PriorityClass", "operator": "In", "values": ["urgent"]}
        spec = {"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [scope]}}
        cluster.create(kinds.QUOTAS, {"metadata": {"name": "q"}, "spec": spec})
        pods = "/api/v1/namespaces/default/pods"
        for name in ("a", "b"):
            await admin.made(pods, simple_pod(name))
        urgent = [simple_pod(name) for name in ("c", "d")]
        for pod in urgent:
            pod["spec"]["priorityClassName"] = "urgent"
        await admin.made(pods, urgent[0])
        over = await admin.call("POST", pods, urgent[1])
        assert over.code == 403
        assert "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1" in over.body["message"]
        used = {"pods": "1"}
        await cluster.wait_for(kinds.QUOTAS, "q", lambda quota: quota.get("status", {}).get("used") == used)

    async def test_a_quota_shows_what_is_used(self, cluster: DevCluster) -> None:
        cluster.create(kinds.QUOTAS, {"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "5"}}})
        cluster.create(kinds.CONFIGMAPS, {"metadata": {"name": "c"}})
        used = {"count/configmaps": "1"}
        await cluster.wait_for(kinds.QUOTAS, "q", lambda quota: quota.get("status", {}).get("used") == used)
