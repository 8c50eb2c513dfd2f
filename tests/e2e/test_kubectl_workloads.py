"""What operators ask kubectl about workloads: are they there, how far is the rollout, take it back."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from hack.devcluster.objects import Object, is_deleting
from tests.e2e.kubectl import Kubectl
from tests.fakes.devcluster import simple_pod


def workload(kind: str, **spec: object) -> str:
    template = {"metadata": {"labels": {"app": "site"}}, "spec": simple_pod("p")["spec"]}
    body: Object = {"selector": {"matchLabels": {"app": "site"}}, "template": template, **spec}
    return json.dumps({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "site"}, "spec": body})


def images(kube: Kubectl) -> set[str]:
    """Of the pods that stay: a rollout is over before the last of the old ones has ended."""
    pods = json.loads(kube("get", "pods", "-l", "app=site", "-o", "json"))["items"]
    return {str(pod["spec"]["containers"][0]["image"]) for pod in pods if not is_deleting(pod)}


@pytest.fixture
def site(kube: Kubectl) -> Iterator[str]:
    """A deployment of two pods, rolled out."""
    kube("apply", "-f", "-", given=workload("Deployment", replicas=2))
    kube("rollout", "status", "deployment/site", "--timeout=10s")
    yield "deployment/site"
    kube("delete", "deployment", "site")
    kube("wait", "pod", "-l", "app=site", "--for=delete", "--timeout=10s")


def test_one_can_wait_for_a_deployment(kube: Kubectl, site: str) -> None:
    assert kube("wait", "--for=condition=Available", site, "--timeout=10s") == "deployment.apps/site condition met\n"
    assert kube("get", "deployment", "site").splitlines()[1].split()[:4] == ["site", "2/2", "2", "2"]


def test_a_rollout_is_followed_listed_and_undone(kube: Kubectl, site: str) -> None:
    kube("set", "image", site, "main=example.org/main:2")
    followed = kube("rollout", "status", site, "--timeout=10s").splitlines()
    assert followed[-1] == 'deployment "site" successfully rolled out'
    revisions = [line.split()[0] for line in kube("rollout", "history", site).splitlines()[2:] if line]
    assert revisions == ["1", "2"]
    assert "example.org/main:2" in kube("rollout", "history", site, "--revision=2")
    kube("rollout", "undo", site)
    kube("rollout", "status", site, "--timeout=10s")
    assert images(kube) == {"example.org/main:1"}


def test_a_restart_makes_every_pod_anew(kube: Kubectl, site: str) -> None:
    names = ("get", "pods", "-l", "app=site", "-o", "name")
    before = set(kube(*names).split())
    kube("rollout", "restart", site)
    kube("rollout", "status", site, "--timeout=10s")
    kube("wait", *before, "--for=delete", "--timeout=10s")
    assert not before & set(kube(*names).split())


def test_a_pause_holds_a_rollout_and_not_a_resize(kube: Kubectl, site: str) -> None:
    kube("rollout", "pause", site)
    kube("set", "image", site, "main=example.org/main:3")
    kube("patch", site, "-p", '{"spec": {"replicas": 3}}')
    kube("wait", site, "--for=jsonpath={.status.readyReplicas}=3", "--timeout=10s")
    assert images(kube) == {"example.org/main:1"}
    kube("rollout", "resume", site)
    kube("rollout", "status", site, "--timeout=10s")
    assert images(kube) == {"example.org/main:3"}


@pytest.mark.parametrize("kind", ["DaemonSet", "StatefulSet"])
def test_other_rollouts_are_followed_too(kube: Kubectl, kind: str) -> None:
    kube("apply", "-f", "-", given=workload(kind))
    what = f"{kind.lower()}/site"
    kube("rollout", "status", what, "--timeout=10s")
    kube("set", "image", what, "main=example.org/main:2")
    kube("rollout", "status", what, "--timeout=10s")
    assert images(kube) == {"example.org/main:2"}
    kube("delete", what)
    kube("wait", "pod", "-l", "app=site", "--for=delete", "--timeout=10s")
