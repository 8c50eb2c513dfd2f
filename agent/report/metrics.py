"""All metrics of one process.

State is read from the last reports at each scrape, so that a series goes with its subject; what happens is counted. The
reports are frozen and replaced whole: a scrape may run on any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agent.model.cache import CacheReport, ModelState
from agent.model.cold_start import PodStart
from agent.model.demand import Asked, PodModel, Published
from agent.model.fit import Misfit
from agent.model.node import DeviceOwner
from agent.model.report import PartitionReport
from agent.model.telemetry import TelemetrySnapshot
from agent.report import families
from agent.report.dcgm_names import dcgm_families
from agent.report.gpus import gpu_families, price_family, xid_family
from agent.report.layout import layout_families
from agent.report.models import cache_families, demand_families, misfit_family, serving_family
from agent.report.slices import holders_by_slice, slice_families


class Metrics:
    """``now`` gives seconds since the epoch; ``prices`` are of a GPU's hour, by pattern of its model's name. With
    ``dcgm_hostname`` slices and GPUs are shown under DCGM's names too, as of that node. Not shared between event loops."""

    def __init__(
        self, version: str, now: Callable[[], float], prices: Mapping[str, float], dcgm_hostname: str = ""
    ) -> None:
        # Otherwise every counter and histogram has a second series that nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._state = _State(version, now, prices, dcgm_hostname)
        self.registry.register(self._state)
        ProcessCollector(registry=self.registry)
        self._phases = families.PHASES.histogram(self.registry)
        self._reconfigured = families.RECONFIGURED.counter(self.registry)
        self._slices = families.SLICES.counter(self.registry)
        self._evicted = families.PODS_EVICTED.counter(self.registry)
        self._drifts = families.DRIFTS.counter(self.registry)
        self._cache_evictions = families.CACHE_EVICTIONS.counter(self.registry)
        self._starts = families.POD_START.histogram(self.registry)
        self._refused = families.DEMAND_REFUSED.counter(self.registry)
        self._gates = families.GATES.counter(self.registry)
        self._fetches = families.FETCH_DURATION.histogram(self.registry)
        self._started: set[tuple[str, str]] = set()
        self._known_refused: frozenset[tuple[str, str]] = frozenset()

    def expect(self, loop: str, within_seconds: float) -> None:
        """The loop begins; from now on it has to finish a pass at least so often."""
        self._state.expect(loop, within_seconds)

    def scrubs(self, within_seconds: float) -> None:
        """Every blob of the cache is to be found right again at least so often."""
        self._state.scrub_limit_seconds = within_seconds

    def partition(self, report: PartitionReport) -> None:
        """What the last pass of the partition loop came to, or how far one is whose steps are being taken."""
        if not report.steps:
            self._state.passed("partition", bool(report.error), report.finished)
        self._state.partition = report
        self._state.holders_known |= report.owners_known

    def telemetry(self, snapshot: TelemetrySnapshot) -> None:
        """The last look at the slices."""
        self._state.telemetry = snapshot

    def cache(self, report: CacheReport) -> None:
        """What the last pass of the cache loop came to. Each report is given once: its finished fetches and what is gone
        are counted."""
        self._state.not_ready(report)
        self._state.passed("cache", report.refusal is not None, report.at_seconds)
        self._count_refused(report.asked, self._state.published)
        wanted = {model.name for model in report.models}
        for gone in [series for series in self._started if report.refusal is None and series[0] not in wanted]:
            self._starts.remove(*gone)
            self._started.discard(gone)
        for going in report.gone:
            self._cache_evictions.labels(going.reason).inc()
        for fetch in report.finished:
            if fetch.reason == "ok":
                self._fetches.observe(fetch.duration_seconds)

    def published(self, published: Published | None) -> None:
        """What this process publishes for all; None while another one does."""
        self._state.published = published
        self._count_refused(self._state.cache.asked if self._state.cache is not None else Asked(), published)

    def _count_refused(self, here: Asked, published: Published | None) -> None:
        refused = frozenset(here.refused) | frozenset(published.asked.refused if published is not None else ())
        for namespace, _ in refused - self._known_refused:
            self._refused.labels(namespace).inc()
        self._known_refused = refused

    def misfits(self, found: tuple[Misfit, ...]) -> None:
        """Pods of this node whose model cannot fit their slice, all of them."""
        self._state.misfits = found

    def serving(self, found: tuple[PodModel, ...]) -> None:
        """Pods of this node and the models that they serve, all of them."""
        self._state.serving = found

    def pod_started(self, start: PodStart) -> None:
        """A pod that serves has become ready."""
        self._starts.labels(start.model, start.weights.value).observe(start.total_seconds)
        self._started.add((start.model, start.weights.value))

    def gate_waits(self, reasons: Sequence[str]) -> None:
        """What the start-up gate of this node lacks; nothing where there is none, or none any more."""
        self._state.gate = tuple(reasons)

    def gate_opened(self, outcome: str) -> None:
        """The start-up taint is gone: ``ready`` or ``deadline``."""
        self._gates.labels(outcome).inc()

    def phase(self, phase: str, seconds: float) -> None:
        """A phase of a layout change has ended."""
        self._phases.labels(phase).observe(seconds)

    def reconfigured(self, outcome: str, reason: str) -> None:
        """A layout change has ended."""
        self._reconfigured.labels(outcome, reason).inc()

    def drifted(self) -> None:
        """The GPUs were found changed, and not by this agent."""
        self._drifts.inc()

    def slice_changed(self, action: str) -> None:
        """A slice was ``created`` or ``destroyed``."""
        self._slices.labels(action).inc()

    def pod_evicted(self) -> None:
        """The API server has accepted an eviction of ours."""
        self._evicted.inc()

    def rendered(self, accept: str) -> tuple[bytes, str]:
        """(body, content type): OpenMetrics where the scraper's Accept header asks for it. Takes milliseconds of CPU: for a
        thread other than the event loop's."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


@dataclass(frozen=True, slots=True)
class _Expected:
    began: float
    within_seconds: float


class _State(Collector):
    """Everything that is, as opposed to what happens."""

    def __init__(self, version: str, now: Callable[[], float], prices: Mapping[str, float], dcgm_hostname: str) -> None:
        self._version = version
        self._now = now
        self._prices = prices
        self._dcgm_hostname = dcgm_hostname
        self.partition: PartitionReport | None = None
        self.holders_known = False
        self.telemetry: TelemetrySnapshot | None = None
        self.cache: CacheReport | None = None
        self._lacking: dict[tuple[str, str], float] = {}
        self.published: Published | None = None
        self.misfits: tuple[Misfit, ...] = ()
        self.serving: tuple[PodModel, ...] = ()
        self.gate: tuple[str, ...] = ()
        self.scrub_limit_seconds: float | None = None
        self._expected: dict[str, _Expected] = {}
        self._failing: dict[str, float] = {}

    def expect(self, loop: str, within_seconds: float) -> None:
        self._expected = {**self._expected, loop: _Expected(self._now(), within_seconds)}

    def passed(self, loop: str, failed: bool, at: float) -> None:
        """A pass has ended, well or badly. Kept is since when the loop has failed without one that ended well."""
        others = {name: since for name, since in self._failing.items() if name != loop}
        self._failing = {**others, loop: self._failing.get(loop, at)} if failed else others

    def not_ready(self, report: CacheReport) -> None:
        """Take the report; since when each model has not been ready, whatever it was doing meanwhile. A catalog that cannot be
        read says nothing of that."""
        before = self._lacking
        if report.refusal is None:
            self._lacking = {
                (one.name, one.revision): before.get((one.name, one.revision), one.since_seconds)
                for one in report.models
                if one.state is not ModelState.READY
            }
        self.cache = report

    def collect(self) -> Iterator[Metric]:
        partition, telemetry, cache = self.partition, self.telemetry, self.cache
        published = self.published
        yield self._build()
        yield _last_passes(self._expected, partition, telemetry, cache)
        yield _limits(self._expected)
        yield self._failures()
        if telemetry is not None:
            yield from self._looked(
                telemetry, partition.owners if partition is not None and self.holders_known else None
            )
        if partition is not None:
            yield from layout_families(partition, self._now())
        if cache is not None:
            yield from cache_families(cache, self._lacking, self._now())
        if self.scrub_limit_seconds is not None:
            yield families.SCRUB_LIMIT.of(self.scrub_limit_seconds)
        if published is not None:
            yield from demand_families(published)
        if self.misfits:
            yield misfit_family(self.misfits)
        if self.serving:
            yield serving_family(self.serving)
        if self.gate:
            yield _gate(self.gate)

    def _looked(self, telemetry: TelemetrySnapshot, owners: Sequence[DeviceOwner] | None) -> Iterator[Metric]:
        """Until the kubelet has said who holds what (``owners`` None), what would look free is left out: slices, and the load of
        whole GPUs. Later what it said last counts while it is silent."""
        holders = holders_by_slice(owners) if owners is not None else None
        if holders is not None:
            yield from slice_families(telemetry.slices, holders)
        yield from gpu_families(telemetry.gpus, holders)
        yield xid_family(telemetry.xids)
        yield price_family(telemetry.gpus, self._prices)
        if self._dcgm_hostname and owners is not None:
            yield from dcgm_families(telemetry, owners, self._dcgm_hostname)

    def _failures(self) -> Metric:
        family = families.FAILING.gauge()
        for loop, since in self._failing.items():
            family.add_metric([loop], max(0.0, self._now() - since))
        return family

    def _build(self) -> Metric:
        family = families.BUILD.gauge()
        family.add_metric([self._version], 1)
        return family


def _gate(reasons: tuple[str, ...]) -> Metric:
    family = families.GATE_WAITING.gauge()
    for reason in reasons:
        family.add_metric([reason], 1)
    return family


def _last_passes(
    expected: Mapping[str, _Expected],
    partition: PartitionReport | None,
    telemetry: TelemetrySnapshot | None,
    cache: CacheReport | None,
) -> Metric:
    """A first pass that never ends would show nothing: until it does, the loop's beginning stands for it."""
    last = {loop: one.began for loop, one in expected.items()}
    if partition is not None:
        last["partition"] = max(partition.finished, last.get("partition", 0.0))
    if telemetry is not None:
        last["telemetry"] = telemetry.sampled_at
    if cache is not None:
        last["cache"] = cache.at_seconds
    family = families.LAST_PASS.gauge()
    for loop, at in last.items():
        family.add_metric([loop], at)
    return family


def _limits(expected: Mapping[str, _Expected]) -> Metric:
    family = families.PASS_LIMIT.gauge()
    for loop, one in expected.items():
        family.add_metric([loop], one.within_seconds)
    return family
