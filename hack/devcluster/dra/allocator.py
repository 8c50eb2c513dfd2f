"""Which devices a node can give to claims: the first that fit, tried in order with a way back, as the real allocator.

A device is given once in the whole cluster, and what it draws on shared counters (memory slices of a GPU, say) must be
left over by the others of its pool. A count of devices may come from a pool of which slices are still missing; ``All``
waits until the pool is complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal

from hack.devcluster.admission.expressions import ExpressionError
from hack.devcluster.dra.pools import Counter, Device, DeviceId, Pool
from hack.devcluster.dra.selectors import selects
from hack.devcluster.objects import Object, dig, name_of, namespace_of

_MOST_RESULTS = 32
_MOST_STEPS = 100_000


class AllocationError(Exception):
    """Something is wrong with a claim or a pool, so that no room anywhere would help."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, or one alternative of a request (then ``name`` is ``request/alternative``)."""

    claim: Object
    name: str
    body: Object
    device_class: Object

    @property
    def wants_all(self) -> bool:
        return bool(self.body.get("allocationMode") == "All")

    @property
    def is_admin(self) -> bool:
        return bool(self.body.get("adminAccess"))

    def __str__(self) -> str:
        return f"claim {namespace_of(self.claim)}/{name_of(self.claim)}, request {self.name}"


@dataclass(frozen=True, slots=True)
class Pick:
    ask: Ask
    device: Device


def asks_of(claim: Object, request: Object, classes: Mapping[str, Object]) -> list[Ask]:
    """The request's alternatives, best first. KeyError for a device class that is not there."""
    if request.get("exactly") is not None:
        exactly = request["exactly"]
        return [Ask(claim, request["name"], exactly, classes[exactly["deviceClassName"]])]
    return [
        Ask(claim, f"{request['name']}/{each['name']}", each, classes[each["deviceClassName"]])
        for each in request.get("firstAvailable") or []
    ]


class Allocator:
    """For one node. ``taken``: what other claims hold."""

    def __init__(self, pools: Sequence[Pool], classes: Mapping[str, Object], taken: AbstractSet[DeviceId]) -> None:
        self._classes = classes
        self._pools = pools
        self._held = set(taken)
        self._left = {str(pool): _left_of(pool, taken) for pool in pools}
        self._pool_of = {device.id: pool for pool in pools for device in pool.devices}
        self._picks: list[Pick] = []
        self._selected: dict[tuple[str, DeviceId], bool] = {}
        self._steps = 0

    def allocate(self, claims: Sequence[Object]) -> list[Pick] | None:
        """For all claims together or for none. Raises AllocationError."""
        requests = [
            asks_of(claim, request, self._classes)
            for claim in claims
            for request in dig(claim, "spec.devices.requests") or []
        ]
        return list(self._picks) if self._serve(requests) else None

    def _serve(self, requests: Sequence[Sequence[Ask]]) -> bool:
        if not requests:
            return True
        return any(self._serve_one(ask, requests[1:]) for ask in requests[0])

    def _serve_one(self, ask: Ask, later: Sequence[Sequence[Ask]]) -> bool:
        if not ask.wants_all:
            return self._fill(ask, self._devices(), int(ask.body.get("count", 1)), later)
        for pool in self._pools:
            if not pool.is_complete:
                raise AllocationError(
                    f"{ask}: asks for all devices, but resource pool {pool} is currently being updated"
                )
        every = [device for device in self._devices() if self._is_selected(ask, device)]
        return bool(every) and self._fill(ask, every, len(every), later)

    def _fill(self, ask: Ask, devices: Sequence[Device], missing: int, later: Sequence[Sequence[Ask]]) -> bool:
        """Devices of one request are alike, so each set of them is tried in one order only."""
        if missing == 0:
            return self._serve(later)
        for position, device in enumerate(devices[: len(devices) - missing + 1]):
            self._count_step()
            if not self._is_selected(ask, device) or not self._may_take(ask, device):
                continue
            self._take(ask, device)
            if self._fill(ask, devices[position + 1 :], missing - 1, later):
                return True
            self._give_back()
        return False

    def _count_step(self) -> None:
        """The real one gives up after 10 s."""
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise AllocationError("timed out trying to allocate devices")

    def _devices(self) -> list[Device]:
        return [device for pool in self._pools for device in pool.devices]

    def _is_selected(self, ask: Ask, device: Device) -> bool:
        key = (str(ask), device.id)
        if key not in self._selected:
            if repeated := self._pool_of[device.id].repeated_name():
                why = f"pool {self._pool_of[device.id]} is invalid: duplicate device name {repeated}"
                raise AllocationError(why)
            self._selected[key] = _matches(ask, device)
        return self._selected[key]

    def _may_take(self, ask: Ask, device: Device) -> bool:
        if sum(pick.ask.claim is ask.claim for pick in self._picks) >= _MOST_RESULTS:
            return False
        if not all(self._is_alike(ask, device, constraint) for constraint in _constraints(ask)):
            return False
        if ask.is_admin:
            return True
        left = self._left[str(self._pool_of[device.id])]
        return device.id not in self._held and all(
            left.get(counter, Decimal(0)) >= amount for counter, amount in device.consumption().items()
        )

    def _is_alike(self, ask: Ask, device: Device, constraint: Object) -> bool:
        """``matchAttribute``: all devices that the constraint is about have the same value."""
        name = str(constraint["matchAttribute"])
        value = device.attribute(name)
        return value is not None and all(
            pick.device.attribute(name) == value
            for pick in self._picks
            if pick.ask.claim is ask.claim and _is_about(constraint, pick.ask)
        )

    def _take(self, ask: Ask, device: Device) -> None:
        self._picks.append(Pick(ask, device))
        if not ask.is_admin:
            self._held.add(device.id)
            self._draw(device, 1)

    def _give_back(self) -> None:
        pick = self._picks.pop()
        if not pick.ask.is_admin:
            self._held.discard(pick.device.id)
            self._draw(pick.device, -1)

    def _draw(self, device: Device, times: int) -> None:
        left = self._left[str(self._pool_of[device.id])]
        for counter, amount in device.consumption().items():
            left[counter] = left.get(counter, Decimal(0)) - times * amount


def _left_of(pool: Pool, taken: AbstractSet[DeviceId]) -> dict[Counter, Decimal]:
    left = dict(pool.counters)
    for device in pool.devices:
        if device.id in taken:
            for counter, amount in device.consumption().items():
                left[counter] = left.get(counter, Decimal(0)) - amount
    return left


def _matches(ask: Ask, device: Device) -> bool:
    """The class's selectors first. An expression that fails on a device is an error, not a no."""
    owners = ((f"class {name_of(ask.device_class)}", ask.device_class.get("spec") or {}), (str(ask), ask.body))
    for owner, body in owners:
        for position, selector in enumerate(body.get("selectors") or []):
            try:
                if not selects(selector["cel"]["expression"], device.as_cel):
                    return False
            except ExpressionError as error:
                raise AllocationError(f"{owner}: selector #{position}: runtime error: {error}") from error
    return True


def _constraints(ask: Ask) -> Iterator[Object]:
    for constraint in dig(ask.claim, "spec.devices.constraints") or []:
        if constraint.get("matchAttribute") and _is_about(constraint, ask):
            yield constraint


def _is_about(constraint: Object, ask: Ask) -> bool:
    named = constraint.get("requests") or []
    return not named or ask.name in named or ask.name.partition("/")[0] in named
