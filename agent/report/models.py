"""The series of the cache loop's state: models on this node, and the disk they take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from agent.model.cache import CacheReport, FetchTotals, ModelState
from agent.model.demand import Published
from agent.model.fit import Misfit
from agent.model.page_cache import PageCacheReport
from agent.model.scrub import ScrubReport

_MODEL = ("model", "revision")


def cache_families(report: CacheReport) -> Iterator[Metric]:
    """Everything but the durations of fetches, which are events."""
    yield from _models(report)
    yield from _totals(report.totals, report.scrub)
    yield from _scrub(report.scrub)
    yield from _page_cache(report.page_cache)
    yield GaugeMetricFamily(
        "warmslice_cache_used_bytes", "Bytes that the cache takes on disk.", value=report.disk.used_bytes
    )
    if report.budget_bytes is not None:
        yield GaugeMetricFamily(
            "warmslice_cache_budget_bytes", "Bytes that the cache may take on disk.", value=report.budget_bytes
        )


def _models(report: CacheReport) -> Iterator[Metric]:
    ready = GaugeMetricFamily(
        "warmslice_model_ready", "1 when every wanted file of the model is here and was checked, else 0.", labels=_MODEL
    )
    size = GaugeMetricFamily(
        "warmslice_model_size_bytes", "Size of the wanted files; none until the hub has listed them.", labels=_MODEL
    )
    fetched = GaugeMetricFamily(
        "warmslice_model_fetched_bytes", "Bytes of the wanted files that are on disk.", labels=_MODEL
    )
    wanted = GaugeMetricFamily(
        "warmslice_model_wanted_info",
        "Why the model is wanted on this node: here, pending, workload, declared or history. Always 1.",
        labels=(*_MODEL, "rank"),
    )
    for model in report.models:
        labels = [model.name, model.revision]
        wanted.add_metric([*labels, model.rank.name.lower()], 1.0)
        ready.add_metric(labels, float(model.state is ModelState.READY))
        fetched.add_metric(labels, model.fetched_bytes)
        if model.size_bytes:
            size.add_metric(labels, model.size_bytes)
    yield from (ready, size, fetched, wanted)


def _scrub(scrub: ScrubReport) -> Iterator[Metric]:
    if scrub.oldest_seconds is not None:
        yield GaugeMetricFamily(
            "warmslice_scrub_oldest_timestamp_seconds",
            "When that blob was last found right for which it is the longest ago.",
            value=scrub.oldest_seconds,
        )
    yield CounterMetricFamily(
        "warmslice_scrub_bytes", "Bytes of blobs read again since the start.", value=scrub.read_bytes
    )


def _page_cache(report: PageCacheReport) -> Iterator[Metric]:
    resident = GaugeMetricFamily(
        "warmslice_model_page_cache_bytes",
        "Bytes of the weights that are in the page cache, of a model that is to be there.",
        labels=_MODEL,
    )
    for model in report.models:
        resident.add_metric([model.model, model.revision], model.resident_bytes)
    if report.models:
        yield resident


def _totals(totals: FetchTotals, scrub: ScrubReport) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "warmslice_fetch_bytes", "Bytes received from the hub since the agent started.", value=totals.received_bytes
    )
    failures = CounterMetricFamily("warmslice_fetch_failures", "Fetches that failed, by reason.", labels=["reason"])
    for reason, count in totals.failures.items():
        failures.add_metric([reason], count)
    yield failures
    retries = CounterMetricFamily(
        "warmslice_fetch_retries", "Requests of fetches that were tried again, by reason.", labels=["reason"]
    )
    for reason, count in totals.retries.items():
        retries.add_metric([reason], count)
    yield retries
    yield CounterMetricFamily(
        "warmslice_verify_failures",
        "Files whose content was not what the hub's listing says, when they came or later.",
        value=totals.verify_failures + scrub.damaged,
    )


def misfit_family(misfits: Iterable[Misfit]) -> Metric:
    """Pods of this node."""
    family = GaugeMetricFamily(
        "warmslice_pod_misfit",
        "1 for a pod of this node whose model cannot fit the slice that it asks for.",
        labels=["namespace", "pod", "model"],
    )
    for one in misfits:
        family.add_metric([one.namespace, one.pod, one.model], 1.0)
    return family


def demand_families(published: Published) -> Iterator[Metric]:
    """Of whoever publishes what workloads want."""
    yield GaugeMetricFamily(
        "warmslice_demand_size_bytes", "Size of the published demand; it may have 65536.", value=published.size_bytes
    )
    yield GaugeMetricFamily(
        "warmslice_demand_wishes", "Wishes of workloads that are published.", value=published.demands
    )
    yield GaugeMetricFamily(
        "warmslice_demand_dropped", "Wishes that the published demand has no room for.", value=published.dropped
    )
