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
QWEN = "models.warmslice.dev/Qwen--Qwen2.5-1.5B-Instruct"
TEAM_A = {"example.com/team": "team-a", QWEN: "ready"}
SPOT = {"example.com/spot": "true"}
SMALL, MIDDLE = "nvidia.com/mig-1g.10gb", "nvidia.com/mig-2g.20gb"
SERVED = {kind.name for kind in kinds.ALL_KINDS}


class Stack:
    """A node whose layout is that of the examples by day, and what runs there."""

    def __init__(self, cluster: DevCluster, folder: Path) -> None:
        self.cluster = cluster
        self._folder = folder

    def add_node(self, name: str, labels: dict[str, str], taints: dict[str, str], small: int, middle: int = 0) -> None:
        """Tainted also as nodes with GPUs are in many clusters."""
        devices = {
            SMALL: [f"MIG-{name}-s{n}" for n in range(small)],
            MIDDLE: [f"MIG-{name}-m{n}" for n in range(middle)],
        }
        every = {"nvidia.com/gpu": "present"} | taints
        effects = tuple({"key": key, "value": value, "effect": "NoSchedule"} for key, value in every.items())
        self.cluster.add_kubelet(name, devices, labels=labels, taints=effects)

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

    def waiting(self, app: str) -> list[Object]:
        """Those that the scheduler found no place for."""
        return [pod for pod in self.pods(app) if why_pending(pod)]

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
    """What the scheduler says; nothing of a pod that has a node."""
    return " ".join(
        str(one["message"]) for one in conditions_of(pod) if one["type"] == "PodScheduled" and one["status"] == "False"
    )


async def test_servers_wait_for_the_model_and_then_have_a_slice_each(tmp_path: Path) -> None:
    async with stack(tmp_path) as site:
        site.add_node("gpu-1", {}, {}, small=8, middle=3)
        await site.nodes_advertise("gpu-1")
        await site.apply("serving")
        apps = ("vllm", "tgi", "tensorrt-llm", "sglang")
        await site.until("all wait", lambda: [len(site.waiting(app)) for app in apps] == [1, 1, 1, 1])
        assert "node affinity" in why_pending(site.waiting("vllm")[0])

        site.cluster.label_node("gpu-1", {LLAMA: "ready"})
        await site.until("three of four run, on the three slices", lambda: sum(map(site.running, apps)) == 3)
        await site.until(
            "the fourth finds none",
            lambda: [MIDDLE in why_pending(pod) for a in apps for pod in site.waiting(a)] == [True],
        )


async def test_a_team_has_no_more_slices_than_its_quota_says(tmp_path: Path) -> None:
    async with stack(tmp_path) as site:
        site.add_node("gpu-1", TEAM_A, {}, small=8, middle=3)
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


async def test_real_time_takes_slices_from_batch_and_batch_takes_from_nobody(tmp_path: Path) -> None:
    async with stack(tmp_path) as site:
        site.add_node("gpu-1", TEAM_A | SPOT, {}, small=3)
        await site.nodes_advertise("gpu-1")
        await site.apply("tenancy")
        await site.until("two assistants run", lambda: site.running("assistant") == 2)
        await site.apply("batch")
        await site.until("batch has the slice that is left", lambda: site.running("embed") == 1)
        await site.until("the others wait", lambda: len(site.waiting("embed")) == 2)
        assert site.running("assistant") == 2

        site.cluster.merge(kinds.DEPLOYMENTS, "assistant", {"spec": {"replicas": 3}}, namespace="team-a")
        await site.until("the third has taken it", lambda: site.running("assistant") == 3)
        assert site.running("embed") == 0


async def test_batch_comes_to_spot_nodes_only_and_other_teams_to_no_tainted_one(tmp_path: Path) -> None:
    async with stack(tmp_path) as site:
        site.add_node("steady", TEAM_A, {"example.com/team": "team-a"}, small=8)
        site.add_node("spot", SPOT, SPOT, small=2)
        await site.nodes_advertise("steady", "spot")
        await site.apply("tenancy", "batch")
        await site.until("both teams run", lambda: site.running("assistant") == 2 and site.running("embed") == 2)
        assert {dig(pod, "spec.nodeName") for pod in site.pods("assistant")} == {"steady"}
        assert {dig(pod, "spec.nodeName") for pod in site.pods("embed") if is_running(pod)} == {"spot"}


async def test_no_team_gives_itself_a_class_that_takes_from_the_others(tmp_path: Path) -> None:
    """Kubernetes' own two are there for whoever names them."""
    async with stack(tmp_path) as site:
        await site.apply("tenancy")
        critical = ("system-cluster-critical", "system-node-critical")
        for team, refused, allowed in (
            ("team-a", critical, ("realtime", "batch", "")),
            ("team-b", ("realtime", *critical), ("batch", "")),
        ):
            for name in refused:
                with pytest.raises(Exception, match=r"exceeded quota: no-(critical|urgent)-classes"):
                    site.cluster.create(kinds.PODS, classed(team, name))
            for name in allowed:
                assert namespace_of(site.cluster.create(kinds.PODS, classed(team, name))) == team


def classed(team: str, name: str) -> Object:
    spec: Object = {"containers": [{"name": "main", "image": "x:1"}]} | ({"priorityClassName": name} if name else {})
    return {"metadata": {"name": f"pod-{name or 'unclassed'}", "namespace": team}, "spec": spec}


async def test_a_server_does_not_start_where_its_model_is_not(tmp_path: Path) -> None:
    """It would not fetch it, and end again and again."""
    async with stack(tmp_path) as site:
        site.add_node("gpu-1", TEAM_A | {QWEN: "fetching"}, {}, small=3)
        await site.nodes_advertise("gpu-1")
        await site.apply("tenancy")
        await site.until("both wait", lambda: len(site.waiting("assistant")) == 2)
        site.cluster.label_node("gpu-1", {QWEN: "ready"})
        await site.until("both run", lambda: site.running("assistant") == 2)


def test_the_label_of_a_model_is_the_agents_own() -> None:
    assert LLAMA.startswith(labels.MODEL_PREFIX)
