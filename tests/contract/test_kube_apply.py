"""Server-side apply: who owns which field, and what happens where two want the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from hack.devcluster import kinds
from hack.devcluster.objects import Object
from tests.contract.kube_client import APPLY, MERGE, Answer, Kube
from tests.fakes.devcluster import bare_node, dev_cluster

CONFIG = "/api/v1/namespaces/default/configmaps/c"
NODE = "/api/v1/nodes/gpu-1"


@pytest_asyncio.fixture
async def kube(tmp_path: Path) -> AsyncIterator[Kube]:
    async with dev_cluster(tmp_path) as cluster, cluster.session("tester/1") as session:
        cluster.create(kinds.NODES, bare_node("gpu-1"))
        yield Kube(cluster.url, session)


async def apply(kube: Kube, path: str, manager: str, body: Object, **query: str) -> Answer:
    name = path.split("/")[-1]
    whole = {"apiVersion": "v1", "kind": "Node" if "nodes" in path else "ConfigMap", "metadata": {"name": name}, **body}
    return await kube.call("PATCH", path, whole, APPLY, fieldManager=manager, **query)


def owners(obj: Object, *path: str) -> set[str]:
    """The managers whose fields contain this path."""
    found = set()
    for entry in obj["metadata"]["managedFields"]:
        here: Object | None = entry["fieldsV1"]
        for part in path:
            here = None if here is None else here.get(part)
        if here is not None:
            found.add(entry["manager"])
    return found


async def test_apply_creates_what_is_missing_and_owns_it(kube: Kube) -> None:
    made = await apply(kube, CONFIG, "a", {"data": {"x": "1"}})
    assert made.code == 201
    [entry] = made.body["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"]) == ("a", "Apply")
    assert entry["fieldsV1"] == {"f:data": {"f:x": {}}}


async def test_a_field_of_another_manager_conflicts_unless_forced(kube: Kube) -> None:
    await apply(kube, CONFIG, "a", {"data": {"x": "1"}})
    refused = await apply(kube, CONFIG, "b", {"data": {"x": "2"}})
    assert (refused.code, refused.body["reason"]) == (409, "Conflict")
    assert refused.body["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "a" using v1', "field": ".data.x"}
    ]
    forced = await apply(kube, CONFIG, "b", {"data": {"x": "2"}}, force="true")
    assert forced.body["data"] == {"x": "2"}
    assert owners(forced.body, "f:data", "f:x") == {"b"}


async def test_the_same_value_is_shared_and_outlives_one_of_its_owners(kube: Kube) -> None:
    await apply(kube, CONFIG, "a", {"data": {"x": "1"}})
    both = await apply(kube, CONFIG, "b", {"data": {"x": "1"}})
    assert owners(both.body, "f:data", "f:x") == {"a", "b"}
    one = await apply(kube, CONFIG, "b", {})
    assert one.body["data"] == {"x": "1"}


async def test_a_field_that_its_only_manager_drops_goes(kube: Kube) -> None:
    await apply(kube, CONFIG, "a", {"data": {"x": "1", "y": "1"}})
    await kube.call("PATCH", CONFIG, {"data": {"z": "1"}}, MERGE)
    assert (await apply(kube, CONFIG, "a", {"data": {"x": "1"}})).body["data"] == {"x": "1", "z": "1"}


async def test_an_update_takes_what_it_changes(kube: Kube) -> None:
    await apply(kube, CONFIG, "a", {"data": {"x": "1", "y": "1"}})
    patched = await kube.call("PATCH", CONFIG, {"data": {"x": "2"}}, MERGE)
    assert owners(patched.body, "f:data", "f:x") == {"tester"}
    assert owners(patched.body, "f:data", "f:y") == {"a"}
    assert (await apply(kube, CONFIG, "a", {"data": {"x": "1", "y": "1"}})).code == 409


async def test_applying_the_same_again_spends_no_revision(kube: Kube) -> None:
    first = await apply(kube, CONFIG, "a", {"data": {"x": "1"}})
    again = await apply(kube, CONFIG, "a", {"data": {"x": "1"}})
    assert (again.code, again.body) == (200, first.body)


async def test_elements_of_a_keyed_list_have_owners_of_their_own(kube: Kube) -> None:
    path = f"{NODE}/status"
    for manager, kind in (("a", "One"), ("b", "Two")):
        whole: Object = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gpu-1"}}
        whole["status"] = {"conditions": [{"type": kind, "status": "True"}]}
        assert (await kube.call("PATCH", path, whole, APPLY, fieldManager=manager)).code == 200
    node = (await kube.call("GET", NODE)).body
    assert {"One", "Two"} <= {condition["type"] for condition in node["status"]["conditions"]}
    assert owners(node, "f:status", "f:conditions", 'k:{"type":"One"}') == {"a"}
    left = await kube.call(
        "PATCH", path, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gpu-1"}}, APPLY, fieldManager="a"
    )
    assert "One" not in {condition["type"] for condition in left.body["status"]["conditions"]}
    assert "Two" in {condition["type"] for condition in left.body["status"]["conditions"]}


async def test_forced_apply_of_taints_wipes_those_of_others(kube: Kube) -> None:
    """The list has one owner as a whole."""
    mine, other = ({"key": f"example.org/{who}", "effect": "PreferNoSchedule"} for who in ("mine", "other"))
    await kube.call("PATCH", NODE, {"spec": {"taints": [other]}}, MERGE)
    assert (await apply(kube, NODE, "a", {"spec": {"taints": [mine]}})).code == 409
    forced = await apply(kube, NODE, "a", {"spec": {"taints": [mine]}}, force="true")
    assert forced.body["spec"]["taints"] == [mine]


async def test_an_apply_needs_a_manager_and_a_kind(kube: Kube) -> None:
    whole = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    assert (await kube.call("PATCH", CONFIG, whole, APPLY)).code == 400
    assert (await kube.call("PATCH", CONFIG, {"metadata": {"name": "c"}}, APPLY, fieldManager="a")).code == 400


async def test_a_dry_run_of_apply_stores_nothing(kube: Kube) -> None:
    assert (await apply(kube, CONFIG, "a", {"data": {"x": "1"}}, dryRun="All")).code == 201
    assert (await kube.call("GET", CONFIG)).code == 404
