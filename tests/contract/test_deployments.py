"""Deployments, as those who wait for them see them: conditions, rollouts, sizes, pauses and what is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from hack.devcluster import kinds
from hack.devcluster.controllers.generations import REVISION
from hack.devcluster.controllers.timings import Timings
from hack.devcluster.objects import (
    Object,
    annotations_of,
    conditions_of,
    dig,
    is_deleting,
    is_finished,
    is_ready,
    labels_of,
    name_of,
)
from tests.fakes.devcluster import DevCluster, dev_cluster, simple_pod

OLD, NEW, BROKEN = "example.org/main:1", "example.org/main:2", "example.org/absent:1"
QUICK = Timings(first_retry_s=0.1, longest_retry_s=0.4)


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[DevCluster]:
    async with dev_cluster(tmp_path, timings=QUICK) as running:
        yield running


def deployment(replicas: int, **spec: Any) -> Object:
    template = {"metadata": {"labels": {"app": "web"}}, "spec": simple_pod("ignored")["spec"]}
    selector = {"matchLabels": {"app": "web"}}
    return {
        "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": selector, "template": template, **spec},
    }


def rolling(surge: int | str, unavailable: int | str) -> Object:
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}


def condition(obj: Object, kind: str) -> Object:
    return next((c for c in conditions_of(obj) if c["type"] == kind), {})


def is_rolled_out(obj: Object) -> bool:
    """As ``kubectl rollout status`` asks."""
    wanted, status = dig(obj, "spec.replicas"), obj.get("status") or {}
    return (
        status.get("observedGeneration") == dig(obj, "metadata.generation")
        and status.get("updatedReplicas", 0) == status.get("replicas", 0) == wanted
        and status.get("availableReplicas", 0) == wanted
        and condition(obj, "Progressing").get("reason") == "NewReplicaSetAvailable"
    )


async def rolled_out(cluster: DevCluster) -> Object:
    return await cluster.wait_for(kinds.DEPLOYMENTS, "web", is_rolled_out)


def set_image(cluster: DevCluster, image: str) -> None:
    containers = [{**dig(cluster.get(kinds.DEPLOYMENTS, "web"), "spec.template.spec.containers")[0], "image": image}]
    cluster.merge(kinds.DEPLOYMENTS, "web", {"spec": {"template": {"spec": {"containers": containers}}}})


def resize(cluster: DevCluster, replicas: int) -> None:
    cluster.merge(kinds.DEPLOYMENTS, "web", {"spec": {"replicas": replicas}})


def pods(cluster: DevCluster) -> list[Object]:
    found = [pod for pod in cluster.api.all(kinds.PODS) if labels_of(pod).get("app") == "web"]
    return [pod for pod in found if not is_deleting(pod) and not is_finished(pod)]


def images(cluster: DevCluster) -> set[str]:
    return {str(pod["spec"]["containers"][0]["image"]) for pod in pods(cluster)}


def sizes(cluster: DevCluster) -> list[int]:
    """Of the ReplicaSets, by revision."""
    ordered = sorted(cluster.api.all(kinds.REPLICASETS), key=lambda rs: int(annotations_of(rs)[REVISION]))
    return [int(dig(rs, "spec.replicas")) for rs in ordered]


async def test_a_deployment_is_available_once_enough_of_its_pods_are(cluster: DevCluster) -> None:
    cluster.create(kinds.DEPLOYMENTS, deployment(2))
    waiting = await cluster.wait_for(kinds.DEPLOYMENTS, "web", lambda d: bool(condition(d, "Available")))
    available = condition(waiting, "Available")
    assert (available["status"], available["reason"]) == ("False", "MinimumReplicasUnavailable")
    progressing = condition(waiting, "Progressing")
    assert (progressing["status"], progressing["reason"]) == ("True", "NewReplicaSetCreated")
    cluster.add_kubelet("n", {})
    done = await rolled_out(cluster)
    available = condition(done, "Available")
    assert (available["status"], available["reason"]) == ("True", "MinimumReplicasAvailable")
    assert dig(done, "status.unavailableReplicas") is None


async def test_what_a_deployment_leaves_out_is_filled_in(cluster: DevCluster) -> None:
    spec = cluster.create(kinds.DEPLOYMENTS, deployment(1))["spec"]
    assert spec["strategy"] == rolling("25%", "25%")
    assert (spec["progressDeadlineSeconds"], spec["revisionHistoryLimit"]) == (600, 10)


async def test_a_rollout_goes_no_further_above_and_below_than_allowed(cluster: DevCluster) -> None:
    cluster.add_kubelet("n", {})
    cluster.create(kinds.DEPLOYMENTS, deployment(4, strategy=rolling(1, 1)))
    await rolled_out(cluster)
    set_image(cluster, NEW)
    fewest, most = 4, 4
    while not is_rolled_out(cluster.get(kinds.DEPLOYMENTS, "web")):
        fewest, most = min(fewest, sum(map(is_ready, pods(cluster)))), max(most, len(pods(cluster)))
        await asyncio.sleep(0.002)
    assert (fewest, most) == (3, 5)
    assert images(cluster) == {NEW}
    assert sizes(cluster) == [0, 4]


async def test_without_room_below_no_pod_goes_before_its_successor_is_there(cluster: DevCluster) -> None:
    cluster.add_kubelet("n", {})
    cluster.create(kinds.DEPLOYMENTS, deployment(2, strategy=rolling(1, 0)))
    await rolled_out(cluster)
    set_image(cluster, NEW)
    fewest = 2
    while not is_rolled_out(cluster.get(kinds.DEPLOYMENTS, "web")):
        fewest = min(fewest, sum(map(is_ready, pods(cluster))))
        await asyncio.sleep(0.002)
    assert fewest == 2


async def test_a_rollout_that_gets_no_further_keeps_the_old_pods_and_says_so(cluster: DevCluster) -> None:
    kubelet = cluster.add_kubelet("n", {})
    cluster.create(kinds.DEPLOYMENTS, deployment(4, strategy=rolling(1, 1), progressDeadlineSeconds=1))
    await rolled_out(cluster)
    await kubelet.stop()
    set_image(cluster, NEW)
    stuck = await cluster.wait_for(
        kinds.DEPLOYMENTS, "web", lambda d: condition(d, "Progressing").get("status") == "False"
    )
    assert condition(stuck, "Progressing")["reason"] == "ProgressDeadlineExceeded"
    assert condition(stuck, "Available")["status"] == "True"
    assert sum(map(is_ready, pods(cluster))) == 3
    kubelet.start()
    await rolled_out(cluster)


async def test_recreate_starts_nothing_before_everything_old_has_ended(cluster: DevCluster) -> None:
    cluster.add_kubelet("n", {})
    cluster.create(kinds.DEPLOYMENTS, deployment(2, strategy={"type": "Recreate"}))
    await rolled_out(cluster)
    set_image(cluster, NEW)
    together: set[str] = set()
    while not is_rolled_out(cluster.get(kinds.DEPLOYMENTS, "web")):
        all_pods = [pod for pod in cluster.api.all(kinds.PODS) if not is_finished(pod)]
        seen = {pod["spec"]["containers"][0]["image"] for pod in all_pods}
        together |= seen if len(seen) > 1 else set()
        await asyncio.sleep(0.002)
    assert together == set()
    assert images(cluster) == {NEW}


async def test_a_deployment_grows_and_shrinks(cluster: DevCluster) -> None:
    cluster.add_kubelet("n", {})
    cluster.create(kinds.DEPLOYMENTS, deployment(1))
    await rolled_out(cluster)
    for replicas in (4, 2, 0):
        resize(cluster, replicas)
        await rolled_out(cluster)
        assert len(pods(cluster)) == replicas
    assert sizes(cluster) == [0]


async def test_in_the_midst_of_a_rollout_each_generation_grows_in_proportion(cluster: DevCluster) -> None:
    """The example of the documentation: 10 pods, 3 above, 2 below, a template that never comes up, then 15."""
    cluster.add_kubelet("n", {})
    cluster.create(kinds.DEPLOYMENTS, deployment(10, strategy=rolling(3, 2)))
    await rolled_out(cluster)
    cluster.merge(kinds.NODES, "n", {"spec": {"unschedulable": True}})
    set_image(cluster, NEW)
    while sizes(cluster) != [8, 5]:
        await asyncio.sleep(0.01)
    resize(cluster, 15)
    while sizes(cluster) != [11, 7]:
        await asyncio.sleep(0.01)


async def test_a_paused_deployment_is_resized_but_not_rolled_out(cluster: DevCluster) -> None:
    cluster.add_kubelet("n", {})
    cluster.create(kinds.DEPLOYMENTS, deployment(1))
    await rolled_out(cluster)
    cluster.merge(kinds.DEPLOYMENTS, "web", {"spec": {"paused": True}})
    set_image(cluster, NEW)
    resize(cluster, 2)
    paused = await cluster.wait_for(kinds.DEPLOYMENTS, "web", lambda d: dig(d, "status.readyReplicas") == 2)
    progressing = condition(paused, "Progressing")
    assert (progressing["status"], progressing["reason"]) == ("Unknown", "DeploymentPaused")
    assert images(cluster) == {OLD}
    cluster.merge(kinds.DEPLOYMENTS, "web", {"spec": {"paused": None}})
    await rolled_out(cluster)
    assert images(cluster) == {NEW}


async def test_a_template_that_comes_back_is_a_new_revision_of_its_old_replicaset(cluster: DevCluster) -> None:
    cluster.add_kubelet("n", {})
    cluster.create(kinds.DEPLOYMENTS, deployment(1))
    first = annotations_of(await rolled_out(cluster))[REVISION]
    [replicaset] = map(name_of, cluster.api.all(kinds.REPLICASETS))
    set_image(cluster, NEW)
    second = annotations_of(await rolled_out(cluster))[REVISION]
    set_image(cluster, OLD)
    third = annotations_of(await rolled_out(cluster))[REVISION]
    assert (first, second, third) == ("1", "2", "3")
    again = cluster.get(kinds.REPLICASETS, replicaset)
    assert (dig(again, "spec.replicas"), annotations_of(again)[REVISION]) == (1, "3")


async def test_only_so_many_old_replicasets_are_kept(cluster: DevCluster) -> None:
    cluster.add_kubelet("n", {})
    cluster.create(kinds.DEPLOYMENTS, deployment(1, revisionHistoryLimit=1))
    for version in range(2, 5):
        await rolled_out(cluster)
        set_image(cluster, f"example.org/main:{version}")
    await rolled_out(cluster)
    while (kept := {annotations_of(rs)[REVISION] for rs in cluster.api.all(kinds.REPLICASETS)}) != {"3", "4"}:
        assert kept > {"3", "4"}
        await asyncio.sleep(0.01)


async def test_a_pod_counts_as_available_only_after_it_was_ready_long_enough(cluster: DevCluster) -> None:
    cluster.add_kubelet("n", {})
    cluster.create(kinds.DEPLOYMENTS, deployment(1, minReadySeconds=2))
    ready = await cluster.wait_for(kinds.DEPLOYMENTS, "web", lambda d: dig(d, "status.readyReplicas") == 1)
    assert condition(ready, "Available")["status"] == "False"
    await rolled_out(cluster)


async def test_what_a_quota_refuses_is_a_replica_failure_and_stops_nobody_else(cluster: DevCluster) -> None:
    cluster.add_kubelet("n", {})
    cluster.create(kinds.NAMESPACES, {"metadata": {"name": "full"}})
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    cluster.create(kinds.QUOTAS, quota, namespace="full")
    cluster.create(kinds.DEPLOYMENTS, deployment(1) | {"metadata": {"name": "a", "namespace": "full"}})
    cluster.create(kinds.DEPLOYMENTS, deployment(1))
    refused = await cluster.wait_for(kinds.DEPLOYMENTS, "a", lambda d: bool(condition(d, "ReplicaFailure")), "full")
    failure = condition(refused, "ReplicaFailure")
    assert failure["reason"] == "FailedCreate"
    assert "exceeded quota: none" in failure["message"]
    await rolled_out(cluster)
