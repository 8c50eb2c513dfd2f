"""The serving stack of the examples on a development cluster: applied by kubectl, scheduled, and run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from agent.model import labels
from hack.devcluster import kinds
from hack.devcluster.objects import Object, conditions_of, dig, name_of, namespace_of
from hack.kubectl import kubectl
from tests.fakes.devcluster import DevCluster, dev_cluster, is_running
from tests.manifests.examples import objects

LLAMA = "models.warmslice.dev/meta-llama--Llama-3.1-8B-Instruct"
SMALL, MIDDLE = "nvidia.com/mig-1g.10gb", "nvidia.com/mig-2g.20gb"
SERVED = {kind.name for kind in kinds.ALL_KINDS}


class Stack:
    """A node whose layout is that of the examples by day, and what runs there."""

    def __init__(self, cluster: DevCluster, folder: Path) -> None:
        self.cluster = cluster
        self._folder = folder

    def add_node(self, name: str, small: int, middle: int, **node_labels: str) -> None:
        devices = {
            SMALL: [f"MIG-{name}-s{n}" for n in range(small)],
            MIDDLE: [f"MIG-{name}-m{n}" for n in range(middle)],
        }
        self.cluster.add_kubelet(name, devices, labels=node_labels)

    async def nodes_advertise(self, *names: str) -> None:
        for name in names:
            await self.cluster.wait_for(
                kinds.NODES, name, lambda node: any(SMALL in key for key in dig(node, "status.allocatable") or {})
            )

    async def apply(self, *parts: str) -> None:
        """Of these folders what an API server without the operators of others has."""
        kept = [one for one in objects(*parts) if one["kind"] in SERVED]
        assert kept
        file = self._folder / "applied.yaml"
        file.write_text(yaml.safe_dump_all(sorted(kept, key=_order)))
        process = await asyncio.create_subprocess_exec(
            str(kubectl()), "apply", "-f", str(file), env={**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig())},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()

    def pods(self, app: str) -> list[Object]:
        return [pod for pod in self.cluster.api.all(kinds.PODS) if dig(pod, "metadata.labels.app") == app]

    def running(self, app: str) -> int:
        return sum(map(is_running, self.pods(app)))

    async def until(self, what: str, holds: object) -> None:
        assert callable(holds)
        try:
            async with asyncio.timeout(15):
                while not holds():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            shown = [(name_of(pod), dig(pod, "status")) for pod in self.cluster.api.all(kinds.PODS)]
            raise AssertionError(f"never came: {what}; {shown}") from None


def _order(one: Object) -> int:
    first = ["Namespace", "PriorityClass", "ResourceQuota"]
    return first.index(one["kind"]) if one["kind"] in first else len(first)


@asynccontextmanager
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with dev_cluster(tmp_path) as cluster:
        yield Stack(cluster, tmp_path)


def why_pending(pod: Object) -> str:
    return " ".join(str(one.get("message")) for one in conditions_of(pod) if one["type"] == "PodScheduled")


async def test_servers_wait_for_the_model_and_then_have_a_slice_each(tmp_path: Path) -> None:
    async with stack(tmp_path) as site:
        site.add_node("gpu-1", small=8, middle=3)
        await site.nodes_advertise("gpu-1")
        await site.apply("serving")
        await site.until(
            "all are unschedulable",
            lambda: (
                all(why_pending(pod) for app in ("vllm", "tgi", "sglang") for pod in site.pods(app))
                and site.pods("vllm")
            ),
        )
        assert "node affinity" in why_pending(site.pods("vllm")[0])

        site.cluster.label_node("gpu-1", {LLAMA: "ready"})
        apps = ("vllm", "tgi", "tensorrt-llm", "sglang")
        await site.until("three of four run, on the three slices", lambda: sum(map(site.running, apps)) == 3)
        (last,) = (pod for app in apps for pod in site.pods(app) if not is_running(pod))
        await site.until(
            "the fourth finds none", lambda: MIDDLE in why_pending(site.pods(dig(last, "metadata.labels.app"))[0])
        )


async def test_a_team_has_no_more_slices_than_its_quota_says(tmp_path: Path) -> None:
    async with stack(tmp_path) as site:
        site.add_node("gpu-1", small=8, middle=3, **{"example.com/team": "team-a"})
        await site.nodes_advertise("gpu-1")
        await site.apply("tenancy")
        await site.until("two run", lambda: site.running("assistant") == 2)
        scale = {"spec": {"replicas": 5}}
        site.cluster.merge(kinds.DEPLOYMENTS, "assistant", scale, namespace="team-a")
        await site.until("four run", lambda: site.running("assistant") == 4)

        def refused() -> bool:
            deployment = site.cluster.get(kinds.DEPLOYMENTS, "assistant", "team-a")
            return any("exceeded quota: slices" in str(one.get("message")) for one in conditions_of(deployment))

        await site.until("the fifth is refused", refused)
        assert len(site.pods("assistant")) == 4


def waiting(site: Stack) -> list[Object]:
    return [pod for pod in site.pods("embed") if not is_running(pod)]


async def test_real_time_takes_slices_from_batch_and_batch_takes_from_nobody(tmp_path: Path) -> None:
    async with stack(tmp_path) as site:
        site.add_node("gpu-1", small=3, middle=0, **{"example.com/team": "team-a", "example.com/spot": "true"})
        await site.nodes_advertise("gpu-1")
        await site.apply("tenancy")
        await site.until("two assistants run", lambda: site.running("assistant") == 2)
        await site.apply("batch")
        await site.until("batch has the slice that is left", lambda: site.running("embed") == 1)
        waiting = [pod for pod in site.pods("embed") if not is_running(pod)]
        await site.until(
            "the others wait", lambda: all(map(why_pending, (p for p in site.pods("embed") if not is_running(p))))
        )
        assert waiting
        assert site.running("assistant") == 2

        site.cluster.merge(kinds.DEPLOYMENTS, "assistant", {"spec": {"replicas": 3}}, namespace="team-a")
        await site.until("the third has taken it", lambda: site.running("assistant") == 3)
        assert site.running("embed") == 0
        job = site.cluster.get(kinds.JOBS, "embed", "team-b")
        assert not dig(job, "status.failed")


async def test_batch_comes_to_spot_nodes_only_and_other_teams_to_no_tainted_one(tmp_path: Path) -> None:
    async with stack(tmp_path) as site:
        site.add_node("steady", small=8, middle=0, **{"example.com/team": "team-a"})
        site.add_node("spot", small=2, middle=0, **{"example.com/spot": "true"})
        taint = {"key": "example.com/spot", "value": "true", "effect": "NoSchedule"}
        await site.nodes_advertise("steady", "spot")
        site.cluster.merge(kinds.NODES, "spot", {"spec": {"taints": [taint]}})
        site.cluster.merge(
            kinds.NODES,
            "steady",
            {"spec": {"taints": [{"key": "example.com/team", "value": "team-a", "effect": "NoSchedule"}]}},
        )
        await site.apply("tenancy", "batch")
        await site.until("both teams run", lambda: site.running("assistant") == 2 and site.running("embed") == 2)
        assert {dig(pod, "spec.nodeName") for pod in site.pods("assistant")} == {"steady"}
        assert {dig(pod, "spec.nodeName") for pod in site.pods("embed") if is_running(pod)} == {"spot"}


async def test_a_team_of_batch_cannot_call_itself_real_time(tmp_path: Path) -> None:
    async with stack(tmp_path) as site:
        site.add_node("gpu-1", small=3, middle=0)
        await site.apply("tenancy")
        pod: Object = {
            "metadata": {"name": "pushy", "namespace": "team-b"},
            "spec": {"priorityClassName": "realtime", "containers": [{"name": "main", "image": "x:1"}]},
        }
        with pytest.raises(Exception, match="exceeded quota: no-realtime"):
            site.cluster.create(kinds.PODS, pod)
        del pod["spec"]["priorityClassName"]
        assert namespace_of(site.cluster.create(kinds.PODS, pod)) == "team-b"


def test_the_label_of_a_model_is_the_agents_own() -> None:
    assert LLAMA.startswith(labels.MODEL_PREFIX)
