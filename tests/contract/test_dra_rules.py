"""What the API server refuses and fills in of the kinds of Dynamic Resource Allocation."""

from __future__ import annotations

import pytest

from hack.devcluster import kinds
from hack.devcluster.api import Api
from hack.devcluster.errors import ApiError
from hack.devcluster.kinds import Kind
from hack.devcluster.objects import Object, clone
from hack.devcluster.selectors import parse_selection
from hack.devcluster.table import table
from tests.fakes.dra import claim, mig_device, request, resource_slice, selectors

SMALL = mig_device("gpu-0-mig-19-4-1")


def server() -> Api:
    api = Api()
    api.create(kinds.NAMESPACES, "", {"metadata": {"name": "default"}})
    return api


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("spec.devices[1].name", resource_slice("a", [SMALL, SMALL])),
        ("spec.devices[0].name", resource_slice("a", [mig_device("GPU.0")])),
        ("spec.pool.resourceSliceCount", resource_slice("a", [SMALL], count=0)),
        ("spec.pool.generation", resource_slice("a", [SMALL], generation=-1, name="a")),
        ("spec", resource_slice("a", [SMALL], allNodes=True)),
        (
            "spec.devices[0].consumesCounters",
            resource_slice("a", [mig_device("m", consumesCounters=[{"counterSet": "x"}])]),
        ),
    ],
)
def test_a_slice_that_makes_no_sense_is_refused(field: str, bad: Object) -> None:
    with pytest.raises(ApiError) as refused:
        server().create(kinds.RESOURCE_SLICES, "", bad)
    assert refused.value.code == 422
    assert field in {cause["field"] for cause in refused.value.details["causes"]}


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("spec.devices.requests[0]", claim("c", {"name": "r"})),
        ("spec.devices.requests[0].exactly.count", claim("c", request(allocationMode="All", count=2))),
        (
            "spec.devices.requests[0].exactly.selectors[0].cel.expression",
            claim("c", request(selectors=selectors("device."))),
        ),
        ("spec.devices.requests[0].exactly.adminAccess", claim("c", request(adminAccess=True))),
        ("spec.devices.requests[1].name", claim("c", request("r"), request("r"))),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused(field: str, bad: Object) -> None:
    with pytest.raises(ApiError) as refused:
        server().create(kinds.RESOURCE_CLAIMS, "default", bad)
    assert refused.value.code == 422
    assert field in {cause["field"] for cause in refused.value.details["causes"]}


def test_a_claims_wish_is_fixed_and_its_count_filled_in() -> None:
    api = server()
    made = clone(api.create(kinds.RESOURCE_CLAIMS, "default", claim("c")))
    [asked] = made["spec"]["devices"]["requests"]
    assert (asked["exactly"]["allocationMode"], asked["exactly"]["count"]) == ("ExactCount", 1)
    asked["exactly"]["count"] = 2
    with pytest.raises(ApiError, match="field is immutable"):
        api.update(kinds.RESOURCE_CLAIMS, "default", "c", made)


def test_nobody_reserves_what_is_not_allocated() -> None:
    api = server()
    made = clone(api.create(kinds.RESOURCE_CLAIMS, "default", claim("c")))
    made["status"] = {"reservedFor": [{"resource": "pods", "name": "p", "uid": "1"}]}
    with pytest.raises(ApiError, match="may not be specified when `allocated` is not set"):
        api.update(kinds.RESOURCE_CLAIMS, "default", "c", made, subresource="status")


def test_slices_are_selected_by_node_and_driver() -> None:
    api = server()
    for node in ("a", "b"):
        api.create(kinds.RESOURCE_SLICES, "", resource_slice(node, [SMALL]))
    wanted = parse_selection(kinds.RESOURCE_SLICES, "", "spec.nodeName=b,spec.driver=gpu.nvidia.com")
    [found] = api.all(kinds.RESOURCE_SLICES, "", wanted)
    assert found["spec"]["nodeName"] == "b"


def test_a_slice_stays_with_its_node_and_counts_its_changes() -> None:
    api = server()
    made = clone(api.create(kinds.RESOURCE_SLICES, "", resource_slice("a", [SMALL])))
    made["spec"]["devices"] = []
    again = clone(api.update(kinds.RESOURCE_SLICES, "", made["metadata"]["name"], made))
    assert again["metadata"]["generation"] == 2
    again["spec"]["nodeName"] = "b"
    with pytest.raises(ApiError, match="field is immutable"):
        api.update(kinds.RESOURCE_SLICES, "", made["metadata"]["name"], again)


def test_kubectl_shows_where_a_slice_is_and_how_a_claim_stands() -> None:
    def cells(kind: Kind, obj: Object) -> list[str]:
        """Without name and age."""
        shown: list[str] = table(kind, [obj], {})["rows"][0]["cells"][1:-1]
        return shown

    api = server()
    slice_ = api.create(kinds.RESOURCE_SLICES, "", resource_slice("a", [SMALL]))
    assert cells(kinds.RESOURCE_SLICES, slice_) == ["a", "gpu.nvidia.com", "a"]
    made = clone(api.create(kinds.RESOURCE_CLAIMS, "default", claim("c")))
    assert cells(kinds.RESOURCE_CLAIMS, made) == ["pending"]
    made["status"] = {"allocation": {"devices": {}}, "reservedFor": [{"resource": "pods", "name": "p", "uid": "1"}]}
    assert cells(kinds.RESOURCE_CLAIMS, made) == ["allocated,reserved"]
    made["metadata"]["deletionTimestamp"] = made["metadata"]["creationTimestamp"]
    assert cells(kinds.RESOURCE_CLAIMS, made) == ["deleted,allocated,reserved"]
