"""Containers that end: by themselves, again and again, or because they were told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from hack.devcluster import kinds
from hack.devcluster.controllers.timings import Timings
from hack.devcluster.kubelet.pod_worker import STOP_SECONDS
from hack.devcluster.objects import Object, dig, is_ready, labels_of, phase_of, uid_of
from tests.contract.test_controllers import workload
from tests.contract.test_kubelet import held
from tests.contract.test_kubelet_behaviour import one_run, waits_for
from tests.fakes.devcluster import DevCluster, dev_cluster, is_running, simple_pod

LARGE = "nvidia.com/mig-3g.40gb"


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[DevCluster]:
    async with dev_cluster(tmp_path, timings=Timings(first_retry_s=0.1, longest_retry_s=0.4)) as running:
        yield running


def container(pod: Object) -> Object:
    return dict((dig(pod, "status.containerStatuses") or [{}])[0])


def has_restarted(times: int) -> Any:
    return lambda pod: container(pod).get("restartCount") == times


async def test_a_container_that_fails_is_made_again_at_once_and_then_ever_later(cluster: DevCluster) -> None:
    cluster.add_kubelet("n", {}, crash_first_s=0.1)
    cluster.create(kinds.PODS, one_run("p", exit_code=3, policy="Always"))
    pod = await cluster.wait_for(kinds.PODS, "p", waits_for("CrashLoopBackOff"))
    assert (phase_of(pod), is_ready(pod)) == ("Running", False)
    assert container(pod)["restartCount"] == 1
    assert dig(container(pod), "lastState.terminated.exitCode") == 3
    assert dig(container(pod), "state.waiting.message").startswith(
        "back-off 0.1s restarting failed container=main pod=p_"
    )
    again = await cluster.wait_for(kinds.PODS, "p", has_restarted(2))
    assert uid_of(again) == uid_of(pod)


async def test_the_wait_between_restarts_doubles_up_to_five_minutes(cluster: DevCluster) -> None:
    """10 s to 300 s, as kubelets do it."""
    settings = cluster.add_kubelet("n", {}).settings
    assert [settings.crash_wait_s(restarts) for restarts in range(8)] == [0, 10, 20, 40, 80, 160, 300, 300]


@pytest.mark.parametrize(
    ("policy", "exit_code", "phase"),
    [("Never", 0, "Succeeded"), ("Never", 3, "Failed"), ("OnFailure", 0, "Succeeded")],
)
async def test_a_pod_whose_policy_lets_it_end_ends(
    cluster: DevCluster, policy: str, exit_code: int, phase: str
) -> None:
    cluster.add_kubelet("n", {})
    cluster.create(kinds.PODS, one_run("p", exit_code=exit_code, policy=policy))
    pod = await cluster.wait_for(kinds.PODS, "p", lambda p: phase_of(p) == phase)
    assert container(pod)["restartCount"] == 0


async def test_a_pod_holds_its_devices_between_restarts(cluster: DevCluster) -> None:
    kubelet = cluster.add_kubelet("n", {LARGE: ["MIG-c"]}, crash_first_s=600.0)
    pod = one_run("p", exit_code=1, policy="Always")
    pod["spec"]["containers"][0]["resources"] = {"limits": {LARGE: "1"}}
    cluster.create(kinds.PODS, pod)
    await cluster.wait_for(kinds.PODS, "p", waits_for("CrashLoopBackOff"))
    assert (await held(kubelet))["p"] == [(LARGE, "MIG-c")]
    cluster.delete(kinds.PODS, "p")
    await cluster.wait_until_gone(kinds.PODS, "p")
    assert await held(kubelet) == {}


async def test_what_is_killed_with_its_grace_period_over_ends_with_137(cluster: DevCluster) -> None:
    """A finalizer keeps the pod, so that its end can be read."""
    cluster.add_kubelet("n", {})
    deaf = simple_pod("deaf", annotations={STOP_SECONDS: "grace"}, grace_seconds=1)
    polite = simple_pod("polite", grace_seconds=1)
    for pod in (deaf, polite):
        pod["metadata"]["finalizers"] = ["example.org/reads-it"]
        cluster.create(kinds.PODS, pod)
    ends = {}
    for name in ("deaf", "polite"):
        await cluster.wait_for(kinds.PODS, name, is_running)
        cluster.delete(kinds.PODS, name)
        ended = await cluster.wait_for(kinds.PODS, name, lambda pod: phase_of(pod) != "Running")
        end = dig(container(ended), "state.terminated")
        ends[name] = (phase_of(ended), end["exitCode"], end["reason"])
    assert ends == {"deaf": ("Failed", 137, "Error"), "polite": ("Succeeded", 0, "Completed")}


async def test_a_daemon_that_is_rejected_is_replaced_ever_more_slowly(cluster: DevCluster) -> None:
    """The failed pod is deleted first: a node never has two pods of one DaemonSet."""
    cluster.add_kubelet("n", {})
    await cluster.wait_for(kinds.NODES, "n", lambda _: True)
    rejected = workload("d")
    rejected["spec"]["template"]["spec"] |= {"nodeName": "n"}
    rejected["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {LARGE: "1"}}
    cluster.create(kinds.DAEMONSETS, rejected)
    clock = asyncio.get_running_loop().time
    first_seen: dict[str, float] = {}
    async with asyncio.timeout(30):
        while len(first_seen) < 4:
            pods = [pod for pod in cluster.api.all(kinds.PODS) if labels_of(pod).get("app") == "d"]
            assert len(pods) <= 1
            for pod in pods:
                first_seen.setdefault(uid_of(pod), clock())
            await asyncio.sleep(0.005)
    at = list(first_seen.values())
    waits = [after - before for before, after in pairwise(at)]
    assert waits[0] >= 0.08
    assert waits[2] >= 0.3
