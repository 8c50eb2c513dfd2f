"""Every metric: its name, type, labels and words. docs/reference/metrics.md is made from this list, and nothing else is exposed
but, where that is set, what stands in dcgm_names.py under NVIDIA's names.

A counter's name is without ``_total``, which the exposition adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

SLICE = (
    "gpu",
    "gpu_uuid",
    "profile",
    "placement",
    "gpu_instance",
    "compute_instance",
    "mig_uuid",
    "namespace",
    "pod",
    "container",
)
"""Labels of all series of slices. See Note [Who holds a slice] in slices.py."""
GPU = ("gpu", "gpu_uuid")
HELD_GPU = (*GPU, "namespace", "pod", "container")
MODEL = ("model", "revision")

_PHASE_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
_START_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200)
_FETCH_SECONDS = (1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
_SHARED_MEMORY = "of the slice's GPU instance, which its compute instances share"
_BY_GPM = "of the slice's GPU instance between the last two samples, 0 to 1, as reported by GPM"
_WHOLE = "of a GPU whose MIG mode is off, between the last two samples, 0 to 1"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def exposed(self) -> str:
        """The name that a query has."""
        return f"{self.name}_total" if self.kind == "counter" else self.name

    def gauge(self) -> GaugeMetricFamily:
        """Empty, for one scrape."""
        return GaugeMetricFamily(self.name, self.text, labels=self.labels)

    def total(self) -> CounterMetricFamily:
        """Empty, for one scrape: what is counted elsewhere."""
        return CounterMetricFamily(self.name, self.text, labels=self.labels)

    def of(self, value: float) -> GaugeMetricFamily | CounterMetricFamily:
        """With its only value, for one scrape."""
        family = self.empty()
        family.add_metric([], value)
        return family

    def empty(self) -> GaugeMetricFamily | CounterMetricFamily:
        """A gauge, or what is counted elsewhere, for one scrape."""
        return self.total() if self.kind == "counter" else self.gauge()

    def counter(self, registry: CollectorRegistry) -> Counter:
        """What this process counts."""
        return Counter(self.name, self.text, self.labels, registry=registry)

    def histogram(self, registry: CollectorRegistry) -> Histogram:
        """What this process observes."""
        return Histogram(self.name, self.text, self.labels, buckets=self.buckets, registry=registry)


ALL: list[Family] = []


def _gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Family:
    return _listed(Family(f"warmslice_{name}", "gauge", text, labels))


def _counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Family:
    return _listed(Family(f"warmslice_{name}", "counter", text, labels))


def _histogram(name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Family:
    return _listed(Family(f"warmslice_{name}", "histogram", text, labels, buckets))


def _listed(family: Family) -> Family:
    ALL.append(family)
    return family


# -- slices ---------------------------------------------------------------------------------------------------------------

SLICE_INFO = _gauge("slice_info", "A slice and who holds it, one series for each holder; always 1.", SLICE)
SLICE_MEMORY_USED = _gauge("slice_memory_used_bytes", f"Memory in use {_SHARED_MEMORY}.", SLICE)
SLICE_MEMORY_TOTAL = _gauge("slice_memory_total_bytes", f"Memory {_SHARED_MEMORY}.", SLICE)
SLICE_PROCESSES = _gauge("slice_processes", "Processes on the slice.", SLICE)
SLICE_UTILIZATION = _gauge(
    "slice_utilization_ratio",
    f"Graphics or compute engine activity {_BY_GPM}; on GPUs without GPM as a dcgm-exporter of the node reports it.",
    SLICE,
)
SLICE_SM = _gauge("slice_sm_utilization_ratio", f"Busy multiprocessors {_BY_GPM}.", SLICE)
SLICE_OCCUPANCY = _gauge("slice_sm_occupancy_ratio", f"Resident warps against the most possible {_BY_GPM}.", SLICE)
SLICE_TENSOR = _gauge("slice_tensor_utilization_ratio", f"Tensor activity {_BY_GPM}.", SLICE)
SLICE_DRAM = _gauge(
    "slice_dram_bandwidth_utilization_ratio", f"Memory bandwidth against the most possible {_BY_GPM}.", SLICE
)
SLICE_ACTIVE = _counter(
    "slice_active_seconds",
    "Seconds of full activity of the slice's GPU instance since the agent has sampled it: its utilization times the time.",
    SLICE,
)
SLICE_SHARE = _gauge(
    "slice_gpu_share_ratio",
    "The slice's share of its GPU by memory slices, 0 to 1; compute instances of one GPU instance part it by their width.",
    SLICE,
)

# -- GPUs -----------------------------------------------------------------------------------------------------------------

GPU_INFO = _gauge("gpu_info", "A GPU; mig is on, off, or none where it has no MIG. Always 1.", (*GPU, "model", "mig"))
GPU_UP = _gauge("gpu_up", "1 while the GPU answers, 0 when it is lost, or does not answer.", GPU)
GPU_HOLDER = _gauge("gpu_holder_info", "Who holds a GPU whose MIG mode is off, replicas included; always 1.", HELD_GPU)
GPU_MEMORY_USED = _gauge("gpu_memory_used_bytes", "Memory in use of a GPU whose MIG mode is off.", HELD_GPU)
GPU_MEMORY_TOTAL = _gauge("gpu_memory_total_bytes", "Memory of a GPU whose MIG mode is off.", HELD_GPU)
GPU_PROCESSES = _gauge("gpu_processes", "Processes on a GPU whose MIG mode is off.", HELD_GPU)
GPU_UTILIZATION = _gauge(
    "gpu_utilization_ratio",
    f"Graphics or compute engine activity {_WHOLE}, as reported by GPM; without GPM the driver's share of time with a kernel.",
    HELD_GPU,
)
GPU_SM = _gauge("gpu_sm_utilization_ratio", f"Busy multiprocessors {_WHOLE}, as reported by GPM.", HELD_GPU)
GPU_OCCUPANCY = _gauge("gpu_sm_occupancy_ratio", f"Resident warps against the most possible {_WHOLE}.", HELD_GPU)
GPU_TENSOR = _gauge("gpu_tensor_utilization_ratio", f"Tensor activity {_WHOLE}, as reported by GPM.", HELD_GPU)
GPU_DRAM = _gauge(
    "gpu_dram_bandwidth_utilization_ratio", f"Memory bandwidth against the most possible {_WHOLE}.", HELD_GPU
)
GPU_ACTIVE = _counter(
    "gpu_active_seconds",
    "Seconds of full activity of a GPU whose MIG mode is off, since the agent has sampled it: its utilization times the time.",
    HELD_GPU,
)
GPU_TEMPERATURE = _gauge("gpu_temperature_celsius", "Temperature of the GPU's chip.", GPU)
GPU_POWER = _gauge("gpu_power_watts", "Power that the GPU draws.", GPU)
GPU_ECC = _counter(
    "gpu_ecc_errors", "Memory errors since the driver was loaded: corrected, or uncorrected.", (*GPU, "type")
)
GPU_XID = _counter(
    "gpu_xid_errors",
    "Xid errors since the agent listens, by number, and by GPU instance where the driver names one.",
    (*GPU, "gpu_instance", "xid"),
)
GPU_LARGEST_FREE = _gauge(
    "gpu_largest_free_profile",
    "The largest profile that still fits on the GPU, none where it is full; always 1. GPUs in MIG mode only.",
    (*GPU, "profile"),
)
GPU_PRICE = _gauge("gpu_price_per_hour", "What an hour of the GPU costs, by the setting gpu_prices.", GPU)

# -- pods -----------------------------------------------------------------------------------------------------------------

POD_WORKLOAD = _gauge(
    "pod_workload_info",
    "Which workload a pod that holds a slice or a GPU belongs to; always 1.",
    ("namespace", "pod", "kind", "workload"),
)
POD_MODEL = _gauge("pod_model_info", "Which model a pod of this node serves; always 1.", ("namespace", "pod", "model"))
POD_MISFIT = _gauge(
    "pod_misfit",
    "1 for a pod of this node whose model cannot fit the slice that it asks for.",
    ("namespace", "pod", "model"),
)
POD_START = _histogram(
    "pod_start_duration_seconds",
    "From the binding of a pod that serves a model until it was ready, by where its weights were when it started.",
    ("model", "cache"),
    _START_SECONDS,
)
PODS_EVICTED = _counter("pods_evicted", "Pods evicted to free the slices they held.")

# -- layout ---------------------------------------------------------------------------------------------------------------

LAYOUT_STATE = _gauge("layout_state", "1 for the state that the node's layout is in, 0 for the others.", ("state",))
LAYOUT_INFO = _gauge("layout_info", "The layout that the state speaks of; always 1.", ("layout", "revision"))
LAYOUT_FAILED = _gauge(
    "layout_failed_info", "Why the layout is failed; always 1, no series while it is not.", ("layout", "reason")
)
BLOCKED = _gauge(
    "blocked_seconds",
    "How long the layout has been waiting for this; no series while it waits for nothing.",
    ("reason",),
)
BLOCKED_BY = _gauge(
    "blocked_by_pod",
    "A pod that the layout waits for, its owner, and a disruption budget that covers it; always 1.",
    ("reason", "namespace", "pod", "owner", "budget"),
)
CORDONED = _gauge(
    "cordoned_seconds", "How long the node has been cordoned for a change of its layout; no series while it is not."
)
PHASES = _histogram(
    "reconfigure_duration_seconds", "How long a phase of a layout change took.", ("phase",), _PHASE_SECONDS
)
RECONFIGURED = _counter("reconfigures", "Layout changes that ended.", ("outcome", "reason"))
SLICES = _counter("slices", "Slices created and destroyed by the agent.", ("action",))
DRIFTS = _counter("drifts", "Times the GPUs were found changed by somebody else.")
DRIFTED = _gauge(
    "drifted_seconds", "How long ago the GPUs were found changed by somebody else, while that is not put right."
)
GATE_WAITING = _gauge("gate_waiting", "1 for each thing that the start-up taint of this node waits for.", ("reason",))
GATES = _counter(
    "gates_opened", "Start-up taints taken away: with everything in place, or at the deadline.", ("outcome",)
)

# -- models ---------------------------------------------------------------------------------------------------------------

MODEL_READY = _gauge("model_ready", "1 when every wanted file of the model is here and was checked, else 0.", MODEL)
MODEL_NOT_READY = _gauge(
    "model_not_ready_seconds",
    "How long the model has not been ready, with the reason of now; no series once it is.",
    (*MODEL, "reason"),
)
MODEL_SIZE = _gauge("model_size_bytes", "Size of the wanted files; none until the hub has listed them.", MODEL)
MODEL_FETCHED = _gauge("model_fetched_bytes", "Bytes of the wanted files that are on disk.", MODEL)
MODEL_WANTED = _gauge(
    "model_wanted_info",
    "Why the model is wanted on this node: here, pending, workload, declared or history. Always 1.",
    (*MODEL, "rank"),
)
MODEL_PAGE_CACHE = _gauge(
    "model_page_cache_bytes",
    "Bytes of the weights that are in the page cache, of a model that is to be there.",
    MODEL,
)
CACHE_USED = _gauge("cache_used_bytes", "Bytes that the cache takes on disk.")
CACHE_BUDGET = _gauge("cache_budget_bytes", "Bytes that the cache may take on disk.")
CACHE_EVICTIONS = _counter(
    "cache_evictions", "Revisions of models removed from the cache: to make room, or since they were old.", ("reason",)
)
FETCH_BYTES = _counter("fetch_bytes", "Bytes received from the hub since the agent started.")
FETCH_DURATION = _histogram(
    "fetch_duration_seconds", "How long fetches took that ended with the whole model here.", (), _FETCH_SECONDS
)
FETCH_FAILURES = _counter("fetch_failures", "Fetches that failed, by reason.", ("reason",))
FETCH_RETRIES = _counter("fetch_retries", "Requests of fetches that were tried again, by reason.", ("reason",))
VERIFY_FAILURES = _counter(
    "verify_failures", "Files whose content was not what the hub's listing says, when they came or later."
)
SCRUB_OLDEST = _gauge(
    "scrub_oldest_timestamp_seconds", "When that blob was last found right for which it is the longest ago."
)
SCRUB_LIMIT = _gauge(
    "scrub_limit_seconds",
    "How long ago the oldest check of a blob may be: scrub_days and a day more; none without scrub.",
)
SCRUB_BYTES = _counter("scrub_bytes", "Bytes of blobs read again since the start.")
DEMAND_SIZE = _gauge("demand_size_bytes", "Size of the published demand; it may have 65536.")
DEMAND_WISHES = _gauge("demand_wishes", "Wishes of workloads that are published.")
DEMAND_DROPPED = _gauge("demand_dropped", "Wishes that the published demand has no room for.")
DEMAND_REFUSED = _counter(
    "demand_refused",
    "Models that a namespace's workloads named and that nobody allows it, counted when first seen.",
    ("namespace",),
)

# -- the agent ------------------------------------------------------------------------------------------------------------

LAST_PASS = _gauge(
    "last_pass_timestamp_seconds",
    "When the loop last finished a pass, or before its first when it began, in seconds since the epoch. A loop that is stuck "
    "stands still here.",
    ("loop",),
)
PASS_LIMIT = _gauge(
    "pass_limit_seconds",
    "How long after a pass of the loop the next one has to be finished: its longest wait and its longest pass.",
    ("loop",),
)
FAILING = _gauge(
    "failing_seconds",
    "How long every pass of the loop has failed (of cache: how long its catalog cannot be read); no series while passes succeed.",
    ("loop",),
)
BUILD = _gauge("build_info", "The agent's version; always 1.", ("version",))
