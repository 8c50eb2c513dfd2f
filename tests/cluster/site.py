"""A place on a cluster that is not ours: a namespace, an account and nodes of our own, and nothing left behind.

A node is a kubelet that we play (its Lease, its status, its pods, PodResources) over simulated GPUs, and the agent as a process.
All of it goes by HTTP and the kubeconfig alone. Other nodes are kept out of it by a taint and a label with a name of our own: our
pods run nowhere else, and nobody else's run here, but for DaemonSets that go everywhere. These run in name only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.model import labels
from hack.devcluster import gpu_operator
from hack.devcluster.kubeconfig import Access, write_kubeconfig
from hack.devcluster.kubelet.settings import KubeletSettings
from hack.devcluster.objects import Object, dig, is_deleting, name_of, phase_of, random_suffix, uid_of
from tests.contract.kube_client import MERGE, Kube, connected
from tests.e2e.agent_node import AgentProcess
from tests.fakes.devcluster import SimulatedKubelet
from tests.fakes.simgpu import SimulatedGpus

DEADLINE_SECONDS = 60.0
MARK = f"{labels.DOMAIN}/test"
BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
PLUGIN = gpu_operator.DEVICE_PLUGIN
_TOKEN_SECONDS = 7200


@dataclass(slots=True)
class Site:
    """``name`` is that of the namespace, and what everything of ours carries. ``kubeconfig`` is for processes: it has a token of
    our own account, which may do everything, whatever way the user's kubeconfig takes."""

    kube: Kube
    name: str
    folder: Path
    kubeconfig: Path
    nodes: list[SiteNode] = field(default_factory=list)

    async def get(self, path: str) -> Object:
        answer = await self.kube.call("GET", path)
        assert answer.code == 200, answer.body
        return answer.body

    async def merge(self, path: str, patch: Object) -> None:
        answer = await self.kube.call("PATCH", path, patch, MERGE)
        assert answer.code == 200, answer.body

    async def pods(self, app: str = "") -> list[Object]:
        """Those of our namespace that live."""
        query = {"labelSelector": f"app={app}"} if app else {}
        listed = await self.kube.call("GET", f"/api/v1/namespaces/{self.name}/pods", **query)
        return [pod for pod in listed.body["items"] if not is_deleting(pod)]

    async def running(self, app: str) -> set[str]:
        """UIDs of an app's pods that run."""
        return {uid_of(pod) for pod in await self.pods(app) if phase_of(pod) == "Running"}

    async def run(self, name: str, resources: Mapping[str, int], replicas: int = 1) -> set[str]:
        """A Deployment; the UIDs of its pods, once they run."""
        await self.kube.made(
            f"/apis/apps/v1/namespaces/{self.name}/deployments", self._workload(name, resources, replicas)
        )
        await self.until(lambda: self._run(name, replicas), f"{replicas} pods of {name} run")
        return await self.running(name)

    async def deploy(self, name: str, command: Sequence[str], replicas: int) -> str:
        """A Deployment with that command, and no GPU; its path."""
        workload = self._workload(name, {}, replicas)
        workload["spec"]["template"]["spec"]["containers"][0]["command"] = list(command)
        path = f"/apis/apps/v1/namespaces/{self.name}/deployments"
        await self.kube.made(path, workload)
        return f"{path}/{name}"

    async def run_everywhere(self, name: str) -> set[str]:
        """A DaemonSet that uses no GPU; the UIDs of its pods."""
        workload = self._workload(name, {}, None)
        await self.kube.made(f"/apis/apps/v1/namespaces/{self.name}/daemonsets", workload)
        await self.until(lambda: self._run(name, len(self.nodes)), f"{name} runs everywhere")
        return await self.running(name)

    async def _run(self, name: str, count: int) -> bool:
        return len(await self.running(name)) == count

    async def budget(self, name: str, app: str, at_least: int | None) -> None:
        """A PodDisruptionBudget of an app's pods; None takes it away."""
        path = f"/apis/policy/v1/namespaces/{self.name}/poddisruptionbudgets"
        if at_least is None:
            assert (await self.kube.call("DELETE", f"{path}/{name}")).code == 200
            return
        spec = {"minAvailable": at_least, "selector": {"matchLabels": {"app": app}}}
        await self.kube.made(path, {"metadata": {"name": name}, "spec": spec})
        await self.until(lambda: self._counted(f"{path}/{name}"), "the budget is counted")

    async def _counted(self, path: str) -> bool:
        return int(dig(await self.get(path), "status.expectedPods", 0)) > 0

    async def until(self, holds: Callable[[], Any], what: str) -> None:
        """Look until it is so; ``holds`` is asked anew each time."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not await holds():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            told = [f"{node.name}: {await node.status()}" for node in self.nodes]
            raise AssertionError(f"never came: {what}; {told}") from None

    async def node(self, *boards: str, mig: bool = True, **settings: Any) -> SiteNode:
        """A node of ours, with the device plugin on it; the agent is not started yet."""
        name = f"{self.name}-{len(self.nodes) + 1}"
        # A socket's path has 107 characters at most.
        folder = self.folder / f"n{len(self.nodes) + 1}"
        folder.mkdir()
        gpus = SimulatedGpus.create(folder, *(boards or ("H100-80GB-SXM",)), mig=mig)
        deploy = {labels.DEVICE_PLUGIN: "true", MARK: self.name}
        kubelet = SimulatedKubelet(
            KubeletSettings(
                kubeconfig=self.kubeconfig,
                node=name,
                run_dir=folder,
                simgpu_dir=gpus.paths.simgpu.parent,
                simgpu_state=gpus.state,
                labels=deploy,
                taints=({"key": MARK, "value": self.name, "effect": "NoSchedule"},),
                status_interval_s=0.2,
                pod_start_s=0.01,
                pod_stop_s=0.02,
            ),
            folder / "devices.json",
        )
        kubelet.start()
        node = SiteNode(self, AgentProcess(self.kubeconfig, gpus, kubelet, folder, name))
        self.nodes.append(node)
        await self.until(lambda: self._run(PLUGIN, len(self.nodes)), "the device plugin runs")
        return node

    def _workload(self, name: str, resources: Mapping[str, int], replicas: int | None) -> Object:
        limits = {resource: str(count) for resource, count in resources.items()}
        pod = {
            "metadata": {"labels": {"app": name}},
            "spec": {
                "containers": [{"name": "main", "image": "example.org/main:1", "resources": {"limits": limits}}],
                "terminationGracePeriodSeconds": 1,
                "nodeSelector": {MARK: self.name},
                "tolerations": [{"key": MARK, "operator": "Exists"}],
            },
        }
        spec: Object = {"selector": {"matchLabels": {"app": name}}, "template": pod}
        return {"metadata": {"name": name}, "spec": spec if replicas is None else {"replicas": replicas, **spec}}

    def plugin(self) -> Object:
        """NVIDIA's device plugin: a DaemonSet that a deploy label stops."""
        workload = self._workload(PLUGIN, {}, None)
        workload["spec"]["template"]["spec"]["nodeSelector"] |= {labels.DEVICE_PLUGIN: "true"}
        return workload


@dataclass(frozen=True, slots=True)
class SiteNode:
    """One node, and the agent's process on it."""

    site: Site
    process: AgentProcess

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def path(self) -> str:
        return f"/api/v1/nodes/{self.name}"

    async def object(self) -> Object:
        return await self.site.get(self.path)

    async def status(self) -> dict[str, Any]:
        """The agent's words."""
        return self.process.words(await self.object())

    async def wish(self, layout: str | None) -> None:
        """Label the node."""
        await self.site.merge(self.path, {"metadata": {"labels": {labels.CONFIG: layout}}})

    async def cordon(self, there: bool) -> None:
        """What an administrator does."""
        await self.site.merge(self.path, {"spec": {"unschedulable": there or None}})

    async def until(self, state: str, layout: str, reason: str = "") -> None:
        """That is what the agent says, and no operation runs."""
        await self.site.until(
            lambda: self._says(state, layout, reason), f"{self.name}: {state} {reason} for {layout!r}"
        )

    async def until_waiting(self, reason: str) -> None:
        """It waits for that."""
        await self.site.until(lambda: self._waits(reason), f"{self.name} waits for {reason}")

    async def until_operating(self, *parts: str) -> None:
        """An operation record is there that has all of that."""
        await self.site.until(lambda: self._operates(parts), f"{self.name}: a record with {parts}")

    async def _says(self, state: str, layout: str, reason: str) -> bool:
        found = await self.object()
        words = self.process.words(found)
        idle = labels.OPERATION not in (dig(found, "metadata.annotations") or {})
        said = (dig(found, "metadata.labels", {}).get(labels.STATE), words.get("layout"), words.get("reason"))
        return idle and said == (state, layout, reason or words.get("reason"))

    async def _waits(self, reason: str) -> bool:
        return (await self.status()).get("reason") == reason

    async def _operates(self, parts: Sequence[str]) -> bool:
        record = (dig(await self.object(), "metadata.annotations") or {}).get(labels.OPERATION, "")
        return bool(record) and all(part in record for part in parts)

    async def shows(self, **counts: int) -> None:
        """Allocatable has just these slices; ``_`` stands for ``.``, so ``mig-1g.10gb`` is ``s1g_10gb``."""
        wanted = {f"nvidia.com/mig-{name[1:].replace('_', '.')}": count for name, count in counts.items()}
        await self.site.until(lambda: self._shows(wanted), f"{self.name} shows {wanted}")

    async def _shows(self, wanted: Mapping[str, int]) -> bool:
        allocatable = dig(await self.object(), "status.allocatable") or {}
        shown = {name: int(n) for name, n in allocatable.items() if name.startswith("nvidia.com/mig-") and n != "0"}
        return shown == dict(wanted)


@asynccontextmanager
async def site_on(kubeconfig: Path, folder: Path) -> AsyncIterator[Site]:
    """Ours until the end, however that comes."""
    name = f"warmslice-test-{random_suffix()}"
    async with connected(str(kubeconfig)) as (kube, _):
        site = Site(kube, name, folder, folder / "site.kubeconfig")
        try:
            await _move_in(site, kubeconfig)
            yield site
        finally:
            await _move_out(site)


async def _move_in(site: Site, kubeconfig: Path) -> None:
    kube, name = site.kube, site.name
    await kube.made("/api/v1/namespaces", {"metadata": {"name": name}})
    await kube.made(f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "site"}})
    subject = {"kind": "ServiceAccount", "name": "site", "namespace": name}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    await kube.made(BINDINGS, {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]})
    asked = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": _TOKEN_SECONDS},
    }
    made = await kube.made(f"/api/v1/namespaces/{name}/serviceaccounts/site/token", asked)
    write_kubeconfig(site.kubeconfig, Access(kube.url, kube.authority, str(dig(made, "status.token"))))
    await kube.made(f"/apis/apps/v1/namespaces/{name}/daemonsets", site.plugin())


async def _move_out(site: Site) -> None:
    """Pods end while their kubelet is there to say so; what is left then is taken away by force."""
    kube, name = site.kube, site.name
    for node in site.nodes:
        await node.process.kill()
    for kind in ("deployments", "daemonsets"):
        await kube.call("DELETE", f"/apis/apps/v1/namespaces/{name}/{kind}", {"propagationPolicy": "Background"})
    await kube.call("DELETE", f"/api/v1/namespaces/{name}/pods")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DEADLINE_SECONDS if site.nodes else 0.0):
            while (await kube.call("GET", f"/api/v1/namespaces/{name}/pods")).body["items"]:
                await asyncio.sleep(0.1)
    for node in site.nodes:
        await node.process.kubelet.stop()
        on_it = await kube.call("GET", "/api/v1/pods", fieldSelector=f"spec.nodeName={node.name}")
        for pod in on_it.body["items"]:
            path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{name_of(pod)}"
            await kube.call("DELETE", path, {"gracePeriodSeconds": 0})
        await kube.call("DELETE", node.path)
        await kube.call("DELETE", f"{LEASES}/{node.name}")
    await kube.call("DELETE", f"/api/v1/namespaces/{name}")
    await kube.call("DELETE", f"{BINDINGS}/{name}")
