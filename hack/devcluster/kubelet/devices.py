"""The device manager: which devices there are, and which container holds which; survives a restart by a checkpoint."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hack.devcluster.objects import (
    Object,
    containers_of,
    dig,
    is_deleting,
    is_finished,
    name_of,
    namespace_of,
    uid_of,
)


class AdmissionError(Exception):
    """The pod cannot be run here; ``reason`` and ``message`` go to its status."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one pod holds: container name to resource name to device ids."""

    pod_uid: str
    namespace: str
    name: str
    containers: Mapping[str, Mapping[str, Sequence[str]]]

    def device_ids(self) -> list[str]:
        return [
            device for resources in self.containers.values() for devices in resources.values() for device in devices
        ]


@dataclass(slots=True)
class DeviceManager:
    """``checkpoint`` is written at every change, before the change is acted on."""

    checkpoint: Path
    _healthy: dict[str, list[str]] = field(default_factory=dict)
    _last_count: dict[str, int] = field(default_factory=dict)
    _assignments: dict[str, Assignment] = field(default_factory=dict)
    _single_requests: bool = False

    def restore(self) -> None:
        """After a restart devices are unknown until a plugin registers, but what is held stays held."""
        if not self.checkpoint.exists():
            return
        saved = json.loads(self.checkpoint.read_text())
        self._last_count = dict.fromkeys(saved["resources"], 0)
        self._healthy = {resource: [] for resource in saved["resources"]}
        self._assignments = {uid: Assignment(**entry) for uid, entry in saved["assignments"].items()}

    def register(self, devices: Mapping[str, Sequence[str]], *, single_requests: bool = False) -> None:
        """A plugin (re)started. Resources it no longer has stay listed with nothing allocatable. ``single_requests``: it gives
        a container no more than one replica."""
        self.unregister()
        self._single_requests = single_requests
        for resource, ids in devices.items():
            self._healthy[resource] = list(ids)
            self._last_count[resource] = len(ids)
        self._save()

    def unregister(self) -> None:
        """The plugin stopped: nothing can be allocated, what is held stays held."""
        self._healthy = {resource: [] for resource in self._healthy}

    def capacity(self) -> dict[str, int]:
        return dict(self._last_count)

    def allocatable(self) -> dict[str, int]:
        return {resource: len(ids) for resource, ids in self._healthy.items()}

    def devices(self) -> dict[str, list[str]]:
        return {resource: list(ids) for resource, ids in self._healthy.items()}

    def assignment(self, pod_uid: str) -> Assignment | None:
        return self._assignments.get(pod_uid)

    def assignments(self) -> list[Assignment]:
        return list(self._assignments.values())

    def will_allocate(self, pod: Object) -> bool:
        """Whether admitting this pod means asking a plugin."""
        lives = not is_finished(pod) and not is_deleting(pod)
        return lives and self.assignment(uid_of(pod)) is None and any(_wanted_devices(pod))

    def allocate(self, pod: Object) -> Assignment | None:
        """None where the pod asks for no devices. Raises AdmissionError."""
        held = self._assignments.get(uid_of(pod))
        if held is not None:
            return held
        taken = {device for assignment in self._assignments.values() for device in assignment.device_ids()}
        containers: dict[str, dict[str, list[str]]] = {}
        for container, resource, amount in _wanted_devices(pod):
            picked = self._pick(resource, amount, taken)
            taken |= set(picked)
            containers.setdefault(container, {})[resource] = picked
        if not containers:
            return None
        assignment = Assignment(uid_of(pod), namespace_of(pod), name_of(pod), containers)
        self._assignments[assignment.pod_uid] = assignment
        self._save()
        return assignment

    def release(self, pod_uid: str) -> None:
        if self._assignments.pop(pod_uid, None) is not None:
            self._save()

    def release_all_but(self, pod_uids: Collection[str]) -> list[str]:
        """The pods that had gone while no kubelet ran."""
        gone = [uid for uid in self._assignments if uid not in pod_uids]
        for uid in gone:
            self.release(uid)
        return gone

    def _pick(self, resource: str, amount: int, taken: set[str]) -> list[str]:
        if resource not in self._healthy:
            why = f"Node didn't have enough resource: {resource}, requested: {amount}, used: 0, capacity: 0"
            raise AdmissionError(f"OutOf{resource}", f"Pod was rejected: {why}")
        free = [device for device in self._healthy[resource] if device not in taken]
        if len(free) < amount:
            why = f"requested number of devices unavailable for {resource}. Requested: {amount}, Available: {len(free)}"
            message = f"Pod was rejected: Allocate failed due to {why}, which is unexpected"
            raise AdmissionError("UnexpectedAdmissionError", message)
        picked = self._preferred(resource, free, amount)
        if self._single_requests and amount > 1 and any("::" in device for device in picked):
            why = f"invalid request: maximum request size for shared resources is 1; found {amount}"
            message = (
                f"Pod was rejected: Allocate failed due to rpc error: code = Unknown desc = {why}, which is unexpected"
            )
            raise AdmissionError("UnexpectedAdmissionError", message)
        return picked

    def _preferred(self, resource: str, free: list[str], amount: int) -> list[str]:
        """As the plugin prefers: each replica of the device that has the fewest replicas given away."""
        given = Counter(_device_of(device) for device in self._healthy[resource])
        given.subtract(_device_of(device) for device in free)
        picked: list[str] = []
        for _ in range(amount):
            best = min((one for one in free if one not in picked), key=lambda one: given[_device_of(one)])
            given[_device_of(best)] += 1
            picked.append(best)
        return picked

    def _save(self) -> None:
        saved = {
            "resources": sorted(self._healthy),
            "assignments": {
                uid: {
                    "pod_uid": uid,
                    "namespace": assignment.namespace,
                    "name": assignment.name,
                    "containers": assignment.containers,
                }
                for uid, assignment in self._assignments.items()
            },
        }
        draft = self.checkpoint.with_suffix(".new")
        draft.write_text(json.dumps(saved))
        os.replace(draft, self.checkpoint)


def _device_of(replica: str) -> str:
    return replica.partition("::")[0]


def _wanted_devices(pod: Object) -> Iterator[tuple[str, str, int]]:
    """(container, resource, amount) of the extended resources: those with a domain that is not Kubernetes' own."""
    for container in containers_of(pod):
        for resource, amount in (dig(container, "resources.limits") or {}).items():
            domain = resource.partition("/")[0]
            if "/" in resource and not domain.endswith("kubernetes.io") and int(amount) > 0:
                yield container["name"], resource, int(amount)
