"""What the control plane does by itself: workloads and their pods, silent nodes, pods of nodes that are gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from hack.devcluster import kinds
from hack.devcluster.controllers.timings import Timings
from hack.devcluster.kinds import Kind
from hack.devcluster.kubelet.pod_worker import EXIT_CODE, RUN_SECONDS
from hack.devcluster.objects import Object, conditions_of, dig, is_deleting, labels_of, name_of, phase_of, uid_of
from tests.fakes.devcluster import DevCluster, bare_node, dev_cluster, is_running, simple_pod

QUICK = Timings(
    pod_gc_quarantine_s=0.2, first_retry_s=0.1, longest_retry_s=0.4, job_first_retry_s=0.02, job_longest_retry_s=0.1
)
LARGE = "nvidia.com/mig-3g.40gb"


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[DevCluster]:
    async with dev_cluster(tmp_path, timings=QUICK) as running:
        yield running


def workload(
    name: str, image: str = "example.org/main:1", annotations: dict[str, str] | None = None, **spec: Any
) -> Object:
    pod = simple_pod("ignored", annotations=annotations)
    pod["spec"]["containers"][0]["image"] = image
    if RUN_SECONDS in (annotations or {}):
        pod["spec"]["restartPolicy"] = "Never"
    metadata = {"labels": {"app": name}, "annotations": annotations or {}}
    template = {"metadata": metadata, "spec": pod["spec"]}
    return {
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template, **spec},
    }


def pods_of(cluster: DevCluster, app: str) -> list[Object]:
    return [pod for pod in cluster.api.all(kinds.PODS) if labels_of(pod).get("app") == app]


def has_condition(kind: str, status: str = "True") -> Any:
    return lambda obj: any(c["type"] == kind and c["status"] == status for c in conditions_of(obj))


def set_image(cluster: DevCluster, kind: Kind, name: str, image: str) -> None:
    current = cluster.get(kind, name)
    containers = [{**dig(current, "spec.template.spec.containers")[0], "image": image}]
    cluster.merge(kind, name, {"spec": {"template": {"spec": {"containers": containers}}}})


def image_of(pod: Object) -> str:
    return str(pod["spec"]["containers"][0]["image"])


async def test_a_job_is_complete_after_so_many_successes(cluster: DevCluster) -> None:
    cluster.add_kubelet("n", {})
    cluster.create(kinds.JOBS, workload("j", annotations={RUN_SECONDS: "0.01"}, completions=3, parallelism=2))
    job = await cluster.wait_for(kinds.JOBS, "j", has_condition("Complete"))
    assert job["status"]["succeeded"] == 3
    assert job["status"]["completionTime"]
    assert len(pods_of(cluster, "j")) == 3


async def test_a_job_runs_no_more_at_once_than_its_parallelism(cluster: DevCluster) -> None:
    cluster.create(kinds.JOBS, workload("j", completions=5, parallelism=2))
    await cluster.wait_for(kinds.JOBS, "j", lambda job: dig(job, "status.active") == 2)
    assert len(pods_of(cluster, "j")) == 2


async def test_a_job_fails_beyond_its_backoff_limit(cluster: DevCluster) -> None:
    cluster.add_kubelet("n", {})
    failing = {RUN_SECONDS: "0.01", EXIT_CODE: "1"}
    cluster.create(kinds.JOBS, workload("j", annotations=failing, backoffLimit=1))
    job = await cluster.wait_for(kinds.JOBS, "j", has_condition("Failed"))
    [condition] = [c for c in conditions_of(job) if c["type"] == "Failed"]
    assert condition["reason"] == "BackoffLimitExceeded"
    assert job["status"]["failed"] == 2


async def test_a_finished_job_goes_after_its_ttl_with_its_pods(cluster: DevCluster) -> None:
    cluster.add_kubelet("n", {})
    once = {RUN_SECONDS: "0.01"}
    cluster.create(kinds.JOBS, workload("stays", annotations=once))
    cluster.create(kinds.JOBS, workload("goes", annotations=once, ttlSecondsAfterFinished=0))
    await cluster.wait_until_gone(kinds.JOBS, "goes")
    await cluster.wait_for(kinds.JOBS, "stays", has_condition("Complete"))
    while pods_of(cluster, "goes"):
        await asyncio.sleep(0.02)
    assert len(pods_of(cluster, "stays")) == 1


async def test_a_statefulset_makes_its_pods_in_order_and_under_lasting_names(cluster: DevCluster) -> None:
    cluster.create(kinds.STATEFULSETS, workload("db", replicas=3))
    await cluster.wait_for(kinds.PODS, "db-0", lambda _: True)
    await asyncio.sleep(0.05)
    assert [name_of(pod) for pod in pods_of(cluster, "db")] == ["db-0"]
    cluster.add_kubelet("n", {})
    await cluster.wait_for(kinds.STATEFULSETS, "db", lambda s: dig(s, "status.readyReplicas") == 3)
    before = cluster.get(kinds.PODS, "db-1")
    cluster.delete(kinds.PODS, "db-1")
    await cluster.wait_for(kinds.PODS, "db-1", lambda pod: uid_of(pod) != uid_of(before) and is_running(pod))
    cluster.merge(kinds.STATEFULSETS, "db", {"spec": {"replicas": 1}})
    await cluster.wait_until_gone(kinds.PODS, "db-1")
    assert cluster.find(kinds.PODS, "db-2") is None


async def test_a_daemonset_rolls_out_one_pod_at_a_time(cluster: DevCluster) -> None:
    for node in ("n1", "n2", "n3"):
        cluster.add_kubelet(node, {})
    cluster.create(kinds.DAEMONSETS, workload("d"))
    await cluster.wait_for(kinds.DAEMONSETS, "d", lambda d: dig(d, "status.numberReady") == 3)
    fewest = 3
    set_image(cluster, kinds.DAEMONSETS, "d", "example.org/main:2")
    while {image_of(pod) for pod in pods_of(cluster, "d")} != {"example.org/main:2"}:
        fewest = min(fewest, sum(is_running(pod) and not is_deleting(pod) for pod in pods_of(cluster, "d")))
        await asyncio.sleep(0.002)
    assert fewest == 2
    daemonset = await cluster.wait_for(kinds.DAEMONSETS, "d", lambda d: dig(d, "status.numberReady") == 3)
    assert daemonset["status"]["updatedNumberScheduled"] == 3


async def test_on_delete_leaves_old_daemons_alone(cluster: DevCluster) -> None:
    cluster.add_kubelet("n1", {})
    cluster.create(kinds.DAEMONSETS, workload("d", updateStrategy={"type": "OnDelete"}))
    await cluster.wait_for(kinds.DAEMONSETS, "d", lambda d: dig(d, "status.numberReady") == 1)
    set_image(cluster, kinds.DAEMONSETS, "d", "example.org/main:2")
    daemonset = await cluster.wait_for(kinds.DAEMONSETS, "d", lambda d: dig(d, "status.observedGeneration") == 2)
    assert daemonset["status"]["updatedNumberScheduled"] == 0
    assert [image_of(pod) for pod in pods_of(cluster, "d")] == ["example.org/main:1"]


async def test_pods_that_are_rejected_are_replaced_ever_more_slowly(cluster: DevCluster) -> None:
    """And the rejected ones stay, until somebody deletes them."""
    cluster.add_kubelet("n1", {})
    await cluster.wait_for(kinds.NODES, "n1", lambda _: True)
    rejected = workload("web", replicas=1)
    rejected["spec"]["template"]["spec"] |= {"nodeName": "n1"}
    rejected["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {LARGE: "1"}}
    cluster.create(kinds.REPLICASETS, rejected)
    await cluster.wait_for_any(kinds.PODS, lambda pod: phase_of(pod) == "Failed")
    await asyncio.sleep(0.8)
    failed = [pod for pod in pods_of(cluster, "web") if phase_of(pod) == "Failed"]
    assert 2 <= len(failed) <= 5
    assert {dig(pod, "status.reason") for pod in failed} == {f"OutOf{LARGE}"}


@pytest_asyncio.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[DevCluster]:
    """Calls a node silent after a second."""
    async with dev_cluster(tmp_path, timings=Timings(node_grace_s=1.0)) as running:
        yield running


async def test_a_node_that_falls_silent_is_unknown_and_tainted_until_it_speaks(impatient: DevCluster) -> None:
    cluster = impatient
    kubelet = cluster.add_kubelet("n", {}, lease_interval_s=0.1)
    cluster.create(kinds.PODS, simple_pod("p"))
    await cluster.wait_for(kinds.PODS, "p", is_running)
    await kubelet.stop()
    node = await cluster.wait_for(kinds.NODES, "n", has_condition("Ready", "Unknown"))
    [ready] = [c for c in conditions_of(node) if c["type"] == "Ready"]
    assert (ready["reason"], ready["message"]) == ("NodeStatusUnknown", "Kubelet stopped posting node status.")
    node = await cluster.wait_for(kinds.NODES, "n", lambda n: len(dig(n, "spec.taints") or []) == 2)
    assert {(t["key"], t["effect"]) for t in node["spec"]["taints"]} == {
        ("node.kubernetes.io/unreachable", "NoSchedule"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
    }
    await cluster.wait_for(kinds.PODS, "p", has_condition("Ready", "False"))
    await kubelet.restart()
    await cluster.wait_for(kinds.NODES, "n", lambda n: has_condition("Ready")(n) and not dig(n, "spec.taints"))


async def test_a_pod_leaves_a_node_that_it_does_not_tolerate(cluster: DevCluster) -> None:
    """``NoExecute`` asks no budget; who tolerates it without limit stays."""
    cluster.add_kubelet("n", {})
    cluster.create(kinds.PODS, simple_pod("leaves"))
    tolerant = simple_pod("stays")
    tolerant["spec"]["tolerations"] = [{"key": "broken", "operator": "Exists", "effect": "NoExecute"}]
    cluster.create(kinds.PODS, tolerant)
    for name in ("leaves", "stays"):
        await cluster.wait_for(kinds.PODS, name, is_running)
    cluster.merge(kinds.NODES, "n", {"spec": {"taints": [{"key": "broken", "effect": "NoExecute"}]}})
    await cluster.wait_until_gone(kinds.PODS, "leaves")
    assert not is_deleting(cluster.get(kinds.PODS, "stays"))


async def test_pods_of_a_node_that_is_gone_are_collected(cluster: DevCluster) -> None:
    cluster.create(kinds.NODES, bare_node("short-lived"))
    cluster.create(kinds.PODS, simple_pod("p", node="short-lived"))
    await asyncio.sleep(0.3)
    assert not is_deleting(cluster.get(kinds.PODS, "p"))
    cluster.delete(kinds.NODES, "short-lived")
    await cluster.wait_until_gone(kinds.PODS, "p")


async def test_a_budget_counts_what_a_statefulset_wants(cluster: DevCluster) -> None:
    cluster.add_kubelet("n", {})
    cluster.create(kinds.STATEFULSETS, workload("db", replicas=2))
    budget = {"metadata": {"name": "db"}, "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "db"}}}}
    cluster.create(kinds.BUDGETS, budget)
    found = await cluster.wait_for(kinds.BUDGETS, "db", lambda b: dig(b, "status.disruptionsAllowed") == 1)
    assert (found["status"]["expectedPods"], found["status"]["desiredHealthy"]) == (2, 1)
