"""kubectl create: typed clients that send protobuf, and what arrives of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from hack.devcluster.objects import Object
from tests.e2e.kubectl import Kubectl


@pytest.fixture
def namespace(kube: Kubectl) -> Iterator[str]:
    kube("create", "namespace", "made")
    yield "made"
    kube("delete", "namespace", "made", "--timeout=20s")


def created(kube: Kubectl, *arguments: str) -> Object:
    """The object that ``kubectl create`` and these arguments make, as it is then read back."""
    name = kube("create", *arguments, "-n", "made", "-o", "name").strip()
    found: Object = json.loads(kube("get", name, "-n", "made", "-o", "json"))
    return found


def test_a_role_is_created_with_its_rules(kube: Kubectl, namespace: str) -> None:
    """The core group is an empty text, which an encoding that leaves empty texts out would lose."""
    role = created(kube, "role", "reader", "--verb=get,list", "--resource=pods,deployments.apps", "--resource-name=x")
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"], "resourceNames": ["x"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list"], "resourceNames": ["x"]},
    ]


def test_a_cluster_role_may_aggregate_or_name_paths(kube: Kubectl, namespace: str) -> None:
    paths = created(kube, "clusterrole", "made-paths", "--verb=get", "--non-resource-url=/metrics")
    assert paths["rules"] == [{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}]
    sum_of = created(kube, "clusterrole", "made-sum", "--aggregation-rule=part=sum")
    assert sum_of["aggregationRule"] == {"clusterRoleSelectors": [{"matchLabels": {"part": "sum"}}]}
    kube("delete", "clusterrole", "made-paths", "made-sum")


def test_bindings_are_created_for_users_groups_and_accounts(kube: Kubectl, namespace: str) -> None:
    who = ("--user=ann", "--group=staff", "--serviceaccount=made:robot")
    subjects = [
        {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "ann"},
        {"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "staff"},
        {"kind": "ServiceAccount", "name": "robot", "namespace": "made"},
    ]
    binding = created(kube, "rolebinding", "b", "--role=reader", *who)
    assert binding["subjects"] == subjects
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    everywhere = created(kube, "clusterrolebinding", "made-b", "--clusterrole=view", *who)
    assert everywhere["subjects"] == subjects
    kube("delete", "clusterrolebinding", "made-b")


def test_a_quota_is_created_with_its_limits_and_scopes(kube: Kubectl, namespace: str) -> None:
    quota = created(kube, "quota", "q", "--hard=pods=3,requests.nvidia.com/gpu=4", "--scopes=NotTerminating")
    assert quota["spec"] == {"hard": {"pods": "3", "requests.nvidia.com/gpu": "4"}, "scopes": ["NotTerminating"]}


def test_a_budget_is_created_by_number_and_by_share(kube: Kubectl, namespace: str) -> None:
    by_number = created(kube, "poddisruptionbudget", "n", "--selector=app=web", "--min-available=2")
    assert by_number["spec"] == {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}
    by_share = created(kube, "poddisruptionbudget", "s", "--selector=app=web", "--max-unavailable=30%")
    assert by_share["spec"]["maxUnavailable"] == "30%"


def test_a_priority_class_may_be_negative(kube: Kubectl, namespace: str) -> None:
    made = created(kube, "priorityclass", "made-low", "--value=-10", "--preemption-policy=Never", "--description=last")
    assert (made["value"], made["preemptionPolicy"], made["description"]) == (-10, "Never", "last")
    kube("delete", "priorityclass", "made-low")


def test_a_service_is_created_with_its_ports(kube: Kubectl, namespace: str) -> None:
    service = created(kube, "service", "clusterip", "web", "--tcp=80:8080")
    assert service["spec"]["selector"] == {"app": "web"}
    [port] = service["spec"]["ports"]
    assert (port["port"], port["targetPort"], port["protocol"]) == (80, 8080, "TCP")


def test_a_deployment_is_created_and_rolls_out(kube: Kubectl, namespace: str) -> None:
    options = ("--image=example.org/a:1", "--replicas=2", "--port=8080")
    deployment = created(kube, "deployment", "web", *options)
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "example.org/a:1"
    assert container["ports"] == [{"containerPort": 8080}]
    kube("rollout", "status", "deployment/web", "-n", "made", "--timeout=10s")


def test_a_job_is_created_with_its_command(kube: Kubectl, namespace: str) -> None:
    job = json.loads(
        kube("create", "job", "j", "--image=example.org/a:1", "-n", "made", "-o", "json", "--", "echo", "")
    )
    spec = job["spec"]["template"]["spec"]
    assert spec["restartPolicy"] == "Never"
    assert spec["containers"][0]["command"] == ["echo", ""]
