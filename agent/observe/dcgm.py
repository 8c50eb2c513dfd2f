"""The load of slices of which NVML has none, from a dcgm-exporter of the node.

# Note [Whose number it is]
# Before Hopper there is no GPM, and NVML has no load of a slice. A dcgm-exporter has, by GPU and GPU instance id, collected at
# times of its own that it does not tell: what it answers at one moment was collected within an interval before that, and measured
# within an interval before that. The driver gives GPU instance ids again, at once and for the same profile, so a number may
# be of an instance that is gone. It is taken only for an instance that was seen in every look of the two intervals before the
# question was sent, and of the profile that the exporter names; so what an instance is said to do it has done itself. Where we
# change slices ourselves all are seen anew: one that comes back as it was, between two looks, could not be told apart. An answer
# counts for two intervals. Slices with a load of NVML's own are none of this.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Protocol

from prometheus_client.parser import text_string_to_metric_families

from agent.model.errors import RetryError
from agent.model.mig import Placement
from agent.model.telemetry import SliceSample, TelemetrySnapshot, Utilization

log = logging.getLogger(__name__)

Object = Mapping[str, Any]
GpuInstance = tuple[str, int]
"""GPU UUID and GPU instance id."""

FIELDS = {
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": "graphics",
    "DCGM_FI_PROF_SM_ACTIVE": "sm",
    "DCGM_FI_PROF_SM_OCCUPANCY": "sm_occupancy",
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": "tensor",
    "DCGM_FI_PROF_DRAM_ACTIVE": "dram_bandwidth",
}
"""DCGM's name of each field of Utilization."""

_INTERVALS = 2
_APPS = ("nvidia-dcgm-exporter", "dcgm-exporter")
_MOST_LINES = 5_000
"""Sixteen GPUs of seven slices, each shared by eight pods, have 4,480 of these."""
_LONGEST_LINE = 4096
_USUAL_PORT = 9400
_PROFILE = re.compile(r"(\d{1,3})g\.(\d{1,5})gb(.*)")
_NOTHING = Utilization()


@dataclass(frozen=True, slots=True)
class ExporterLoad:
    """What a dcgm-exporter says of one GPU instance. ``profile`` is its own name of the profile."""

    profile: str
    utilization: Utilization


class Exporter(Protocol):
    """Where a dcgm-exporter is asked."""

    async def read(self) -> bytes | None:
        """Its whole answer; None where there is none on this node. RetryError."""


class DcgmLoads:
    """Fills what NVML does not tell. See Note [Whose number it is].

    ``interval_seconds`` is how often the exporter collects. It is asked at most once in ``period_seconds``, and only while a
    slice has no load of NVML's own; ``clock`` gives seconds that never go back.
    """

    def __init__(
        self, exporter: Exporter, interval_seconds: float, period_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._exporter = exporter
        self._settles_seconds = _INTERVALS * interval_seconds
        self._counts_seconds = _INTERVALS * max(interval_seconds, period_seconds)
        self._period_seconds = period_seconds
        self._clock = clock
        self._seen: dict[_Instance, _Seen] = {}
        self._answer = _Answer(float("-inf"), {})
        self._wanted = asyncio.Event()
        self._complaint = ""
        self._changing = False

    async def run(self) -> None:
        """Ask, as often as is needed, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self.ask()
            await asyncio.sleep(self._period_seconds)

    def changing(self, under_way: bool) -> None:
        """Whether slices are being made and destroyed: until that is over no instance counts as the one that was seen before."""
        if under_way or self._changing:
            self._seen.clear()
        self._changing = under_way

    def filled(self, snapshot: TelemetrySnapshot) -> TelemetrySnapshot:
        """The look with the loads that the last answer has for it. To be called with every look, in order."""
        now = self._clock()
        instances = _instances(snapshot.slices)
        self._remember(snapshot.slices, instances, now)
        answer = self._answer if now - self._answer.asked <= self._counts_seconds else _Answer(now, {})
        for instance, seen in self._seen.items():
            seen.count(self._load(instance, seen, answer), now)
        if any(not seen.measured and self._settled(seen, now) for seen in self._seen.values()):
            self._wanted.set()
        owners = (self._seen[instances[one.gpu, one.gpu_instance]] for one in snapshot.slices)
        return replace(snapshot, slices=tuple(map(_filled, snapshot.slices, owners)))

    def _remember(self, slices: Iterable[SliceSample], instances: Mapping[GpuInstance, _Instance], now: float) -> None:
        """What is not in the look is gone, or may have been."""
        self._seen = {instance: self._seen.get(instance) or _Seen(now) for instance in instances.values()}
        for one in slices:
            self._seen[instances[one.gpu, one.gpu_instance]].measured |= one.utilization != _NOTHING

    def _settled(self, seen: _Seen, at: float) -> bool:
        return at - seen.since >= self._settles_seconds

    def _load(self, instance: _Instance, seen: _Seen, answer: _Answer) -> Utilization:
        if seen.measured or not self._settled(seen, answer.asked):
            return _NOTHING
        said = answer.loads.get((instance.gpu, instance.id), ())
        loads = [one.utilization for one in said if is_same_profile(one.profile, instance.profile)]
        return loads[0] if len(loads) == 1 else _NOTHING

    async def ask(self) -> None:
        """One question, and what its answer says."""
        asked = self._clock()
        try:
            body = await self._exporter.read()
            if body is not None:
                self._answer = _Answer(asked, await asyncio.to_thread(loads_of, body))
            self._say("")
        except RetryError as error:
            self._say(str(error))

    def _say(self, complaint: str) -> None:
        if complaint and complaint != self._complaint:
            log.warning("dcgm.no_answer", extra={"why": complaint})
        if self._complaint and not complaint:
            log.info("dcgm.answers_again")
        self._complaint = complaint


@dataclass(frozen=True, slots=True)
class _Instance:
    """A GPU instance by all that a look tells of it."""

    gpu: str
    id: int
    profile: str
    placement: Placement
    devices: frozenset[str]


def _instances(slices: Iterable[SliceSample]) -> dict[GpuInstance, _Instance]:
    found: dict[GpuInstance, _Instance] = {}
    for one in slices:
        before = found.get((one.gpu, one.gpu_instance))
        devices = (before.devices if before is not None else frozenset()) | {one.uuid}
        found[one.gpu, one.gpu_instance] = _Instance(one.gpu, one.gpu_instance, one.profile, one.placement, devices)
    return found


@dataclass(slots=True)
class _Seen:
    """An instance since it is seen in every look. ``measured``: NVML tells its load by itself."""

    since: float
    measured: bool = False
    load: Utilization = _NOTHING
    active_seconds: float | None = None
    counted_until: float | None = None

    def count(self, load: Utilization, now: float) -> None:
        """Take the load as that of the time since the last look; a time without one does not count."""
        self.load = load
        if load.graphics is None:
            self.counted_until = None
            return
        passed = now - self.counted_until if self.counted_until is not None else 0.0
        self.active_seconds = (self.active_seconds or 0.0) + load.graphics * passed
        self.counted_until = now


def _filled(one: SliceSample, seen: _Seen) -> SliceSample:
    if seen.measured:
        return one
    return replace(one, utilization=seen.load, active_seconds=seen.active_seconds)


@dataclass(frozen=True, slots=True)
class _Answer:
    asked: float
    loads: Mapping[GpuInstance, tuple[ExporterLoad, ...]] = field(default_factory=dict)


def loads_of(body: bytes) -> Mapping[GpuInstance, tuple[ExporterLoad, ...]]:
    """What an answer in Prometheus' text format says of GPU instances; all else in it, and what cannot be, is left out.

    Several series of one number (a slice that pods share) are one; where they differ nobody knows which is right. Blocks for as
    long as the answer is large.
    """
    found: dict[tuple[GpuInstance, str], dict[str, float | None]] = {}
    wanted = (line for line in body.decode("utf-8", "replace").split("\n") if line.partition("{")[0] in FIELDS)
    for line in islice(wanted, _MOST_LINES):
        name = line.partition("{")[0]
        # The parser takes time by the square of a line's length.
        read = _read(line) if len(line) <= _LONGEST_LINE else None
        if read is None:
            continue
        instance, profile, value = read
        values = found.setdefault((instance, profile), {})
        values[FIELDS[name]] = value if values.get(FIELDS[name], value) == value else None
    loads: dict[GpuInstance, tuple[ExporterLoad, ...]] = {}
    for (instance, profile), values in found.items():
        loads[instance] = (*loads.get(instance, ()), ExporterLoad(profile, Utilization(**values)))
    return loads


def _read(line: str) -> tuple[GpuInstance, str, float] | None:
    """GPU instance, profile and value of one series."""
    try:
        ((sample,),) = (family.samples for family in text_string_to_metric_families(line))
        labels, value = sample.labels, float(sample.value)
        instance = (labels["UUID"], int(labels["GPU_I_ID"]))
        profile = labels["GPU_I_PROFILE"]
    except (ValueError, KeyError):
        return None
    return (instance, profile, value) if 0 <= value <= 1 else None


def is_same_profile(said: str, ours: str) -> bool:
    """Whether DCGM's name means this profile. Before dcgm-exporter 4.8.4 it rounds the memory in its own way (``7g.79gb``,
    NVIDIA/dcgm-exporter issue 713), and knows no attributes."""
    one, other = _PROFILE.fullmatch(said), _PROFILE.fullmatch(ours)
    if one is None or other is None:
        return False
    same_memory = abs(int(one[2]) - int(other[2])) <= 1
    return one[1] == other[1] and same_memory and one[3] in ("", other[3])


def exporter_url(setting: str, pods: Iterable[Object]) -> str | None:
    """Where to ask, by the setting ``dcgm_exporter`` and the pods of this node; None where nobody is to be asked.

    Anybody may give a pod these labels; a DaemonSet's pod with them is as sure as it gets. RetryError where there are several.
    """
    if setting != "auto":
        return setting if setting != "off" else None
    found = [pod for pod in pods if _is_exporter(pod)]
    if len(found) > 1:
        names = sorted(f"{pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in found)
        raise RetryError(f"several pods may be the dcgm-exporter: {', '.join(names)}; set dcgm_exporter to its URL")
    return _url(found[0]) if found else None


def _is_exporter(pod: Object) -> bool:
    metadata, status = pod["metadata"], pod.get("status") or {}
    labels = metadata.get("labels") or {}
    named = labels.get("app") in _APPS or labels.get("app.kubernetes.io/name") in _APPS
    owned = any(o.get("controller") and o.get("kind") == "DaemonSet" for o in metadata.get("ownerReferences") or [])
    runs = status.get("phase") == "Running" and not metadata.get("deletionTimestamp") and bool(status.get("podIP"))
    return named and owned and runs


def _url(pod: Object) -> str:
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports") or []]
    port = next((one["containerPort"] for one in ports if one.get("name") == "metrics"), _USUAL_PORT)
    address = pod["status"]["podIP"]
    return f"http://[{address}]:{port}/metrics" if ":" in address else f"http://{address}:{port}/metrics"
