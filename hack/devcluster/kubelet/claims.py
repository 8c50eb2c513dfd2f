"""The kubelet's part in Dynamic Resource Allocation: drivers prepare what pods claim before these start, and take it
back when they have ended; survives a restart by a checkpoint."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

from hack.devcluster.client import Client
from hack.devcluster.dra.claims import allocation_of, claim_name, entries_of, is_reserved_for
from hack.devcluster.errors import ApiError
from hack.devcluster.objects import Object, dig, name_of, namespace_of, uid_of

_CLAIMS = "/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims/{name}"


class PrepareError(Exception):
    """A pod's claims cannot be prepared, or given up, at this time; the kubelet tries again."""


@dataclass(frozen=True, slots=True)
class PreparedDevice:
    """``uuid``: the device that the container gets through ``cdi``."""

    request: str
    driver: str
    pool: str
    name: str
    cdi: Sequence[str]
    uuid: str


@dataclass(frozen=True, slots=True)
class PreparedClaim:
    """``entry``: under which name the pods' specs know it, by pod uid."""

    uid: str
    namespace: str
    name: str
    entries: Mapping[str, str]
    devices: Sequence[PreparedDevice]


class Driver(Protocol):
    async def prepare(self, claim: Object) -> Sequence[PreparedDevice]:
        """NodePrepareResources for one claim; the same answer when asked again. Raises PrepareError."""
        ...

    async def unprepare(self, claim_uid: str) -> None:
        """NodeUnprepareResources; nothing to do for a claim that is not known. Raises PrepareError."""
        ...


@dataclass(slots=True)
class ClaimManager:
    """``checkpoint`` is written at every change. After a restart, claims count as prepared only for pods that run on: for
    one that starts, the driver is asked again."""

    checkpoint: Path
    client: Client
    _drivers: dict[str, Driver] = field(default_factory=dict)
    _claims: dict[str, PreparedClaim] = field(default_factory=dict)
    _asked: set[str] = field(default_factory=set)
    _turns: asyncio.Lock = field(default_factory=asyncio.Lock)

    def restore(self) -> None:
        if not self.checkpoint.exists():
            return
        for saved in json.loads(self.checkpoint.read_text()):
            devices = [PreparedDevice(**device) for device in saved.pop("devices")]
            self._claims[saved["uid"]] = PreparedClaim(**saved, devices=devices)

    def register(self, name: str, driver: Driver) -> None:
        self._drivers[name] = driver

    def unregister(self, name: str) -> None:
        """What is prepared stays prepared."""
        self._drivers.pop(name, None)

    async def prepare(self, pod: Object) -> None:
        """Raises PrepareError with the words of the kubelet's event."""
        for entry in entries_of(pod):
            claim = await self._claim(pod, entry)
            async with self._turns:
                await self._prepare_one(claim, uid_of(pod), entry["name"])

    async def _prepare_one(self, claim: Object, pod_uid: str, entry: str) -> None:
        known = self._claims.get(uid_of(claim))
        if known is None or known.uid not in self._asked:
            devices = [device for driver in _drivers_of(claim) for device in await self._ask(driver, claim)]
            entries = known.entries if known is not None else {}
            known = PreparedClaim(uid_of(claim), namespace_of(claim), name_of(claim), entries, devices)
        self._asked.add(known.uid)
        self._claims[known.uid] = replace(known, entries={**known.entries, pod_uid: entry})
        self._save()

    async def unprepare(self, pod_uid: str) -> None:
        """The pod's last act; a claim that other pods use stays prepared. Raises PrepareError: the pod cannot end."""
        async with self._turns:
            for claim in [claim for claim in self._claims.values() if pod_uid in claim.entries]:
                await self._unprepare_one(claim, pod_uid)

    async def _unprepare_one(self, claim: PreparedClaim, pod_uid: str) -> None:
        others = {uid: entry for uid, entry in claim.entries.items() if uid != pod_uid}
        if others:
            self._claims[claim.uid] = replace(claim, entries=others)
        else:
            for name in sorted({device.driver for device in claim.devices}):
                await self._driver(name, "unprepare").unprepare(claim.uid)
            del self._claims[claim.uid]
            self._asked.discard(claim.uid)
        self._save()

    def pods_besides(self, pod_uids: Collection[str]) -> set[str]:
        """The pods that had gone while no kubelet ran."""
        return {uid for claim in self._claims.values() for uid in claim.entries} - set(pod_uids)

    def device_uuids(self, pod: Object) -> list[str]:
        """Of all its containers, each once."""
        used = (
            device.uuid
            for container in dig(pod, "spec.containers") or []
            for _, devices in self.used_by(pod, container)
            for device in devices
        )
        return list(dict.fromkeys(used))

    def used_by(self, pod: Object, container: Object) -> Iterator[tuple[PreparedClaim, list[PreparedDevice]]]:
        """What ``resources.claims`` of the container name: a whole claim, or one request of it."""
        for claim in self._claims.values():
            for use in dig(container, "resources.claims") or []:
                if claim.entries.get(uid_of(pod)) == use["name"]:
                    wanted = use.get("request")
                    yield claim, [each for each in claim.devices if wanted in (None, each.request.partition("/")[0])]

    async def _claim(self, pod: Object, entry: Object) -> Object:
        """The kubelet reads it anew each time."""
        name = claim_name(pod, entry)
        try:
            claim = await self.client.get(_CLAIMS.format(namespace=namespace_of(pod), name=name))
        except ApiError as error:
            raise PrepareError(f"prepare dynamic resources: failed to fetch ResourceClaim {name}: {error}") from error
        if not allocation_of(claim):
            raise PrepareError(f"prepare dynamic resources: ResourceClaim {name} is not allocated")
        if not is_reserved_for(claim, pod):
            who, what = f"pod {name_of(pod)} ({uid_of(pod)})", f"ResourceClaim {name} ({uid_of(claim)})"
            raise PrepareError(f"prepare dynamic resources: {who} is not allowed to use {what}")
        return claim

    async def _ask(self, driver: str, claim: Object) -> Sequence[PreparedDevice]:
        try:
            return await self._driver(driver, "prepare").prepare(claim)
        except PrepareError as error:
            if driver not in self._drivers:
                raise
            why = f"NodePrepareResources failed for ResourceClaim {name_of(claim)}: {error}"
            raise PrepareError(f"prepare dynamic resources: {why}") from error

    def _driver(self, name: str, verb: str) -> Driver:
        if name not in self._drivers:
            raise PrepareError(f"{verb} dynamic resources: DRA driver {name} is not registered")
        return self._drivers[name]

    def _save(self) -> None:
        draft = self.checkpoint.with_suffix(".new")
        draft.write_text(json.dumps([asdict(claim) for claim in self._claims.values()]))
        os.replace(draft, self.checkpoint)


def _drivers_of(claim: Object) -> list[str]:
    return sorted({result["driver"] for result in dig(claim, "status.allocation.devices.results") or []})
