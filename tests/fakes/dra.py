"""Objects of Dynamic Resource Allocation, small enough to read in a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hack.devcluster.objects import Object
from tests.fakes.devcluster import simple_pod

DRIVER = "gpu.nvidia.com"
MIG_CLASS = "mig.nvidia.com"


def mig_device(
    name: str, profile: str = "1g.10gb", parent: str = "GPU-a", memory: str = "9856Mi", **more: Any
) -> Object:
    """As NVIDIA's driver describes a slice, a few attributes left out. ``more`` goes into the device as it is."""
    attributes = {"type": "mig", "uuid": f"MIG-{name}", "parentUUID": parent, "profile": profile}
    return {
        "name": name,
        "attributes": {key: {"string": value} for key, value in attributes.items()},
        "capacity": {"memory": {"value": memory}},
        **more,
    }


def resource_slice(
    node: str, devices: Sequence[Object], *, generation: int = 1, count: int = 1, name: str = "", **more: Any
) -> Object:
    pool = {"name": node, "generation": generation, "resourceSliceCount": count}
    return {
        "metadata": {"name": name or f"{node}-{DRIVER}-{generation}"},
        "spec": {"driver": DRIVER, "nodeName": node, "pool": pool, "devices": list(devices), **more},
    }


def device_class(name: str = MIG_CLASS, *expressions: str) -> Object:
    chosen = expressions or (f"device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].type == 'mig'",)
    return {"metadata": {"name": name}, "spec": {"selectors": selectors(*chosen)}}


def selectors(*expressions: str) -> list[Object]:
    return [{"cel": {"expression": expression}} for expression in expressions]


def of_profile(profile: str) -> list[Object]:
    return selectors(f"device.attributes['{DRIVER}'].profile == '{profile}'")


def request(name: str = "slice", **exactly: Any) -> Object:
    return {"name": name, "exactly": {"deviceClassName": MIG_CLASS, **exactly}}


def claim(name: str, *requests: Object, **devices: Any) -> Object:
    return {"metadata": {"name": name}, "spec": {"devices": {"requests": list(requests or [request()]), **devices}}}


def template(name: str, *requests: Object) -> Object:
    return {"metadata": {"name": name}, "spec": {"spec": claim("", *requests)["spec"]}}


def claiming_pod(name: str, *, claims: Sequence[str] = (), template: str = "", **options: Any) -> Object:
    """Its one container uses all its claims."""
    pod = simple_pod(name, **options)
    entries: list[Mapping[str, str]] = [{"name": each, "resourceClaimName": each} for each in claims]
    if template:
        entries.append({"name": "gpu", "resourceClaimTemplateName": template})
    pod["spec"]["resourceClaims"] = entries
    pod["spec"]["containers"][0]["resources"]["claims"] = [{"name": entry["name"]} for entry in entries]
    return pod
