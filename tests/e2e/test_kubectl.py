"""The kubectl that operators use, against the development cluster run as they would run it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.kubectl import NoKubectlError, carried, version_of
from tests.e2e.kubectl import SLICE, Kubectl
from tests.fakes.devcluster import simple_pod


@pytest.fixture
def web(kube: Kubectl) -> Iterator[str]:
    """A deployment of two pods with a slice each, running."""
    template = {"metadata": {"labels": {"app": "web"}}, "spec": simple_pod("p", resources={SLICE: 1})["spec"]}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template},
    }
    kube("apply", "-f", "-", given=json.dumps(deployment))
    kube("wait", "deployment/web", "--for=jsonpath={.status.readyReplicas}=2", "--timeout=10s")
    yield "web"
    kube("delete", "deployment", "web")
    kube("wait", "pod", "-l", "app=web", "--for=delete", "--timeout=10s")
    kube("uncordon", "gpu-1", "gpu-2")


def test_nodes_are_listed_and_described(kube: Kubectl) -> None:
    lines = kube("get", "nodes", "-o", "wide").splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["gpu-1", "Ready"], ["gpu-2", "Ready"]]
    described = kube("describe", "node", "gpu-1")
    assert f"{SLICE}:" in described
    assert "Boot ID:" in described
    assert "HolderIdentity:  gpu-1" in described


def test_pods_are_listed_with_their_nodes(kube: Kubectl, web: str) -> None:
    rows = [line.split() for line in kube("get", "pods", "-A", "-o", "wide").splitlines()]
    shown = [row for row in rows if row[1].startswith(web)]
    assert len(shown) == 2
    assert all(row[2:4] == ["1/1", "Running"] and row[7] in ("gpu-1", "gpu-2") for row in shown)
    assert "Successfully assigned" in kube("get", "events")


def test_labels_and_annotations_are_written_and_removed(kube: Kubectl) -> None:
    kube("label", "node", "gpu-1", "nvidia.com/mig.config=2x3g.40gb")
    kube("annotate", "node", "gpu-1", "warmslice.dev/dry-run=true")
    assert kube.run("label", "node", "gpu-1", "nvidia.com/mig.config=other").returncode != 0
    node = json.loads(kube("get", "node", "gpu-1", "-o", "json"))
    assert node["metadata"]["labels"]["nvidia.com/mig.config"] == "2x3g.40gb"
    assert kube("get", "nodes", "-l", "nvidia.com/mig.config", "-o", "name") == "node/gpu-1\n"
    kube("label", "node", "gpu-1", "nvidia.com/mig.config-")
    kube("annotate", "node", "gpu-1", "warmslice.dev/dry-run-")
    assert kube("get", "nodes", "-l", "nvidia.com/mig.config", "-o", "name") == ""


def test_a_cordoned_node_shows_it_and_has_the_taint(kube: Kubectl) -> None:
    kube("cordon", "gpu-1")
    assert "Ready,SchedulingDisabled" in kube("get", "node", "gpu-1")
    assert "node.kubernetes.io/unschedulable:NoSchedule" in kube("describe", "node", "gpu-1")
    kube("uncordon", "gpu-1")
    assert "SchedulingDisabled" not in kube("get", "node", "gpu-1")
    assert "node.kubernetes.io/unschedulable" not in kube("describe", "node", "gpu-1")


def test_drain_moves_pods_and_leaves_daemons(kube: Kubectl, web: str) -> None:
    kube("label", "node", "gpu-1", "nvidia.com/gpu.deploy.device-plugin=true")
    daemons = ("get", "pods", "-n", "gpu-operator", "-o", "name")
    kube("wait", "pod", "-n", "gpu-operator", "--all", "--for=condition=Ready", "--timeout=10s")
    before = kube(*daemons)
    printed = kube("drain", "gpu-1", "--ignore-daemonsets", "--timeout=15s")
    assert f"pod/{web}-" in printed
    assert "node/gpu-1 drained" in printed
    assert kube(*daemons) == before != ""
    kube("wait", f"deployment/{web}", "--for=jsonpath={.status.readyReplicas}=2", "--timeout=10s")
    nodes = kube("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.nodeName}")
    assert nodes == "gpu-2 gpu-2"
    kube("label", "node", "gpu-1", "nvidia.com/gpu.deploy.device-plugin-")


def test_drain_waits_for_a_disruption_budget(kube: Kubectl, web: str) -> None:
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": web},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}},
    }
    kube("create", "-f", "-", given=json.dumps(budget))
    kube("wait", f"pdb/{web}", "--for=jsonpath={.status.currentHealthy}=2", "--timeout=10s")
    with kube.started("drain", "gpu-1", "gpu-2", "--ignore-daemonsets", "--timeout=10s") as drain:
        assert drain.stderr is not None
        assert any("would violate the pod's disruption budget" in line for line in drain.stderr)
        drain.kill()
    kube("delete", "pdb", web)
    assert len(kube("get", "pods", "-l", "app=web", "-o", "name").split()) == 2


def test_a_namespace_takes_its_content_with_it(kube: Kubectl) -> None:
    kube("create", "namespace", "short-lived")
    kube("create", "configmap", "c", "-n", "short-lived", "--from-literal=a=b")
    kube("apply", "-n", "short-lived", "-f", "-", given=json.dumps(simple_pod("p")))
    kube("wait", "pod/p", "-n", "short-lived", "--for=condition=Ready", "--timeout=10s")
    assert kube("get", "configmap", "c", "-n", "short-lived", "-o", "jsonpath={.data.a}") == "b"
    kube("delete", "pod", "p", "-n", "short-lived")
    kube("delete", "namespace", "short-lived", "--timeout=10s")
    assert kube.run("get", "namespace", "short-lived").returncode != 0


def test_taints_are_set_and_removed(kube: Kubectl) -> None:
    kube("taint", "node", "gpu-2", "example.org/a=b:NoSchedule")
    assert "example.org/a=b:NoSchedule" in kube("describe", "node", "gpu-2")
    kube("taint", "node", "gpu-2", "example.org/a-")
    assert "example.org/a" not in kube("get", "node", "gpu-2", "-o", "jsonpath={.spec.taints}")


def test_apply_on_the_clients_side_changes_only_what_it_said(kube: Kubectl) -> None:
    first = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"x": "1", "y": "1"}}
    assert kube("apply", "-f", "-", given=json.dumps(first)) == "configmap/c created\n"
    kube("patch", "configmap", "c", "-p", '{"data": {"z": "1"}}')
    assert kube("apply", "-f", "-", given=json.dumps(first | {"data": {"x": "2"}})) == "configmap/c configured\n"
    assert json.loads(kube("get", "configmap", "c", "-o", "jsonpath={.data}")) == {"x": "2", "z": "1"}
    kube("delete", "configmap", "c")


def test_apply_on_the_servers_side_has_owners(kube: Kubectl) -> None:
    apply = ("apply", "--server-side", "-f", "-")
    first = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}, "data": {"x": "1", "y": "1"}}
    assert kube(*apply, given=json.dumps(first)) == "configmap/s serverside-applied\n"
    second = json.dumps(first | {"data": {"x": "2"}})
    refused = kube.run(*apply, "--field-manager=other", given=second)
    assert refused.returncode != 0
    assert 'conflict with "kubectl" using v1: .data.x' in refused.stderr
    kube(*apply, given=second)
    assert json.loads(kube("get", "configmap", "s", "-o", "jsonpath={.data}")) == {"x": "2"}
    kube("apply", "--server-side", "--force-conflicts", "--field-manager=other", "-f", "-", given=json.dumps(first))
    shown = json.loads(kube("get", "configmap", "s", "-o", "json", "--show-managed-fields"))
    owners = {e["manager"] for e in shown["metadata"]["managedFields"] if "f:x" in e["fieldsV1"].get("f:data", {})}
    assert owners == {"other"}
    kube("delete", "configmap", "s")


def test_explain_shows_fields_with_their_types(kube: Kubectl) -> None:
    shown = kube("explain", "node.spec.taints")
    assert "KIND:       Node" in shown
    assert "effect\t<string> -required-" in shown


def test_auth_says_who_and_what(kube: Kubectl) -> None:
    assert kube("auth", "can-i", "delete", "nodes").strip() == "yes"
    assert "kubernetes-admin" in kube("auth", "whoami")
    assert kube("auth", "can-i", "--list").splitlines()[0].split()[0] == "Resources"
    token = kube("create", "token", "default").strip()
    assert token.count(".") == 2
    assert "system:serviceaccount:default:default" in kube(
        "auth", "whoami", "--as=system:serviceaccount:default:default"
    )


def test_whoever_is_not_known_is_not_let_in(kube: Kubectl) -> None:
    refused = kube.run("get", "nodes", "--token=unknown")
    assert (refused.returncode, refused.stderr) == (1, "error: You must be logged in to the server (Unauthorized)\n")


def test_a_token_from_kubectl_is_its_accounts_and_may_what_roles_say(kube: Kubectl) -> None:
    token = f"--token={kube('create', 'token', 'default').strip()}"
    assert "system:serviceaccount:default:default" in kube("auth", "whoami", token)
    assert 'cannot list resource "nodes"' in kube.run("get", "nodes", token).stderr
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "looks"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": "default"}],
    }
    kube("create", "-f", "-", given=json.dumps(binding))
    assert "gpu-1" in kube("get", "nodes", token)
    kube("delete", "clusterrolebinding", "looks")


def test_without_an_installed_kubectl_the_packaged_one_serves(tmp_path: Path) -> None:
    try:
        program = carried("kubectl", tmp_path)
    except NoKubectlError as error:
        pytest.skip(str(error))
    assert version_of(program) == (1, 34)
