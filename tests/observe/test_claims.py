"""ResourceSlices and ResourceClaims as NVIDIA's DRA driver and the scheduler write them."""

from __future__ import annotations

from typing import Any

import pytest

from agent.model.errors import GoneError, RetryError
from agent.model.node import DeviceOwner, Offers
from agent.observe.claims import Claims, offers_of
from agent.observe.cluster import pod_of
from tests.fakes.dra import mig_device, resource_slice

DRIVER = "gpu.nvidia.com"


def test_the_newest_generation_of_a_pool_counts_once_it_is_all_there() -> None:
    old = resource_slice("a", [mig_device("gone")], generation=1)
    new = [resource_slice("a", [mig_device(name)], generation=2, count=2) for name in ("one", "two")]
    assert offers_of([old, new[0]]) == Offers({"a/one": "MIG-one"}, whole=False)
    assert offers_of([old, *new]) == Offers({"a/one": "MIG-one", "a/two": "MIG-two"})


def test_older_versions_of_the_api_say_the_same_one_floor_down_and_names_may_be_qualified() -> None:
    device = mig_device("one")
    qualified = {f"{DRIVER}/{name}": value for name, value in device["attributes"].items()}
    for written in (
        {"name": "one", "basic": {"attributes": device["attributes"]}},
        {"name": "one", "attributes": qualified},
    ):
        assert offers_of([resource_slice("a", [written])]) == Offers({"a/one": "MIG-one"})


def test_devices_of_other_drivers_and_gpus_for_virtual_machines_are_not_slices() -> None:
    other = resource_slice("a", [mig_device("nic")])
    other["spec"]["driver"] = "nic.example.com"
    vfio = mig_device("vfio")
    vfio["attributes"]["type"] = {"string": "vfio"}
    assert offers_of([other, resource_slice("a", [vfio])]) == Offers({})


class Api:
    """The API server's claims; ``asked`` are the names."""

    def __init__(self, **claims: Any) -> None:
        self.claims = claims
        self.asked: list[str] = []

    async def slices(self) -> tuple[Any, ...] | None:
        return (resource_slice("a", [mig_device("one"), mig_device("two")]),)

    def rest(self) -> None:
        return

    async def claim(self, namespace: str, name: str) -> Any:
        self.asked.append(name)
        found = self.claims[name]
        if isinstance(found, Exception):
            raise found
        return found


def _allocated(*devices: str, to: str = "p-uid", driver: str = DRIVER) -> Any:
    results = [{"request": "r", "driver": driver, "pool": "a", "device": device} for device in devices]
    return {"status": {"allocation": {"devices": {"results": results}}, "reservedFor": [{"name": "p", "uid": to}]}}


def _pod(**status: Any) -> Any:
    """It uses one claim by name, one of a template; a third is used by no container."""
    spec = {
        "resourceClaims": [
            {"name": "by-name", "resourceClaimName": "named"},
            {"name": "by-template", "resourceClaimTemplateName": "t"},
            {"name": "unused", "resourceClaimName": "unused"},
        ],
        "containers": [{"name": "main", "resources": {"claims": [{"name": "by-name"}]}}],
        "initContainers": [{"name": "init", "resources": {"claims": [{"name": "by-template"}]}}],
    }
    made = [{"name": "by-template", "resourceClaimName": "p-by-template-x"}]
    metadata = {"namespace": "default", "name": "p", "uid": "p-uid"}
    return pod_of(
        {"metadata": metadata, "spec": spec, "status": {"phase": "Pending", "resourceClaimStatuses": made, **status}}
    )


def test_a_pods_claims_are_those_its_containers_use_and_that_of_an_extended_resource() -> None:
    assert _pod().claims == {"named", "p-by-template-x"}
    assert "p-ext" in _pod(extendedResourceClaimStatus={"resourceClaimName": "p-ext"}).claims


async def test_what_the_kubelet_does_not_list_the_claims_tell_and_each_is_read_once() -> None:
    api = Api(**{"named": _allocated("one"), "p-by-template-x": _allocated("eth0", driver="nic.example.com")})
    claims, pods = Claims(api), (_pod(),)
    for _ in range(2):
        offers = await claims.offers(pods)
        owners = await claims.owners((), pods, offers)
        assert owners == (DeviceOwner("default", "p", "", DRIVER, ("MIG-one",), claim="named"),)
    assert sorted(api.asked) == ["named", "p-by-template-x"]


async def test_of_what_the_kubelet_lists_no_claim_is_read() -> None:
    told = tuple(
        DeviceOwner("default", "p", "main", driver, claim=name, claimed=claimed)
        for driver, name, claimed in (
            (DRIVER, "named", ("a/two", "a/nobody-knows")),
            ("nic.example.com", "p-by-template-x", ()),
        )
    )
    api, pods = Api(), (_pod(),)
    claims = Claims(api)
    slices, nic = await claims.owners(told, pods, await claims.offers(pods))
    assert (slices.devices, slices.claimed) == (("MIG-two",), ("a/nobody-knows",))
    assert (slices.of_gpus, nic.of_gpus) == (True, False)
    assert api.asked == []


@pytest.mark.parametrize(
    "found",
    [GoneError("404"), RetryError("503"), {"status": {}}, _allocated("one", to="another-uid")],
    ids=["gone", "unreachable", "not allocated", "reserved for another"],
)
async def test_a_claim_that_does_not_say_it_yet_may_be_any_slice_and_is_read_again(found: Any) -> None:
    api, pods = Api(**{"named": found, "p-by-template-x": _allocated()}), (_pod(),)
    claims = Claims(api)
    for _ in range(2):
        [owner] = await claims.owners((), pods, await claims.offers(pods))
        assert owner.unread
    assert api.asked.count("named") == 2


async def test_without_driver_and_claims_nothing_is_asked_for() -> None:
    plain = pod_of(
        {"metadata": {"namespace": "default", "name": "q", "uid": "u"}, "spec": {"containers": [{"name": "main"}]}}
    )
    api = Api()
    claims = Claims(api)
    assert await claims.offers((plain,)) is None
    assert await claims.owners((), (plain,), None) == ()
    assert api.asked == []


@pytest.mark.parametrize("chart", ["nvidia-dra-driver-gpu", "dra-driver-nvidia-gpu"])
def test_the_driver_is_known_by_its_charts_labels_and_the_container_that_offers_gpus(chart: str) -> None:
    def driver(container: str, owner: str = "DaemonSet") -> bool:
        metadata = {
            "namespace": chart,
            "name": "x",
            "uid": "u",
            "labels": {f"{chart}-component": "kubelet-plugin", "app.kubernetes.io/name": chart},
            "ownerReferences": [{"kind": owner, "name": "x", "controller": True}],
        }
        return pod_of({"metadata": metadata, "spec": {"containers": [{"name": container}]}}).dra_driver

    assert driver("gpus")
    assert not driver("compute-domains"), "it offers no GPU: the device plugin does"
    assert not driver("gpus", owner="ReplicaSet")
