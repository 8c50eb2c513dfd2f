"""Pools of devices, put together from the ResourceSlices that can be reached from a node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hack.devcluster.dra.selectors import cel_device
from hack.devcluster.objects import Object, dig, name_of
from hack.devcluster.quantities import parse_quantity
from hack.devcluster.scheduling import matches_node_terms

Counter = tuple[str, str]  # (counter set, counter)


@dataclass(frozen=True, slots=True, order=True)
class DeviceId:
    """What a device is called in the whole cluster."""

    driver: str
    pool: str
    name: str

    @classmethod
    def of_result(cls, result: Object) -> DeviceId:
        """Of one entry of a claim's ``status.allocation.devices.results``."""
        return cls(result["driver"], result["pool"], result["device"])

    def __str__(self) -> str:
        return f"{self.driver}/{self.pool}/{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Device:
    """``body`` as it stands in its slice, ``slice_spec``: what else that slice says."""

    id: DeviceId
    body: Object
    slice_spec: Object
    as_cel: Any

    def attribute(self, qualified: str) -> Object | None:
        """``DOMAIN/NAME``; the driver's own names may be written without their domain."""
        attributes: Object = self.body.get("attributes") or {}
        domain, _, name = qualified.rpartition("/")
        own: Object | None = attributes.get(name) if domain == self.id.driver else None
        return attributes.get(qualified, own)

    def consumption(self) -> dict[Counter, Decimal]:
        return {
            (use["counterSet"], name): parse_quantity(counter["value"])
            for use in self.body.get("consumesCounters") or []
            for name, counter in use["counters"].items()
        }


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The slices of the newest generation only. ``is_complete``: as many as each of them says there are."""

    driver: str
    name: str
    devices: Sequence[Device]
    counters: Mapping[Counter, Decimal]
    is_complete: bool

    def __str__(self) -> str:
        return f"{self.driver}/{self.name}"

    def repeated_name(self) -> str:
        """A pool with a device name twice is not valid: nobody can tell which was meant. '' where all is well."""
        seen: set[str] = set()
        for device in self.devices:
            if device.id.name in seen:
                return device.id.name
            seen.add(device.id.name)
        return ""


def pools_of(slices: Iterable[Object], node: Object) -> list[Pool]:
    """Sorted by name, and the slices of a pool by theirs (a choice: the real order is not promised)."""
    newest: dict[tuple[str, str], list[Object]] = {}
    for slice_ in sorted(slices, key=name_of):
        spec = slice_["spec"]
        if not _reaches(spec, node):
            continue
        together = newest.setdefault((spec["driver"], spec["pool"]["name"]), [])
        known = _generation(together[0]["spec"]) if together else -1
        if _generation(spec) > known:
            together.clear()
        if _generation(spec) >= known:
            together.append(slice_)
    return [_pool(driver, name, together) for (driver, name), together in sorted(newest.items())]


def _reaches(spec: Object, node: Object) -> bool:
    if spec.get("nodeName"):
        return bool(spec["nodeName"] == name_of(node))
    if spec.get("nodeSelector"):
        return matches_node_terms(spec["nodeSelector"].get("nodeSelectorTerms") or [], node)
    return bool(spec.get("allNodes"))


def _generation(spec: Object) -> int:
    return int(dig(spec, "pool.generation", 0))


def _pool(driver: str, name: str, slices: Sequence[Object]) -> Pool:
    devices = [
        Device(DeviceId(driver, name, body["name"]), body, slice_["spec"], cel_device(driver, body))
        for slice_ in slices
        for body in slice_["spec"].get("devices") or []
    ]
    counters = {
        (each["name"], counter): parse_quantity(amount["value"])
        for slice_ in slices
        for each in slice_["spec"].get("sharedCounters") or []
        for counter, amount in each["counters"].items()
    }
    promised = int(dig(slices[0]["spec"], "pool.resourceSliceCount", 1))
    return Pool(driver, name, devices, counters, len(slices) == promised)
