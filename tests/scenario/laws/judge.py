"""Sees every effect before it happens, and looks at the node in the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from agent.model import labels
from agent.model.mig import Gpu, GpuProcess, Part
from agent.model.node import PodRef
from tests.scenario.laws import oracle
from tests.scenario.laws.oracle import Asked
from tests.scenario.laws.tenants import GOES, STAYS
from tests.scenario.laws.weather import Stage
from tests.scenario.laws.wishes import Wish

REFUSALS = ("unknown-layout", "unparsable-layout", "unknown-profile", "no-placement", "no-mig")
HARDWARE = ("create", "destroy", "trim", "set_mode")


class Judge:
    """Knows the wish of now, and which GPUs it lets the agent touch: those it names, and those of a change under way."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._world = stage.world
        self._wish = Wish({})
        self._wishes = 0
        self._may: set[str] = set()
        self._found: dict[str, Any] | None = None
        self._before: dict[str, Any] = {}
        self._was_busy = False
        self._orphaned: set[tuple[str, str, str]] = set()
        self._evicted: dict[str, tuple[str, ...]] = {}
        self._world.effects.witness = self.sees

    def wishes(self, wish: Wish) -> None:
        """From now on this is wanted."""
        self._wish = wish
        self._wishes += 1
        self._may |= set(wish.asked)
        self._found = None
        self._stage.disturbed = False
        self._orphaned = self._orphans()
        self.looks()

    def looks(self) -> None:
        """Between two passes."""
        busy = self._stage.busy()
        if not busy:
            self._may = set(self._wish.asked)
            if self._found is None:
                self._found = self._hardware()
            if self._was_busy:
                self._change_ended()
            self._before = self._hardware()
            self._stage.changed.clear()
        self._was_busy = busy

    def _change_ended(self) -> None:
        """What the wish of now does not name, and after a failure everything, is as it was when the change began."""
        said = self._said()
        failed = said.get("state") == "failed" and said["reason"] not in ("not-advertised", "gpu-unknown")
        now = self._hardware()
        for uuid in now.keys() - self._stage.changed:
            assert now[uuid] == self._before[uuid] or (uuid in self._wish.asked and not failed), (
                f"{uuid} is half changed"
            )

    def sees(self, name: str, about: tuple[Any, ...]) -> None:
        """The agent is about to do that."""
        if name in HARDWARE:
            uuid, *rest = about
            assert uuid in self._may, f"{name} on {uuid}, which nobody asked to be changed"
            gone = self._goes(self._world.gpus.gpus[uuid], name, rest)
            assert not gone & self._held(uuid), f"{name} {rest} takes {gone & self._held(uuid)} from who is on it"
        elif name == "evict":
            self._sees_eviction(about[0])
        elif name == "delete":
            assert about[0].name == "nvidia-device-plugin"

    def _sees_eviction(self, ref: PodRef) -> None:
        pod = self._world.pods.get(ref.uid)
        if pod is None or "deletionTimestamp" in pod["metadata"]:
            return
        assert ref.name.startswith(GOES), f"{ref} cannot be moved"
        devices = self._world.devices_of(ref.uid)
        known = {device: uuid for uuid, found in self._devices().items() for device in found}
        assert {known[device] for device in devices if device in known} & self._may, f"{ref} is in nobody's way"
        self._evicted.setdefault(ref.uid, devices)

    def _goes(self, gpu: Gpu, name: str, rest: list[Any]) -> set[str]:
        """Devices that end with this effect."""
        if name == "create":
            return set()
        if name == "set_mode":
            return set(self._devices()[gpu.uuid]) if gpu.mig_enabled != rest[0] else set()
        here = [i for i in gpu.instances if (i.placement, i.profile) == (rest[0], rest[1])]
        parts = rest[2] if name == "trim" else None
        return {c.uuid for i in here for c in i.compute if parts is None or c.placement in parts}

    def _devices(self) -> dict[str, list[str]]:
        return {
            gpu.uuid: [gpu.uuid, *(c.uuid for i in gpu.instances for c in i.compute)]
            for gpu in self._world.gpus.gpus.values()
        }

    def _held(self, uuid: str) -> set[str]:
        """Devices of one GPU that somebody has."""
        gpu = self._world.gpus.gpus[uuid]
        held = {device for uid in self._world.devices for device in self._world.devices_of(uid)}
        held |= {device for _, device in self._world.ghosts}
        held |= self._under(gpu, gpu.processes)
        return held & set(self._devices()[uuid])

    @staticmethod
    def _under(gpu: Gpu, processes: Iterable[GpuProcess]) -> set[str]:
        """Devices that these processes are on."""
        found: set[str] = set()
        for process in processes:
            found |= {gpu.uuid} if process.gpu_instance is None else set()
            found |= {
                c.uuid
                for i in gpu.instances
                for c in i.compute
                if i.id == process.gpu_instance and process.compute_instance in (None, c.id)
            }
        return found

    # -- the end --------------------------------------------------------------------------------------------------

    def verdict(self) -> str:
        """What the end is; an error where it is not the right one."""
        self._given_back()
        if not self._wish.asked and not self._wish.nonsense:
            return "withdrawn"
        end = self._right_end()
        assert self._status() == end, f"expected {end}: {self._said()}"
        match end:
            case ("success", _):
                self._reached()
            case ("failed", _):
                self._untouched()
            case _:
                self._untouched()
                assert any(word in self._said()["message"] for word in self._in_the_way()), "nobody is named"
        if self._wishes == 1 and not self._stage.upset:
            self._moved_for_a_reason(end[0])
        return end[0] if end[0] != "pending" else "blocked"

    def _right_end(self) -> tuple[str, str]:
        gpus = self._world.gpus.gpus
        if not self._wish.feasible(gpus.values()):
            # What a GPU can be that lists no profiles yet shows when it is switched, and for that nobody may be in the way.
            hidden = {uuid for uuid in self._world.gpus.shy if not gpus[uuid].mig_enabled} & self._wish.asked.keys()
            return ("pending", "blocked") if hidden and self._status()[1] == "blocked" else ("failed", "refused")
        ways = all(self._has_way(gpus[uuid], asked) for uuid, asked in self._wish.asked.items())
        return ("success", "applied") if ways else ("pending", "blocked")

    def _has_way(self, gpu: Gpu, asked: Asked) -> bool:
        fixed = self._held(gpu.uuid) - self._movable()
        parts = frozenset(Part(i.placement, c.start) for i in gpu.instances for c in i.compute if c.uuid in fixed)
        return oracle.can_become(gpu, asked, parts, gpu.uuid in fixed)

    def _movable(self) -> set[str]:
        """Devices of pods that may be moved, and of nobody else."""
        mine: set[str] = set()
        others: set[str] = {device for _, device in self._world.ghosts}
        for gpu in self._world.gpus.gpus.values():
            others |= self._under(gpu, self._world.strangers.get(gpu.uuid, ()))
        for uid in self._world.devices:
            goes = self._world.pods[uid]["metadata"]["name"].startswith(GOES)
            (mine if goes else others).update(self._world.devices_of(uid))
        return mine - others

    def _status(self) -> tuple[str, str]:
        said = self._said()
        assert said["state"] == self._world.node["metadata"]["labels"].get(labels.STATE)
        reason = "refused" if said["state"] == "failed" and said["reason"] in REFUSALS else said["reason"]
        return said["state"], reason

    def _said(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self._world.node["metadata"]["annotations"].get(labels.STATUS, "{}"))
        return said

    def _in_the_way(self) -> list[str]:
        names = [pod["metadata"]["name"] for pod in self._world.pods.values()]
        return ["outside any pod", "ghost", *(name for name in names if name.startswith(STAYS))]

    def _given_back(self) -> None:
        metadata = self._world.node["metadata"]
        assert {k: v for k, v in metadata["labels"].items() if k != labels.STATE} == self._stage.labels
        assert {k: v for k, v in metadata["annotations"].items() if k != labels.STATUS} == self._stage.annotations
        assert bool(self._world.node["spec"].get("unschedulable")) is self._stage.cordoned

    def _reached(self) -> None:
        for uuid, asked in self._wish.asked.items():
            gpu = self._world.gpus.gpus[uuid]
            assert (gpu.mig_enabled, gpu.mig_pending) == (asked.mig, asked.mig)
            assert Counter(str(i.shape) for i in gpu.instances) == Counter(map(str, asked.shapes))
        if any("device-plugin" in pod["metadata"]["name"] for pod in self._world.pods.values()):
            shown = {name: int(n) for name, n in self._world.node["status"]["allocatable"].items() if n != "0"}
            assert shown == self._world._shown_now()

    def _untouched(self) -> None:
        assert self._stage.disturbed or self._hardware() == self._found
        assert self._stage.disturbed or self._orphans() <= self._orphaned

    def _orphans(self) -> set[tuple[str, str, str]]:
        return {
            (gpu.uuid, i.profile, str(i.placement))
            for gpu in self._world.gpus.gpus.values()
            for i in gpu.instances
            if not i.compute
        }

    def _hardware(self) -> dict[str, Any]:
        """What of the GPUs a person would notice: places and modes. What was not complete may be cleaned up, and is not in it."""
        return {
            gpu.uuid: (gpu.mig_enabled, gpu.mig_pending, [str(slot) for slot in gpu.layout])
            for gpu in self._world.gpus.gpus.values()
        }

    def _moved_for_a_reason(self, state: str) -> None:
        """With one wish, and nobody who changes GPUs or comes and goes: who was moved had something that is gone."""
        assert state == "success" or not self._evicted
        there = {device for devices in self._devices().values() for device in devices[1:]}
        switched = {uuid for what, uuid, *_ in self._world.gpus.log if what == "mode"}
        for uid, devices in self._evicted.items():
            needed = [device for device in devices if device in switched or not (device in there or device in switched)]
            whole = [device for device in devices if device in self._world.gpus.gpus and device not in switched]
            assert set(needed) - set(whole), f"{uid} was moved for nothing"
