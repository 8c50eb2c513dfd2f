"""What the agent relies on in an API server, stated once and tried on the development server and on a real one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from hack.devcluster import kinds
from hack.devcluster.faults import Fault, read_faults
from hack.devcluster.objects import Object, name_of, now_micro, random_suffix
from tests.contract.kube_client import JSON_PATCH, MERGE, STRATEGIC, Kube, real_cluster
from tests.fakes.devcluster import DevCluster, bare_node, dev_cluster, simple_pod


class KubeContract:
    """Makes only objects of its own: a namespace, and nodes with names of its own."""

    async def test_a_stale_object_is_refused_and_changes_nothing(self, kube: Kube, namespace: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        first = await kube.made(path, {"metadata": {"name": "c"}, "data": {"a": "1"}})
        await kube.call("PATCH", f"{path}/c", {"data": {"a": "2"}}, MERGE)
        put = await kube.call("PUT", f"{path}/c", first | {"data": {"a": "3"}})
        stale = {"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "data": {"a": "3"}}
        patched = await kube.call("PATCH", f"{path}/c", stale, MERGE)
        assert (put.code, put.body["reason"], patched.code) == (409, "Conflict", 409)
        assert (await kube.call("GET", f"{path}/c")).body["data"] == {"a": "2"}

    async def test_a_patch_that_changes_nothing_spends_no_revision(self, kube: Kube, node: str) -> None:
        path = f"/api/v1/nodes/{node}"
        once = await kube.call("PATCH", path, {"metadata": {"labels": {"a": "b"}}}, MERGE)
        again = await kube.call("PATCH", path, {"metadata": {"labels": {"a": "b"}}}, MERGE)
        assert once.body["metadata"]["resourceVersion"] == again.body["metadata"]["resourceVersion"]

    async def test_null_in_a_merge_patch_removes_a_label(self, kube: Kube, node: str) -> None:
        path = f"/api/v1/nodes/{node}"
        await kube.call("PATCH", path, {"metadata": {"labels": {"warmslice.dev/a": "b"}}}, MERGE)
        answer = await kube.call("PATCH", path, {"metadata": {"labels": {"warmslice.dev/a": None}}}, MERGE)
        assert "warmslice.dev/a" not in answer.body["metadata"].get("labels", {})

    async def test_a_json_patch_applies_whole_or_not_at_all(self, kube: Kube, node: str) -> None:
        path = f"/api/v1/nodes/{node}"
        name = {"op": "replace", "path": "/spec/unschedulable", "value": True}
        wrong = [{"op": "test", "path": "/metadata/name", "value": "other"}]
        missing = [{"op": "add", "path": "/spec/nowhere/at/all", "value": "x"}]
        codes = [(await kube.call("PATCH", path, patch, JSON_PATCH)).code for patch in (wrong, missing)]
        assert codes == [422, 422]
        right = [{"op": "test", "path": "/metadata/name", "value": node}, name | {"op": "add"}]
        answer = await kube.call("PATCH", path, right, JSON_PATCH)
        assert answer.body["spec"]["unschedulable"] is True

    async def test_a_patch_of_unknown_type_is_refused(self, kube: Kube, node: str) -> None:
        assert (await kube.call("PATCH", f"/api/v1/nodes/{node}", {}, "application/x-patch")).code == 415

    async def test_a_strategic_patch_of_taints_wipes_those_of_others(self, kube: Kube, node: str) -> None:
        """The list is atomic: whoever adds one this way must send all."""
        path = f"/api/v1/nodes/{node}"
        mine, other = ({"key": f"example.org/{who}", "effect": "PreferNoSchedule"} for who in ("mine", "other"))
        await kube.call("PATCH", path, {"spec": {"taints": [other]}}, STRATEGIC)
        answer = await kube.call("PATCH", path, {"spec": {"taints": [mine]}}, STRATEGIC)
        keys = {taint["key"] for taint in answer.body["spec"]["taints"]}
        assert "example.org/mine" in keys
        assert "example.org/other" not in keys

    async def test_a_strategic_patch_of_conditions_keeps_other_types(self, kube: Kube, node: str) -> None:
        path = f"/api/v1/nodes/{node}/status"
        for kind in ("ExampleOne", "ExampleTwo"):
            await kube.call("PATCH", path, {"status": {"conditions": [{"type": kind, "status": "True"}]}}, STRATEGIC)
        answer = await kube.call("GET", f"/api/v1/nodes/{node}")
        types = {condition["type"] for condition in answer.body["status"]["conditions"]}
        assert {"ExampleOne", "ExampleTwo"} <= types

    async def test_status_is_written_only_through_its_subresource(self, kube: Kube, node: str) -> None:
        path = f"/api/v1/nodes/{node}"
        both = {"spec": {"podCIDR": "10.9.9.0/24"}, "status": {"capacity": {"example.org/x": "7"}}}
        await kube.call("PATCH", path, {"status": both["status"]}, MERGE)
        status = (await kube.call("GET", path)).body.get("status", {})
        assert "example.org/x" not in status.get("capacity", {})
        labels = {"metadata": {"labels": {"example.org/through-status": "yes"}}}
        answer = await kube.call("PATCH", f"{path}/status", both | labels, MERGE)
        assert answer.body["status"]["capacity"]["example.org/x"] == "7"
        assert answer.body["metadata"]["labels"]["example.org/through-status"] == "yes"
        assert answer.body["spec"].get("podCIDR") != "10.9.9.0/24"

    async def test_uncordoning_leaves_no_trace_in_the_spec(self, kube: Kube, node: str) -> None:
        path = f"/api/v1/nodes/{node}"
        await kube.call("PATCH", path, {"spec": {"unschedulable": True}}, MERGE)
        answer = await kube.call("PATCH", path, {"spec": {"unschedulable": False}}, MERGE)
        assert "unschedulable" not in answer.body["spec"]

    async def test_a_watch_shows_what_enters_and_what_leaves_its_selection(self, kube: Kube, namespace: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        made = await kube.made(path, {"metadata": {"name": "c"}})
        since = made["metadata"]["resourceVersion"]
        watch = asyncio.create_task(kube.first_events(3, path, resourceVersion=since, labelSelector="in=yes"))
        for value in ("yes", "yes", "no"):
            patch = {"metadata": {"labels": {"in": value}}, "data": {"n": random_suffix()}}
            await kube.call("PATCH", f"{path}/c", patch, MERGE)
        assert [event["type"] for event in await watch] == ["ADDED", "MODIFIED", "DELETED"]

    async def test_a_watch_without_revision_begins_with_what_is_there(self, kube: Kube, namespace: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        await kube.made(path, {"metadata": {"name": "c"}})
        events = await kube.first_events(1, path, fieldSelector="metadata.name=c")
        assert [(event["type"], name_of(event["object"])) for event in events] == [("ADDED", "c")]

    async def test_a_field_that_cannot_be_selected_by_is_refused(self, kube: Kube, namespace: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/pods"
        assert (await kube.call("GET", path, fieldSelector="spec.hostname=x")).code == 400
        assert (await kube.call("GET", path, fieldSelector="spec.nodeName=x,status.phase!=Failed")).code == 200

    async def test_a_long_list_comes_in_pages(self, kube: Kube, namespace: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        for number in range(5):
            await kube.made(path, {"metadata": {"name": f"c{number}", "labels": {"paged": "yes"}}})
        names: list[str] = []
        query = {"labelSelector": "paged=yes", "limit": "2"}
        for _ in range(3):
            page = await kube.call("GET", path, **query)
            names += [name_of(item) for item in page.body["items"]]
            query["continue"] = page.body["metadata"].get("continue", "")
        assert names == ["c0", "c1", "c2", "c3", "c4"]
        assert query["continue"] == ""

    async def test_a_dry_run_stores_nothing(self, kube: Kube, namespace: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        assert (await kube.call("POST", path, {"metadata": {"name": "c"}}, dryRun="All")).code == 201
        assert (await kube.call("GET", f"{path}/c")).code == 404

    async def test_a_label_value_longer_than_63_characters_is_refused(self, kube: Kube, node: str) -> None:
        patch = {"metadata": {"labels": {"nvidia.com/mig.config": "1" * 64}}}
        answer = await kube.call("PATCH", f"/api/v1/nodes/{node}", patch, MERGE)
        assert (answer.code, answer.body["reason"]) == (422, "Invalid")

    async def test_a_refusal_is_a_status_object(self, kube: Kube, namespace: str) -> None:
        answer = await kube.call("GET", f"/api/v1/namespaces/{namespace}/configmaps/missing")
        assert answer.code == answer.body["code"] == 404
        assert (answer.body["kind"], answer.body["reason"]) == ("Status", "NotFound")
        assert answer.body["details"] == {"name": "missing", "kind": "configmaps"}
        again = await kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        assert (again.code, again.body["reason"]) == (409, "AlreadyExists")

    async def test_an_api_group_says_which_of_its_versions_it_prefers(self, kube: Kube) -> None:
        answer = await kube.call("GET", "/apis/policy")
        assert (answer.body["kind"], answer.body["name"]) == ("APIGroup", "policy")
        assert answer.body["preferredVersion"] == {"groupVersion": "policy/v1", "version": "v1"}
        assert (await kube.call("GET", "/apis/not.served.example")).code == 404

    async def test_a_lease_needs_microseconds_and_a_revision(self, kube: Kube, namespace: str) -> None:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        spec = {"holderIdentity": "me", "renewTime": "2026-01-01T00:00:00Z"}
        assert (await kube.call("POST", path, {"metadata": {"name": "l"}, "spec": spec})).code == 400
        spec["renewTime"] = now_micro()
        lease = await kube.made(path, {"metadata": {"name": "l"}, "spec": spec})
        unconditional = {"metadata": {"name": "l"}, "spec": spec}
        assert (await kube.call("PUT", f"{path}/l", unconditional)).code == 422
        assert (await kube.call("PUT", f"{path}/l", lease)).code == 200

    async def test_one_event_is_seen_in_both_groups(self, kube: Kube) -> None:
        """A node's event lies in ``default``, whatever namespace the agent runs in."""
        about = {"kind": "Node", "name": f"warmslice-{random_suffix()}", "apiVersion": "v1"}
        event = {
            "metadata": {"generateName": f"{about['name']}."},
            "involvedObject": about,
            "eventTime": now_micro(),
            "reportingComponent": "warmslice.dev/agent",
            "reportingInstance": "x",
            "action": "Test",
            "reason": "Tested",
            "type": "Normal",
            "message": "said once",
        }
        made = await kube.made("/api/v1/namespaces/default/events", event)
        new = await kube.call("GET", f"/apis/events.k8s.io/v1/namespaces/default/events/{name_of(made)}")
        assert (new.body["note"], new.body["regarding"]["name"]) == ("said once", about["name"])
        chosen = await kube.call("GET", "/api/v1/events", fieldSelector=f"involvedObject.name={about['name']}")
        assert [name_of(item) for item in chosen.body["items"]] == [name_of(made)]
        incomplete = {key: value for key, value in event.items() if key != "action"}
        assert (await kube.call("POST", "/api/v1/namespaces/default/events", incomplete)).code == 422
        assert (await kube.call("DELETE", f"/api/v1/namespaces/default/events/{name_of(made)}")).code == 200

    async def test_a_bound_pod_is_deleted_in_two_steps(self, kube: Kube, namespace: str, node: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/pods"
        pod = await kube.made(path, simple_pod("p", node=node, grace_seconds=60))
        other = {"preconditions": {"uid": "11111111-2222-3333-4444-555555555555"}}
        assert (await kube.call("DELETE", f"{path}/p", other)).code == 409
        going = await kube.call("DELETE", f"{path}/p")
        assert going.body["metadata"]["deletionGracePeriodSeconds"] == 60
        assert "deletionTimestamp" in (await kube.call("GET", f"{path}/p")).body["metadata"]
        now = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        assert (await kube.call("DELETE", f"{path}/p", now)).code == 200
        assert (await kube.call("GET", f"{path}/p")).code == 404

    async def test_a_pod_is_bound_once(self, kube: Kube, namespace: str, node: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/pods"
        await kube.made(path, simple_pod("p") | {"spec": {**simple_pod("p")["spec"], "schedulerName": "none"}})
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}}
        binding["target"] = {"apiVersion": "v1", "kind": "Node", "name": node}
        assert (await kube.call("POST", f"{path}/p/binding", binding)).code == 201
        assert (await kube.call("GET", f"{path}/p")).body["spec"]["nodeName"] == node
        assert (await kube.call("POST", f"{path}/p/binding", binding)).code == 409
        await kube.call("DELETE", f"{path}/p", {"gracePeriodSeconds": 0})

    async def test_a_spent_budget_refuses_without_saying_when_to_retry(
        self, kube: Kube, namespace: str, node: str
    ) -> None:
        path = await _ready_pod(kube, namespace, node)
        await _budget(kube, namespace, "b", disruptions=0)
        answer = await kube.call("POST", f"{path}/eviction", _eviction())
        assert (answer.code, answer.body["reason"]) == (429, "TooManyRequests")
        assert answer.body["details"]["causes"][0]["reason"] == "DisruptionBudget"
        assert "retryAfterSeconds" not in answer.body["details"]
        assert "Retry-After" not in answer.headers
        await kube.call("DELETE", path, {"gracePeriodSeconds": 0})

    async def test_a_pod_under_two_budgets_can_never_be_evicted(self, kube: Kube, namespace: str, node: str) -> None:
        path = await _ready_pod(kube, namespace, node)
        for name in ("a", "b"):
            await _budget(kube, namespace, name, disruptions=0)
        answer = await kube.call("POST", f"{path}/eviction", _eviction())
        assert answer.code == 500
        assert "more than one PodDisruptionBudget" in answer.body["message"]
        await kube.call("DELETE", path, {"gracePeriodSeconds": 0})

    async def test_an_eviction_is_a_graceful_delete_of_one_uid(self, kube: Kube, namespace: str, node: str) -> None:
        path = await _ready_pod(kube, namespace, node)
        other = {"preconditions": {"uid": "11111111-2222-3333-4444-555555555555"}}
        assert (await kube.call("POST", f"{path}/eviction", _eviction(other))).code == 409
        untouched = (await kube.call("GET", path)).body
        assert "DisruptionTarget" not in {condition["type"] for condition in untouched["status"]["conditions"]}
        assert (await kube.call("POST", f"{path}/eviction", _eviction())).code == 201
        pod = (await kube.call("GET", path)).body
        assert "deletionTimestamp" in pod["metadata"]
        assert "DisruptionTarget" in {condition["type"] for condition in pod["status"]["conditions"]}
        await kube.call("DELETE", path, {"gracePeriodSeconds": 0})
        assert (await kube.call("POST", f"{path}/eviction", _eviction())).code == 404


async def _ready_pod(kube: Kube, namespace: str, node: str) -> str:
    """The path of a pod that counts as healthy."""
    pods = f"/api/v1/namespaces/{namespace}/pods"
    await kube.made(pods, simple_pod("p", labels={"app": "a"}, node=node))
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    assert (await kube.call("PATCH", f"{pods}/p/status", {"status": status}, STRATEGIC)).code == 200
    return f"{pods}/p"


async def _budget(kube: Kube, namespace: str, name: str, disruptions: int) -> None:
    """A budget over the pod above, once the cluster has counted for it."""
    path = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets"
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}
    await kube.made(path, {"metadata": {"name": name}, "spec": spec})
    async with asyncio.timeout(10):
        while True:
            status = (await kube.call("GET", f"{path}/{name}")).body.get("status", {})
            if status.get("observedGeneration") and status.get("currentHealthy") == 1:
                break
            await asyncio.sleep(0.02)
    assert status["disruptionsAllowed"] == disruptions


def _eviction(options: Object | None = None) -> Object:
    body: Object = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
    return body | ({"deleteOptions": options} if options else {})


@asynccontextmanager
async def _own_namespace(kube: Kube) -> AsyncIterator[str]:
    name = f"warmslice-test-{random_suffix()}"
    await kube.made("/api/v1/namespaces", {"metadata": {"name": name}})
    # Pods cannot be made before their service account is there.
    accounts = f"/api/v1/namespaces/{name}/serviceaccounts"
    async with kube.session.get(kube.url + accounts, params={"watch": "1"}) as response:
        await response.content.readline()
    try:
        yield name
    finally:
        await kube.call("DELETE", f"/api/v1/namespaces/{name}")


@asynccontextmanager
async def _own_node(kube: Kube) -> AsyncIterator[str]:
    name = f"warmslice-test-{random_suffix()}"
    await kube.made("/api/v1/nodes", {"metadata": {"name": name, "labels": {"warmslice.dev/test": "true"}}})
    try:
        yield name
    finally:
        await kube.call("DELETE", f"/api/v1/nodes/{name}")


@pytest_asyncio.fixture
async def namespace(kube: Kube) -> AsyncIterator[str]:
    async with _own_namespace(kube) as name:
        yield name


@pytest_asyncio.fixture
async def node(kube: Kube) -> AsyncIterator[str]:
    async with _own_node(kube) as name:
        yield name


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[DevCluster]:
    async with dev_cluster(tmp_path, bookmark_interval_s=0.05) as running:
        yield running


class TestDevelopmentServer(KubeContract):
    @pytest_asyncio.fixture
    async def kube(self, cluster: DevCluster) -> AsyncIterator[Kube]:
        async with cluster.session("contract") as session:
            yield Kube(cluster.url, session)

    async def test_a_watch_from_a_forgotten_revision_ends_with_410_inside_200(
        self, kube: Kube, cluster: DevCluster, node: str
    ) -> None:
        old = cluster.get(kinds.NODES, node)["metadata"]["resourceVersion"]
        cluster.label_node(node, {"a": "b"})
        cluster.forget_history()
        [event] = await kube.watched("/api/v1/nodes", resourceVersion=old)
        assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")

    async def test_a_watch_from_the_future_is_silent(self, kube: Kube, cluster: DevCluster, node: str) -> None:
        watch = asyncio.create_task(kube.watched("/api/v1/nodes", resourceVersion="100000"))
        cluster.label_node(node, {"a": "b"})
        assert await watch == []

    async def test_a_quiet_watch_gets_bookmarks_only_where_it_asked(self, kube: Kube, cluster: DevCluster) -> None:
        path = "/api/v1/nodes"
        asked, not_asked = await asyncio.gather(
            kube.watched(path, resourceVersion="1", allowWatchBookmarks="true"),
            kube.watched(path, resourceVersion="1"),
        )
        assert {event["type"] for event in asked} == {"BOOKMARK"}
        assert asked[-1]["object"]["metadata"]["resourceVersion"] == str(cluster.api.store.revision)
        assert not_asked == []

    async def test_the_log_tells_who_asked_what(self, kube: Kube, cluster: DevCluster, node: str) -> None:
        await kube.call("GET", f"/api/v1/nodes/{node}")
        [entry] = [r for r in cluster.requests(verb="get", user_agent="contract") if r.path.endswith(node)]
        assert entry.status == 200
        assert entry.bytes_sent > 100
        shown = (await kube.call("GET", "/_dev/requests", since=str(entry.number - 1))).body
        assert shown[0]["path"] == f"/api/v1/nodes/{node}"  # type: ignore[index]

    async def test_faults_strike_the_requests_they_name_and_then_stop(self, kube: Kube, cluster: DevCluster) -> None:
        cluster.inject(Fault(method="GET", path="^/api/v1/nodes", code=429, retry_after=7, skip=1))
        answers = [await kube.call("GET", "/api/v1/nodes") for _ in range(3)]
        assert [answer.code for answer in answers] == [200, 429, 200]
        assert answers[1].headers["Retry-After"] == "7"
        # Twice, since this client repeats a GET of its own accord when a kept connection turns out to be closed.
        await kube.call("POST", "/_dev/faults", {"path": "/api/v1/pods", "reset": True, "count": 2})
        with pytest.raises(aiohttp.ClientError):
            await kube.call("GET", "/api/v1/pods")
        assert (await kube.call("GET", "/api/v1/pods")).code == 200

    async def test_a_watch_can_be_cut_in_the_middle_of_a_line(self, kube: Kube, cluster: DevCluster) -> None:
        for name in ("a", "b"):
            cluster.create(kinds.NODES, bare_node(name))
        cluster.inject(Fault(path="watch=1", cut_after_lines=1))
        async with kube.session.get(f"{kube.url}/api/v1/nodes", params={"watch": "1"}) as response:
            whole = await response.content.readline()
            assert name_of(json.loads(whole)["object"]) == "a"
            with pytest.raises(aiohttp.ClientError):
                await response.content.readline()

    async def test_a_watch_can_fall_silent_or_expire(self, kube: Kube, cluster: DevCluster) -> None:
        for name in ("a", "b"):
            cluster.create(kinds.NODES, bare_node(name))
        cluster.inject(Fault(path="watch=1", error_after_lines=1))
        events = await kube.watched("/api/v1/nodes")
        assert [(event["type"], event["object"].get("code")) for event in events] == [("ADDED", None), ("ERROR", 410)]
        cluster.inject(Fault(path="watch=1", stall_after_lines=1))
        async with kube.session.get(f"{kube.url}/api/v1/nodes", params={"watch": "1"}) as response:
            await response.content.readline()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await response.content.readline()

    async def test_a_restart_breaks_watches_off_and_forgets_the_past(self, kube: Kube, cluster: DevCluster) -> None:
        old = cluster.create(kinds.NODES, bare_node("a"))["metadata"]["resourceVersion"]
        cluster.label_node("a", {"a": "b"})
        async with kube.session.get(f"{kube.url}/api/v1/nodes", params={"watch": "1"}) as response:
            await response.content.readline()
            async with kube.session.post(f"{kube.url}/_dev/restart") as done:
                assert done.status == 204
            with pytest.raises(aiohttp.ClientError):
                await response.content.readline()
        [event] = await kube.watched("/api/v1/nodes", resourceVersion=old)
        assert event["object"]["code"] == 410
        assert (await kube.call("GET", "/api/v1/nodes/a")).body["metadata"]["labels"] == {"a": "b"}

    async def test_faults_can_come_from_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "faults.yaml"
        path.write_text("- {path: /nodes, code: 503, body: <html>, content_type: text/html}\n")
        [fault] = read_faults(path)
        assert (fault.code, fault.body, fault.content_type, fault.count) == (503, "<html>", "text/html", 1)
        path.write_text("- {nonsense: 1}\n")
        with pytest.raises(ValueError, match="nonsense"):
            read_faults(path)


@pytest.mark.cluster
class TestRealCluster(KubeContract):
    @pytest_asyncio.fixture
    async def kube(self) -> AsyncIterator[Kube]:
        async with real_cluster() as (admin, _):
            yield admin
