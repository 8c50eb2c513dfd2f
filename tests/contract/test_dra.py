"""Dynamic Resource Allocation in the control plane: who gets which device, and when it is given back."""

from __future__ import annotations

from typing import Any

import pytest

from hack.devcluster import kinds
from hack.devcluster.api import Api, DeleteOptions
from hack.devcluster.controllers.housekeeping import sync_orphans
from hack.devcluster.controllers.resource_claims import ResourceClaims
from hack.devcluster.dra.claims import FINALIZER
from hack.devcluster.dra.rules import ADMIN_ACCESS_LABEL, MOST_CONSUMERS
from hack.devcluster.kinds import Kind
from hack.devcluster.objects import Object, clone, conditions_of, dig, name_of, uid_of
from hack.devcluster.scheduler import sync_pending_pods
from tests.fakes.devcluster import bare_node
from tests.fakes.dra import (
    DRIVER,
    MIG_CLASS,
    claim,
    claiming_pod,
    device_class,
    mig_device,
    of_profile,
    request,
    resource_slice,
    selectors,
    template,
)

SMALL, LARGE = mig_device("gpu-0-mig-19-4-1"), mig_device("gpu-0-mig-9-0-4", "3g.40gb", memory="40448Mi")
NONE_FITS = (
    "0/1 nodes are available: 1 cannot allocate all claims. still not schedulable, "
    "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
)


class Cluster:
    """API server, scheduler and the claims' controller; ``settle`` lets each of them have its turn."""

    def __init__(self, *nodes: str) -> None:
        self.api = Api()
        self._claims = ResourceClaims()
        self.add(kinds.NAMESPACES, {"metadata": {"name": "default"}})
        self.add(kinds.DEVICE_CLASSES, device_class())
        for node in nodes:
            self.add(kinds.NODES, bare_node(node))

    def add(self, kind: Kind, obj: Object) -> Object:
        return self.api.create(kind, "default" if kind.namespaced else "", obj)

    def settle(self) -> None:
        for _ in range(3):
            self._claims.sync(self.api)
            sync_orphans(self.api)
            sync_pending_pods(self.api)

    def pod(self, name: str) -> Object:
        return self.api.get(kinds.PODS, "default", name)

    def claim(self, name: str) -> Object:
        return self.api.get(kinds.RESOURCE_CLAIMS, "default", name)

    def node_of(self, pod: str) -> str:
        self.settle()
        return str(dig(self.pod(pod), "spec.nodeName", ""))

    def condition(self, pod: str) -> Object:
        self.settle()
        return next((c for c in conditions_of(self.pod(pod)) if c["type"] == "PodScheduled"), {})

    def given(self, claim: str) -> list[str]:
        self.settle()
        return [result["device"] for result in dig(self.claim(claim), "status.allocation.devices.results") or []]

    def finish(self, pod: str) -> None:
        current = clone(self.pod(pod))
        current["status"]["phase"] = "Succeeded"
        self.api.change(kinds.PODS, "default", pod, lambda _: current, subresource="status")
        self.settle()

    def remove(self, kind: Kind, name: str) -> None:
        self.api.delete(kind, "default" if kind.namespaced else "", name, DeleteOptions(grace_seconds=0))
        self.settle()


def cluster_with(*devices: Object, **options: Any) -> Cluster:
    """One node ``a`` with these devices."""
    cluster = Cluster("a")
    cluster.add(kinds.RESOURCE_SLICES, resource_slice("a", devices, **options))
    return cluster


def claimed(cluster: Cluster, name: str, *requests: Object, **devices: Any) -> None:
    """A claim and a pod that uses it, both called ``name``."""
    cluster.add(kinds.RESOURCE_CLAIMS, claim(name, *requests, **devices))
    cluster.add(kinds.PODS, claiming_pod(name, claims=[name]))


def test_a_pod_goes_where_a_device_is_and_the_claim_says_which() -> None:
    cluster = Cluster("a", "b")
    cluster.add(kinds.RESOURCE_SLICES, resource_slice("b", [SMALL, LARGE]))
    claimed(cluster, "p", request("big", selectors=of_profile("3g.40gb")))
    assert cluster.node_of("p") == "b"
    allocation = dig(cluster.claim("p"), "status.allocation")
    assert allocation["devices"]["results"] == [
        {"request": "big", "driver": DRIVER, "pool": "b", "device": "gpu-0-mig-9-0-4"}
    ]
    [term] = allocation["nodeSelector"]["nodeSelectorTerms"]
    assert term == {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}
    assert dig(cluster.claim("p"), "metadata.finalizers") == [FINALIZER]


def test_a_claim_is_reserved_for_the_pod_that_was_placed_with_it() -> None:
    """By the scheduler itself: the claims' controller reserves only for pods that were bound past it."""
    cluster = cluster_with(SMALL)
    claimed(cluster, "p")
    sync_pending_pods(cluster.api)
    consumer = {"resource": "pods", "name": "p", "uid": uid_of(cluster.pod("p"))}
    assert dig(cluster.claim("p"), "status.reservedFor") == [consumer]


def test_a_device_is_given_once() -> None:
    cluster = cluster_with(SMALL)
    claimed(cluster, "first")
    cluster.settle()
    claimed(cluster, "second")
    assert cluster.condition("second") | {"lastTransitionTime": ""} == {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": NONE_FITS,
        "lastTransitionTime": "",
    }
    assert cluster.given("second") == []


def test_two_requests_of_one_claim_get_two_devices_of_one_gpu() -> None:
    cluster = cluster_with(
        mig_device("a-1", parent="GPU-a"), mig_device("b-1", parent="GPU-b"), mig_device("b-2", parent="GPU-b")
    )
    same = [{"matchAttribute": f"{DRIVER}/parentUUID"}]
    claimed(cluster, "p", request("one"), request("two"), constraints=same)
    assert cluster.given("p") == ["b-1", "b-2"]


def test_all_takes_all_or_nothing() -> None:
    cluster = cluster_with(mig_device("one"), mig_device("two"), LARGE)
    small = request(allocationMode="All", selectors=of_profile("1g.10gb"))
    claimed(cluster, "p", small)
    assert cluster.given("p") == ["one", "two"]
    cluster.remove(kinds.PODS, "p")
    claimed(cluster, "q", request(selectors=of_profile("1g.10gb")))
    assert cluster.given("q") == ["one"]
    claimed(cluster, "r", small)
    assert cluster.condition("r")["message"] == NONE_FITS


def test_a_count_is_met_whole() -> None:
    cluster = cluster_with(mig_device("one"), mig_device("two"))
    claimed(cluster, "three", request(count=3))
    assert cluster.condition("three")["message"] == NONE_FITS
    claimed(cluster, "two", request(count=2))
    assert cluster.given("two") == ["one", "two"]


def test_the_first_alternative_that_can_be_had_is_taken() -> None:
    cluster = cluster_with(SMALL)
    alternatives = [
        {"name": "big", "deviceClassName": MIG_CLASS, "selectors": of_profile("3g.40gb")},
        {"name": "small", "deviceClassName": MIG_CLASS, "selectors": of_profile("1g.10gb")},
    ]
    claimed(cluster, "p", {"name": "any", "firstAvailable": alternatives})
    assert cluster.given("p") == ["gpu-0-mig-19-4-1"]
    [result] = dig(cluster.claim("p"), "status.allocation.devices.results")
    assert result["request"] == "any/small"


def test_only_the_newest_generation_of_a_pool_counts() -> None:
    cluster = cluster_with(SMALL, generation=1)
    cluster.add(kinds.RESOURCE_SLICES, resource_slice("a", [LARGE], generation=2))
    claimed(cluster, "gone", request(selectors=of_profile("1g.10gb")))
    assert cluster.condition("gone")["message"] == NONE_FITS
    claimed(cluster, "there")
    assert cluster.given("there") == ["gpu-0-mig-9-0-4"]


def test_a_pool_with_a_slice_missing_gives_counts_but_not_all() -> None:
    cluster = cluster_with(SMALL, LARGE, count=2)
    claimed(cluster, "all", request(allocationMode="All"))
    condition = cluster.condition("all")
    assert condition["reason"] == "SchedulerError"
    assert condition["message"] == (
        'running "DynamicResources" filter plugin: claim default/all, request slice: '
        f"asks for all devices, but resource pool {DRIVER}/a is currently being updated"
    )
    claimed(cluster, "one")
    assert cluster.given("one") == ["gpu-0-mig-19-4-1"]


def test_nothing_is_taken_from_a_pool_with_a_name_twice() -> None:
    cluster = cluster_with(SMALL, count=2, name="a-1")
    cluster.add(kinds.RESOURCE_SLICES, resource_slice("a", [SMALL], count=2, name="a-2"))
    claimed(cluster, "p")
    assert "is invalid: duplicate device name gpu-0-mig-19-4-1" in cluster.condition("p")["message"]


def test_devices_that_draw_on_the_same_memory_slice_exclude_each_other() -> None:
    def drawing(name: str, *slices: int) -> Object:
        counters = {f"memory-slice-{number}": {"value": "1"} for number in slices}
        return mig_device(name, consumesCounters=[{"counterSet": "gpu-0", "counters": counters}])

    shared = [{"name": "gpu-0", "counters": {f"memory-slice-{number}": {"value": "1"} for number in range(2)}}]
    cluster = cluster_with(drawing("whole", 0, 1), drawing("left", 0), drawing("right", 1), sharedCounters=shared)
    claimed(cluster, "p", request(selectors=selectors("device.attributes['gpu.nvidia.com'].uuid == 'MIG-left'")))
    assert cluster.given("p") == ["left"]
    claimed(cluster, "q")
    assert cluster.given("q") == ["right"]


@pytest.mark.parametrize(
    ("expression", "device"),
    [
        ("device.capacity['gpu.nvidia.com'].memory.compareTo(quantity('10Gi')) >= 0", "gpu-0-mig-9-0-4"),
        ("device.capacity['gpu.nvidia.com'].memory.isLessThan(quantity('10Gi'))", "gpu-0-mig-19-4-1"),
        ("device.attributes['gpu.nvidia.com'].profile.startsWith('3g')", "gpu-0-mig-9-0-4"),
        ("!('slot' in device.attributes['other.example.com'])", "gpu-0-mig-19-4-1"),
    ],
)
def test_a_selector_reads_attributes_and_capacities(expression: str, device: str) -> None:
    cluster = cluster_with(SMALL, LARGE)
    claimed(cluster, "p", request(selectors=selectors(expression)))
    assert cluster.given("p") == [device]


def test_a_selector_that_fails_is_an_error_and_not_a_no() -> None:
    cluster = cluster_with(SMALL)
    claimed(cluster, "p", request(selectors=selectors("device.attributes['gpu.nvidia.com'].color == 'green'")))
    condition = cluster.condition("p")
    assert condition["reason"] == "SchedulerError"
    assert "claim default/p, request slice: selector #0: runtime error:" in condition["message"]


def test_a_class_that_is_not_there_is_named() -> None:
    cluster = cluster_with(SMALL)
    claimed(cluster, "p", request(deviceClassName="vfio.nvidia.com"))
    said = "0/1 nodes are available: request slice: device class vfio.nvidia.com does not exist. no new claims"
    assert cluster.condition("p")["message"].startswith(said)
    cluster.add(kinds.DEVICE_CLASSES, device_class("vfio.nvidia.com", "true"))
    assert cluster.node_of("p") == "a"


def test_a_pod_whose_claim_is_missing_waits_without_a_word() -> None:
    cluster = cluster_with(SMALL)
    cluster.add(kinds.PODS, claiming_pod("p", claims=["later"]))
    assert cluster.condition("p") == {}
    cluster.add(kinds.RESOURCE_CLAIMS, claim("later"))
    assert cluster.node_of("p") == "a"


def test_pods_that_share_a_claim_share_its_device_and_node() -> None:
    cluster = Cluster("a", "b")
    cluster.add(kinds.RESOURCE_SLICES, resource_slice("b", [SMALL]))
    claimed(cluster, "p")
    assert cluster.node_of("p") == "b"
    cluster.add(kinds.PODS, claiming_pod("q", claims=["p"]))
    assert cluster.node_of("q") == "b"
    assert {consumer["name"] for consumer in dig(cluster.claim("p"), "status.reservedFor")} == {"p", "q"}


def test_an_unused_allocation_elsewhere_is_given_up_for_a_pod_that_cannot_go_there() -> None:
    cluster = Cluster("a", "b")
    for node in ("a", "b"):
        cluster.add(kinds.RESOURCE_SLICES, resource_slice(node, [mig_device(f"of-{node}")]))
    elsewhere = claim("shared")
    cluster.add(kinds.RESOURCE_CLAIMS, elsewhere)
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]
    held = {"devices": {"results": [{"request": "slice", "driver": DRIVER, "pool": "a", "device": "of-a"}]}}
    given = {**cluster.claim("shared"), "status": {"allocation": held | {"nodeSelector": {"nodeSelectorTerms": terms}}}}
    cluster.api.update(kinds.RESOURCE_CLAIMS, "default", "shared", given, subresource="status")
    cluster.api.patch(kinds.NODES, "", "a", "application/merge-patch+json", {"spec": {"unschedulable": True}})
    cluster.add(kinds.PODS, claiming_pod("p", claims=["shared"]))
    assert cluster.node_of("p") == "b"
    assert cluster.given("shared") == ["of-b"]


def test_an_administrators_claim_looks_into_a_device_and_takes_it_from_nobody() -> None:
    """As a monitoring pod does: the claim is allocated like any other."""
    cluster = cluster_with(SMALL)
    cluster.api.patch(
        kinds.NAMESPACES, "", "default", "application/merge-patch+json",
        {"metadata": {"labels": {ADMIN_ACCESS_LABEL: "true"}}},
    )  # fmt: skip
    claimed(cluster, "first")
    cluster.settle()
    watching = request(allocationMode="All", adminAccess=True)
    for name in ("dcgm-1", "dcgm-2"):
        claimed(cluster, name, watching)
        assert cluster.given(name) == ["gpu-0-mig-19-4-1"]
    cluster.remove(kinds.PODS, "first")
    claimed(cluster, "next")
    assert cluster.given("next") == ["gpu-0-mig-19-4-1"]


def test_a_pod_bound_past_the_scheduler_gets_a_share_of_what_is_allocated() -> None:
    cluster = cluster_with(SMALL)
    claimed(cluster, "p")
    cluster.settle()
    cluster.add(kinds.PODS, claiming_pod("bound", claims=["p"], node="a"))
    cluster.settle()
    assert {consumer["name"] for consumer in dig(cluster.claim("p"), "status.reservedFor")} == {"p", "bound"}


def test_a_claim_has_so_many_consumers_and_no_more() -> None:
    cluster = cluster_with(SMALL)
    claimed(cluster, "p")
    sync_pending_pods(cluster.api)
    crowded = clone(cluster.claim("p"))
    crowded["status"]["reservedFor"] = [
        {"resource": "pods", "name": f"pod-{number}", "uid": str(number)} for number in range(MOST_CONSUMERS)
    ]
    cluster.api.update(kinds.RESOURCE_CLAIMS, "default", "p", crowded, subresource="status")
    cluster.add(kinds.PODS, claiming_pod("late", claims=["p"]))
    sync_pending_pods(cluster.api)
    [condition] = conditions_of(cluster.pod("late"))
    assert condition["message"].startswith("0/1 nodes are available: resourceclaim in use. no new claims to deallocate")


def test_the_last_consumers_end_gives_the_device_back() -> None:
    cluster = cluster_with(SMALL)
    claimed(cluster, "p")
    cluster.settle()
    cluster.finish("p")
    kept = cluster.claim("p")
    assert dig(kept, "status.allocation") is None
    assert dig(kept, "status.reservedFor") is None
    assert not dig(kept, "metadata.finalizers")
    claimed(cluster, "q")
    assert cluster.given("q") == ["gpu-0-mig-19-4-1"]


def test_an_allocated_claim_outlives_its_deletion_until_nobody_uses_it() -> None:
    cluster = cluster_with(SMALL)
    claimed(cluster, "p")
    cluster.settle()
    cluster.remove(kinds.RESOURCE_CLAIMS, "p")
    assert dig(cluster.claim("p"), "metadata.deletionTimestamp")
    cluster.remove(kinds.PODS, "p")
    assert cluster.api.find(kinds.RESOURCE_CLAIMS, "default", "p") is None


def test_a_template_gives_each_pod_a_claim_of_its_own_that_goes_with_it() -> None:
    cluster = cluster_with(SMALL, LARGE)
    cluster.add(kinds.CLAIM_TEMPLATES, template("any"))
    for name in ("p", "q"):
        cluster.add(kinds.PODS, claiming_pod(name, template="any"))
    assert cluster.node_of("p") == cluster.node_of("q") == "a"
    [made] = dig(cluster.pod("p"), "status.resourceClaimStatuses")
    assert made["name"] == "gpu"
    assert made["resourceClaimName"].startswith("p-gpu-")
    own = cluster.claim(made["resourceClaimName"])
    assert dig(own, "metadata.ownerReferences")[0]["uid"] == uid_of(cluster.pod("p"))
    cluster.remove(kinds.PODS, "p")
    left = [name_of(each) for each in cluster.api.all(kinds.RESOURCE_CLAIMS)]
    assert left == [dig(cluster.pod("q"), "status.resourceClaimStatuses")[0]["resourceClaimName"]]


def test_a_generated_claim_is_gone_when_its_pod_has_ended() -> None:
    cluster = cluster_with(SMALL)
    cluster.add(kinds.CLAIM_TEMPLATES, template("any"))
    cluster.add(kinds.PODS, claiming_pod("p", template="any"))
    cluster.settle()
    cluster.finish("p")
    assert cluster.api.all(kinds.RESOURCE_CLAIMS) == []


def test_a_missing_template_is_said_once() -> None:
    cluster = cluster_with(SMALL)
    cluster.add(kinds.PODS, claiming_pod("p", template="any"))
    cluster.settle()
    [event] = [e for e in cluster.api.all(kinds.EVENTS) if e["reason"] == "FailedResourceClaimCreation"]
    assert event["message"] == 'PodResourceClaim gpu: resourceclaimtemplates.resource.k8s.io "any" not found'


def test_slices_go_with_their_node() -> None:
    cluster = Cluster("a")
    node = cluster.api.get(kinds.NODES, "", "a")
    owner = {"apiVersion": "v1", "kind": "Node", "name": "a", "uid": uid_of(node), "controller": True}
    owned = resource_slice("a", [SMALL])
    owned["metadata"]["ownerReferences"] = [owner]
    cluster.add(kinds.RESOURCE_SLICES, owned)
    cluster.settle()
    assert len(cluster.api.all(kinds.RESOURCE_SLICES)) == 1
    cluster.remove(kinds.NODES, "a")
    assert cluster.api.all(kinds.RESOURCE_SLICES) == []
