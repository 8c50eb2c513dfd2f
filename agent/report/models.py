"""The series of the cache loop's state: models on this node, and the disk they take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.metrics_core import Metric

from agent.model.cache import CacheReport, FetchTotals, ModelState
from agent.model.demand import PodModel, Published
from agent.model.fit import Misfit
from agent.model.page_cache import PageCacheReport
from agent.model.scrub import ScrubReport
from agent.report import families


def cache_families(report: CacheReport, lacking: Mapping[tuple[str, str], float], now: float) -> Iterator[Metric]:
    """Everything but the durations of fetches, which are events. ``lacking``: by name and revision, since when a model has not
    been ready; both times are seconds since the epoch, and a wait grows between passes."""
    yield from _models(report, lacking, now)
    yield from _totals(report.totals, report.scrub)
    yield from _scrub(report.scrub)
    yield from _page_cache(report.page_cache)
    yield families.CACHE_USED.of(report.disk.used_bytes)
    if report.budget_bytes is not None:
        yield families.CACHE_BUDGET.of(report.budget_bytes)


def _models(report: CacheReport, since: Mapping[tuple[str, str], float], now: float) -> Iterator[Metric]:
    ready, size, fetched = families.MODEL_READY.gauge(), families.MODEL_SIZE.gauge(), families.MODEL_FETCHED.gauge()
    wanted, lacking = families.MODEL_WANTED.gauge(), families.MODEL_NOT_READY.gauge()
    for model in report.models:
        labels = [model.name, model.revision]
        wanted.add_metric([*labels, model.rank.name.lower()], 1.0)
        ready.add_metric(labels, float(model.state is ModelState.READY))
        fetched.add_metric(labels, model.fetched_bytes)
        if model.state is not ModelState.READY:
            lacking.add_metric(
                [*labels, model.reason or model.state.value],
                max(0.0, now - since.get((model.name, model.revision), model.since_seconds)),
            )
        if model.size_bytes:
            size.add_metric(labels, model.size_bytes)
    yield from (ready, lacking, size, fetched, wanted)


def _scrub(scrub: ScrubReport) -> Iterator[Metric]:
    if scrub.oldest_seconds is not None:
        yield families.SCRUB_OLDEST.of(scrub.oldest_seconds)
    yield families.SCRUB_BYTES.of(scrub.read_bytes)


def _page_cache(report: PageCacheReport) -> Iterator[Metric]:
    resident = families.MODEL_PAGE_CACHE.gauge()
    for model in report.models:
        resident.add_metric([model.model, model.revision], model.resident_bytes)
    if report.models:
        yield resident


def _totals(totals: FetchTotals, scrub: ScrubReport) -> Iterator[Metric]:
    yield families.FETCH_BYTES.of(totals.received_bytes)
    failures = families.FETCH_FAILURES.total()
    for reason, count in totals.failures.items():
        failures.add_metric([reason], count)
    yield failures
    retries = families.FETCH_RETRIES.total()
    for reason, count in totals.retries.items():
        retries.add_metric([reason], count)
    yield retries
    yield families.VERIFY_FAILURES.of(totals.verify_failures + scrub.damaged)


def misfit_family(misfits: Iterable[Misfit]) -> Metric:
    """Pods of this node."""
    family = families.POD_MISFIT.gauge()
    for one in misfits:
        family.add_metric([one.namespace, one.pod, one.model], 1.0)
    return family


def serving_family(serving: Iterable[PodModel]) -> Metric:
    """Pods of this node."""
    family = families.POD_MODEL.gauge()
    for one in serving:
        family.add_metric([one.namespace, one.pod, one.model], 1.0)
    return family


def demand_families(published: Published) -> Iterator[Metric]:
    """Of whoever publishes what workloads want."""
    yield families.DEMAND_SIZE.of(published.size_bytes)
    yield families.DEMAND_WISHES.of(published.demands)
    yield families.DEMAND_DROPPED.of(published.dropped)
