"""The same stories on the development cluster and, with ``-m cluster``, on whatever cluster KUBECONFIG leads to.

They go by what an API server, a scheduler and controllers of any making do: nothing is looked up behind them, and nobody's
faults are injected but those of our own GPUs.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from agent.model import labels
from agent.model.demand_map import KEY, NAME, read
from hack.devcluster.objects import dig
from hack.hub.server import Hub
from tests.cluster.site import BINDINGS, DEADLINE_SECONDS, LEASES, PLUGIN, Site, SiteNode, site_on
from tests.contract.kube_client import connected
from tests.fakes.hub import tiny_model

SEVEN = [f"1g.10gb@{start}" for start in range(7)]
MIXED = [*SEVEN[:4], "3g.40gb@4"]
SMALL = "nvidia.com/mig-1g.10gb"
CREATE, DESTROY = "nvmlDeviceCreateGpuInstanceWithPlacement", "nvmlGpuInstanceDestroy"


@asynccontextmanager
async def development_cluster(folder: Path) -> AsyncIterator[Path]:
    """The kubeconfig of a development cluster that is a process of its own, with roles enforced."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hack.devcluster", "--run-dir", str(folder), "--rbac", "--no-anonymous",
        cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert await process.stdout.readline(), "it says where it is"
        yield folder / "kubeconfig"
    finally:
        process.terminate()
        assert await process.wait() == 0


@pytest_asyncio.fixture(
    params=[
        pytest.param("development", id="development"),
        pytest.param("given", id="given", marks=pytest.mark.cluster),
    ]
)
async def kubeconfig(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Path]:
    """The way to the cluster."""
    if request.param == "development":
        async with development_cluster(tmp_path / "cluster") as path:
            yield path
    elif "KUBECONFIG" not in os.environ:
        pytest.skip("KUBECONFIG names no cluster")
    else:
        yield Path(os.environ["KUBECONFIG"])


@pytest_asyncio.fixture
async def site(kubeconfig: Path, tmp_path: Path) -> AsyncIterator[Site]:
    """A place of our own there."""
    async with site_on(kubeconfig, tmp_path) as ours:
        yield ours


async def small_node(site: Site, **flags: str) -> SiteNode:
    """Seven small slices, and the agent that made them."""
    node = await site.node()
    await node.process.start(**flags)
    await node.wish("small")
    await node.until("success", "small", "applied")
    return node


async def given_back(node: SiteNode) -> None:
    """Nothing of the change is left on the node object."""
    found = await node.object()
    assert labels.OPERATION not in found["metadata"]["annotations"]
    assert not set(labels.AUTOSCALER_GUARDS) & set(found["metadata"]["annotations"])
    assert dig(found, "metadata.labels", {})[labels.DEVICE_PLUGIN] == "true"
    assert not dig(found, "spec.unschedulable")


async def test_a_label_becomes_slices_that_pods_can_have(site: Site) -> None:
    node = await small_node(site)
    assert node.process.slices() == SEVEN
    await node.shows(s1g_10gb=7)
    await node.wish("mixed")
    await node.until("success", "mixed", "applied")
    assert node.process.slices() == MIXED
    await node.shows(s1g_10gb=4, s3g_40gb=1)
    await given_back(node)
    assert len(await site.run("web", {"nvidia.com/mig-3g.40gb": 1})) == 1


async def test_of_twenty_pods_only_the_two_on_doomed_slices_are_moved(site: Site) -> None:
    node = await small_node(site)
    cpu = await site.run("cpu", {}, replicas=12)
    everywhere = await site.run_everywhere("watcher")
    serving = await site.run("serve", {SMALL: 1}, replicas=6)
    plugin = await site.running(PLUGIN)
    assert len(cpu | everywhere | serving | plugin) == 20
    await node.wish("mixed")
    await node.until("success", "mixed", "applied")
    await node.shows(s1g_10gb=4, s3g_40gb=1)
    assert await site.running("cpu") == cpu
    assert await site.running("watcher") == everywhere
    assert len(serving & await site.running("serve")) == 4


async def test_a_budget_that_allows_nobody_is_named_and_waited_for(site: Site) -> None:
    node = await small_node(site)
    serving = await site.run("serve", {SMALL: 1}, replicas=5)
    await site.budget("keep-serving", "serve", at_least=5)
    await node.wish("mixed")
    await node.until_waiting("budget")
    assert "keep-serving" in (await node.status())["message"]
    assert await site.running("serve") == serving
    await site.budget("keep-serving", "serve", at_least=None)
    await node.until("success", "mixed", "applied")
    assert len(serving & await site.running("serve")) == 4
    await given_back(node)


async def test_a_gpu_outside_mig_is_cut_when_the_pod_on_it_has_gone(site: Site) -> None:
    node = await site.node(mig=False)
    whole = await site.run("whole", {"nvidia.com/gpu": 1})
    await node.process.start()
    await node.wish("small")
    await node.until("success", "small", "applied")
    await node.shows(s1g_10gb=7)
    assert not whole & await site.running("whole")
    await given_back(node)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("function", [DESTROY, CREATE])
async def test_killed_in_the_driver_another_process_ends_the_change(site: Site, function: str, moment: str) -> None:
    node = await small_node(site)
    serving = await site.run("serve", {SMALL: 1}, replicas=4)
    node.process.gpus.fault(function, "--die", moment, "--count", "1")
    await node.wish("mixed")
    assert await node.process.ended() == -9
    await node.process.start()
    await node.until("success", "mixed", "applied")
    assert node.process.slices() == MIXED
    assert len(await site.running("serve")) == 4
    assert serving & await site.running("serve")
    await given_back(node)


async def test_killed_while_it_drains_another_process_goes_on(site: Site) -> None:
    node = await small_node(site)
    await site.run("serve", {SMALL: 1}, replicas=5)
    await site.budget("keep-serving", "serve", at_least=5)
    await node.wish("mixed")
    await node.until_operating('"touched":false')
    await node.process.kill()
    await site.budget("keep-serving", "serve", at_least=None)
    await node.process.start()
    await node.until("success", "mixed", "applied")
    assert node.process.slices() == MIXED
    await given_back(node)


async def test_a_wish_that_is_withdrawn_before_anything_was_touched_leaves_everybody_where_he_is(site: Site) -> None:
    node = await small_node(site)
    serving = await site.run("serve", {SMALL: 1}, replicas=5)
    await site.budget("keep-serving", "serve", at_least=5)
    await node.wish("mixed")
    await node.until_operating()
    await node.wish(None)
    await node.until("failed", "", "withdrawn")
    assert node.process.slices() == SEVEN
    assert await site.running("serve") == serving
    await given_back(node)


async def test_what_the_driver_refuses_is_taken_back(site: Site) -> None:
    node = await small_node(site)
    node.process.gpus.fault(CREATE, "--code", "INSUFFICIENT_RESOURCES", "--count", "1")
    await node.wish("mixed")
    await node.until("failed", "mixed", "rolled-back")
    assert node.process.slices() == SEVEN
    await node.shows(s1g_10gb=7)
    await given_back(node)


async def test_a_cordon_of_somebody_elses_stays_and_one_of_ours_that_is_undone_is_made_again(site: Site) -> None:
    node = await small_node(site)
    await node.cordon(True)
    await node.wish("mixed")
    await node.until("success", "mixed", "applied")
    assert dig(await node.object(), "spec.unschedulable") is True
    await node.cordon(False)
    await site.run("serve", {SMALL: 1}, replicas=4)
    await site.run("large", {"nvidia.com/mig-3g.40gb": 1})
    await site.budget("keep-large", "large", at_least=1)
    await node.wish("small")
    await node.until_operating('"cordoned":true')
    await node.cordon(False)
    await node.until_operating('"recordoned":true')
    assert dig(await node.object(), "spec.unschedulable") is True
    await site.budget("keep-large", "large", at_least=None)
    await node.until("success", "small", "applied")
    await given_back(node)


async def test_what_this_gpu_cannot_be_is_refused_and_nothing_is_touched(site: Site) -> None:
    node = await small_node(site)
    serving = await site.run("serve", {SMALL: 1}, replicas=7)
    before = node.process.gpus.log()
    await node.wish("9x1g.10gb")
    await node.until("failed", "9x1g.10gb")
    assert node.process.gpus.log() == before
    assert await site.running("serve") == serving
    await given_back(node)


async def test_three_nodes_take_turns(site: Site) -> None:
    """Each is in change for as long as somebody holds it up."""
    nodes = [await site.node() for _ in range(3)]
    for node in nodes:
        await node.process.start(max_unavailable="1", namespace=site.name)
    for node in nodes:
        await node.wish("small")
    for node in nodes:
        await node.until("success", "small", "applied")
    serving = await site.run("serve", {SMALL: 1}, replicas=21)
    await site.budget("keep-all", "serve", at_least=100)
    for node in nodes:
        await node.wish("mixed")
    await site.until(lambda: _at_work(nodes, 1, waiting=2), "one is in change, two wait")
    await site.budget("keep-all", "serve", at_least=None)
    for node in nodes:
        await node.until("success", "mixed", "applied")
        await given_back(node)
    assert len(serving & await site.running("serve")) == 12


async def _at_work(nodes: list[SiteNode], count: int, waiting: int) -> bool:
    records = [labels.OPERATION in ((await node.object())["metadata"].get("annotations") or {}) for node in nodes]
    reasons = [(await node.status()).get("reason") for node in nodes]
    return (sum(records), reasons.count("fleet-slot")) == (count, waiting)


async def test_a_model_that_a_workload_names_is_there_before_its_first_pod(site: Site, tmp_path: Path) -> None:
    """The workload is scaled to zero; what others of the cluster run is nobody's business here."""
    served = tmp_path / "served"
    served.mkdir()
    async with Hub({"org/tiny": tiny_model(served, repository="org/tiny")}) as hub:
        node = await site.node()
        (tmp_path / "catalog.yaml").write_text("models: []\n", "utf-8")
        await node.process.start(
            "cache",
            namespace=site.name,
            prewarm="auto",
            prewarm_allow=json.dumps({site.name: ["org/*"]}),
            catalog_file=tmp_path / "catalog.yaml",
            cache_directory=tmp_path / "hub-cache",
            hub_endpoint=hub.url,
        )
        deployment = await site.deploy("chat", ["vllm", "serve", "org/tiny"], replicas=0)
        label = f"{labels.MODEL_PREFIX}org--tiny"
        await site.until(lambda: _labelled(node, label, "ready"), "the model is ready")
        demand = await site.get(f"/api/v1/namespaces/{site.name}/configmaps/{NAME}")
        assert [one.named.repository for one in read(demand["data"][KEY])] == ["org/tiny"]
        await site.merge(deployment, {"spec": {"replicas": 1}})
        await site.until(lambda: _annotated(node, labels.MODELS), "its start is in the ledger")
        starts = json.loads((await node.object())["metadata"]["annotations"][labels.MODELS])["models"]["org--tiny"]
        assert list(starts["rows"]) == ["ready"]


async def _labelled(node: SiteNode, label: str, value: str) -> bool:
    return bool((await node.object())["metadata"].get("labels", {}).get(label) == value)


async def _annotated(node: SiteNode, name: str) -> bool:
    return name in ((await node.object())["metadata"].get("annotations") or {})


async def test_nothing_is_left_behind_by_a_story_that_fails(kubeconfig: Path, tmp_path: Path) -> None:
    """A namespace takes a real cluster a moment."""
    ours: list[str] = []

    async def fails() -> None:
        async with site_on(kubeconfig, tmp_path) as site:
            node = await small_node(site)
            await site.run("serve", {SMALL: 1}, replicas=2)
            ours.extend(
                (node.path, f"{LEASES}/{node.name}", f"{BINDINGS}/{site.name}", f"/api/v1/namespaces/{site.name}")
            )
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        await fails()
    async with connected(str(kubeconfig)) as (kube, _), asyncio.timeout(DEADLINE_SECONDS):
        while [(await kube.call("GET", path)).code for path in ours] != [404] * 4:
            await asyncio.sleep(0.2)
