"""What Prometheus sees of slices, layout and models."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from agent.model.cache import CacheReport, FetchTotals, FinishedFetch, ModelState
from agent.model.cold_start import PodStart, Weights
from agent.model.demand import Asked, PodModel, Published
from agent.model.drift import Drift
from agent.model.fit import Misfit, Owner
from agent.model.mig import GpuInstance, Placement, largest_free_profile
from agent.model.operation import Operation
from agent.model.page_cache import ModelInMemory, PageCacheReport
from agent.model.report import PartitionReport, PodWorkload, WaitedFor
from agent.model.revision import Going, RevisionKey
from agent.model.scrub import ScrubReport
from agent.model.steps import Refresh
from agent.model.telemetry import Xid
from agent.report import families
from agent.report.metrics import Metrics
from tests.report import world
from tests.report.tools import promtool

NOW = 1_700_000_000.0
PRICES = {"NVIDIA A100*": 2.0, "NVIDIA H100*": 4.0, "*": 1.0}
SMALL_LABELS = {
    "gpu": "0",
    "gpu_uuid": world.GPU,
    "profile": "1g.10gb",
    "placement": "0:1",
    "gpu_instance": "9",
    "compute_instance": "0",
    "mig_uuid": world.SMALL,
    "namespace": "",
    "pod": "",
    "container": "",
}


@pytest.fixture
def metrics() -> Metrics:
    """Nobody holds anything, as the kubelet has said."""
    found = Metrics("1.2.3", lambda: NOW, PRICES)
    found.partition(PartitionReport(NOW, (), (), None))
    return found


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def series(metrics: Metrics, name: str) -> list[dict[str, str]]:
    return [s.labels for family in metrics.registry.collect() for s in family.samples if s.name == name]


def populated() -> Metrics:
    """Every family has at least one series: the list of families is held against it."""
    metrics = Metrics("1.2.3", lambda: NOW, PRICES)
    metrics.expect("partition", 2400.0)
    metrics.scrubs(8 * 86400.0)
    metrics.partition(_eventful())
    xids = {Xid(world.GPU, 0, 9, 43): 2}
    metrics.telemetry(world.looked(world.small(), world.large(), gpus=(world.cut(), world.whole()), xids=xids))
    metrics.cache(_busy_cache())
    metrics.published(Published(4096, 12, 1, Asked((("ml", "org/forbidden"),))))
    metrics.misfits((Misfit("ml", "trainer", Owner("v1", "Pod", "trainer", "u"), "org/large", "too large"),))
    metrics.serving((PodModel("ml", "trainer", "org--large"),))
    metrics.pod_started(PodStart("u", "p", "ml", "m", "org/m", "main", Weights.READY, NOW, 3.0, 1.0, 2.0))
    metrics.drifted()
    metrics.phase("destroy", 1.5)
    metrics.reconfigured("success", "applied")
    metrics.slice_changed("created")
    metrics.pod_evicted()
    metrics.gate_waits(["layout", "models"])
    metrics.gate_opened("ready")
    return metrics


def _eventful() -> PartitionReport:
    report = world.report(world.owner("trainer", world.SMALL), world.owner("batch", world.WHOLE), waits_for="pods")
    assert report.status is not None
    return replace(
        report,
        error="the driver is not loaded",
        status=replace(report.status, state="failed", reason="no-placement", drift=Drift(NOW - 60, NOW - 30)),
        pods=(WaitedFor("ml", "web-1", "ReplicaSet/web", "keep-web"),),
        operation=Operation("1", "4f2a9c01", "all-1g.10gb", "boot", NOW - 120, True, {}),
        workloads=(PodWorkload("ml", "trainer", "Job", "train"),),
    )


def _busy_cache() -> CacheReport:
    going = Going(RevisionKey("org/m", "a" * 40), ("x",), 5, "room", "was not in use for 3 days")
    return replace(
        world.cached(finished=(FinishedFetch("ready-one", "ok", 12.0),)),
        totals=FetchTotals(140, {"rate-limited": 2}, 1, {"reset": 1}),
        gone=(going,),
        scrub=ScrubReport(1_699_000_000.0, 4096),
        page_cache=PageCacheReport((ModelInMemory("ready-one", "main", 100, 96),)),
    )


def test_a_free_slice_has_empty_pod_labels(metrics: Metrics) -> None:
    metrics.telemetry(world.looked(world.small()))

    assert value(metrics, "warmslice_slice_info", **SMALL_LABELS) == 1
    assert value(metrics, "warmslice_slice_memory_used_bytes", **SMALL_LABELS) == 12 << 20
    assert value(metrics, "warmslice_slice_utilization_ratio", **SMALL_LABELS) == 0.5
    assert value(metrics, "warmslice_slice_dram_bandwidth_utilization_ratio", **SMALL_LABELS) == 0.75


def test_no_slice_looks_free_before_the_kubelet_has_said_who_holds_it() -> None:
    metrics = Metrics("1.2.3", lambda: NOW, PRICES)
    metrics.telemetry(world.looked(world.small(), gpus=(world.whole(),)))
    assert series(metrics, "warmslice_slice_info") == series(metrics, "warmslice_gpu_memory_used_bytes") == []
    assert len(series(metrics, "warmslice_gpu_up")) == 1

    metrics.partition(PartitionReport(NOW, (), (), None, owners_known=False))
    assert series(metrics, "warmslice_slice_info") == []
    metrics.partition(PartitionReport(NOW, (), (), None))
    assert [s["pod"] for s in series(metrics, "warmslice_slice_info")] == [""]


def test_while_the_kubelet_is_silent_a_slice_is_held_by_whom_it_named_last(metrics: Metrics) -> None:
    metrics.telemetry(world.looked(world.small()))
    metrics.partition(replace(world.report(world.owner("trainer", world.SMALL)), owners_known=False))
    assert [s["pod"] for s in series(metrics, "warmslice_slice_info")] == ["trainer"]


def test_a_slice_carries_the_pod_that_holds_it(metrics: Metrics) -> None:
    metrics.partition(world.report(world.owner("trainer", world.SMALL)))
    metrics.telemetry(world.looked(world.small(), world.large()))

    held = SMALL_LABELS | {"namespace": "ml", "pod": "trainer", "container": "main"}
    assert value(metrics, "warmslice_slice_info", **held) == 1
    assert value(metrics, "warmslice_slice_memory_used_bytes", **held) == 12 << 20
    assert {s["mig_uuid"]: s["pod"] for s in series(metrics, "warmslice_slice_processes")} == {
        world.SMALL: "trainer",
        world.LARGE: "",
    }


def test_a_shared_slice_names_every_holder_and_counts_its_memory_once(metrics: Metrics) -> None:
    """Two replicas in one container are one holder."""
    metrics.partition(
        world.report(
            world.owner("a", f"{world.SMALL}::0", f"{world.SMALL}::1"),
            world.owner("b", f"{world.SMALL}::2"),
        )
    )
    metrics.telemetry(world.looked(world.small()))

    assert sorted(s["pod"] for s in series(metrics, "warmslice_slice_info")) == ["a", "b"]
    assert [s["pod"] for s in series(metrics, "warmslice_slice_memory_used_bytes")] == [""]


def test_what_a_gpu_cannot_report_has_no_series(metrics: Metrics) -> None:
    """Absent is honest where zero would be a lie: no GPM on Ampere."""
    metrics.telemetry(world.looked(world.large()))

    assert value(metrics, "warmslice_slice_processes", **series(metrics, "warmslice_slice_processes")[0]) == 0
    assert series(metrics, "warmslice_slice_utilization_ratio") == []


def test_series_vanish_with_their_slice(metrics: Metrics) -> None:
    metrics.telemetry(world.looked(world.small(), world.large()))
    metrics.telemetry(world.looked(world.large()))

    body, _ = metrics.rendered("")
    assert world.SMALL not in body.decode()
    assert world.LARGE in body.decode()


def test_exactly_one_layout_state_is_set(metrics: Metrics) -> None:
    metrics.partition(world.report())

    states = {
        s["state"]: value(metrics, "warmslice_layout_state", **s) for s in series(metrics, "warmslice_layout_state")
    }
    assert states == {"pending": 1, "success": 0, "failed": 0, "rebooting": 0}
    assert value(metrics, "warmslice_layout_info", layout="all-1g.10gb", revision="4f2a9c01") == 1


def test_a_node_that_was_never_asked_for_a_layout_has_no_state(metrics: Metrics) -> None:
    metrics.partition(PartitionReport(NOW, (), (), None))

    assert series(metrics, "warmslice_layout_state") == []


def test_a_wait_grows_until_it_is_over(metrics: Metrics) -> None:
    metrics.partition(world.report(waits_for="budget"))
    assert value(metrics, "warmslice_blocked_seconds", reason="budget") == 60

    metrics.partition(world.report())
    assert series(metrics, "warmslice_blocked_seconds") == []


def test_a_loop_fails_since_its_first_pass_that_did_until_one_ends_well(metrics: Metrics) -> None:
    """Steps that are being taken are no pass yet: they may end as the last ones did."""
    well = world.report()
    for report in (
        replace(well, finished=NOW - 700, error="no driver"),
        replace(well, steps=(Refresh(),)),
        replace(well, finished=NOW - 5, error="no answer"),
    ):
        metrics.partition(report)
    assert value(metrics, "warmslice_failing_seconds", loop="partition") == 700

    metrics.partition(well)
    assert series(metrics, "warmslice_failing_seconds") == []


def test_a_cache_fails_while_its_catalog_cannot_be_read(metrics: Metrics) -> None:
    metrics.cache(replace(world.cached(), at_seconds=NOW - 60, refusal="model catalog: cannot be read"))
    assert value(metrics, "warmslice_failing_seconds", loop="cache") == 60

    metrics.cache(world.cached())
    assert series(metrics, "warmslice_failing_seconds") == []


def test_a_loop_whose_first_pass_never_ends_stands_still_at_its_beginning() -> None:
    metrics = Metrics("1.2.3", lambda: NOW, PRICES)
    assert series(metrics, "warmslice_last_pass_timestamp_seconds") == []
    metrics.expect("partition", 2400.0)
    metrics.partition(PartitionReport(0.0, (), (), None, steps=(Refresh(),)))
    assert value(metrics, "warmslice_last_pass_timestamp_seconds", loop="partition") == NOW
    assert value(metrics, "warmslice_pass_limit_seconds", loop="partition") == 2400


def test_pods_that_are_waited_for_are_named_with_owner_and_budget(metrics: Metrics) -> None:
    pods = (WaitedFor("ml", "web-1", "ReplicaSet/web", "keep-web"), WaitedFor("ml", "train-0", "", ""))
    metrics.partition(replace(world.report(waits_for="budget"), pods=pods))
    told = {"reason": "budget", "namespace": "ml", "pod": "web-1", "owner": "ReplicaSet/web", "budget": "keep-web"}
    assert value(metrics, "warmslice_blocked_by_pod", **told) == 1
    assert len(series(metrics, "warmslice_blocked_by_pod")) == 2

    metrics.partition(world.report())
    assert series(metrics, "warmslice_blocked_by_pod") == []


@pytest.mark.parametrize(
    ("taken", "largest"),
    [
        ((), "7g.80gb"),
        ((world.instance(world.ONE, Placement(0, 1)),), "3g.40gb"),
        ((world.instance(world.ONE, Placement(0, 1)), world.instance(world.ONE, Placement(6, 1))), "2g.20gb"),
        ((world.instance(world.THREE, Placement(0, 4)), world.instance(world.THREE, Placement(4, 4))), None),
    ],
)
def test_the_largest_free_profile_is_found_by_placement(taken: tuple[GpuInstance, ...], largest: str | None) -> None:
    """Two slices at the ends spoil both halves: room is not the same as the sum of what is free."""
    found = largest_free_profile(world.gpu(*taken))
    assert (found.name if found else None) == largest


def test_a_full_gpu_says_none_and_an_unknown_one_says_nothing(metrics: Metrics) -> None:
    full = world.gpu(world.instance(world.SEVEN, Placement(0, 8)))
    metrics.partition(world.report(gpus=(full,)))
    assert [s["profile"] for s in series(metrics, "warmslice_gpu_largest_free_profile")] == ["none"]

    metrics.partition(world.report(gpus=(world.gpu(unknown="lost"),)))
    assert series(metrics, "warmslice_gpu_largest_free_profile") == []


def test_models_are_ready_or_not_and_have_a_size_once_listed(metrics: Metrics) -> None:
    metrics.cache(world.cached())

    assert value(metrics, "warmslice_model_ready", model="ready-one", revision="main") == 1
    assert value(metrics, "warmslice_model_ready", model="new-one", revision="main") == 0
    assert [s["model"] for s in series(metrics, "warmslice_model_size_bytes")] == ["ready-one"]
    assert value(metrics, "warmslice_fetch_bytes_total") == 140
    assert value(metrics, "warmslice_fetch_failures_total", reason="rate-limited") == 2
    assert value(metrics, "warmslice_verify_failures_total") == 1
    assert value(metrics, "warmslice_cache_budget_bytes") == 10 << 30


def test_a_model_that_fails_again_and_again_has_not_been_ready_since_the_first_time(metrics: Metrics) -> None:
    """Each try begins a state of its own; whoever is woken by this wants to know since when."""
    for state, reason, since in ((ModelState.FAILED, "reset", NOW - 900), (ModelState.FETCHING, "", NOW - 30)):
        models = tuple(
            replace(one, state=state, reason=reason, since_seconds=since) for one in world.cached().models[1:]
        )
        metrics.cache(replace(world.cached(), models=models))
    told = {"model": "new-one", "revision": "main", "reason": "fetching"}
    assert value(metrics, "warmslice_model_not_ready_seconds", **told) == 900
    assert len(series(metrics, "warmslice_model_not_ready_seconds")) == 1

    ready = tuple(replace(one, state=ModelState.READY) for one in world.cached().models)
    metrics.cache(replace(world.cached(), models=ready))
    assert series(metrics, "warmslice_model_not_ready_seconds") == []


def test_a_cache_without_budget_shows_none(metrics: Metrics) -> None:
    metrics.cache(world.cached(budget=None))
    assert series(metrics, "warmslice_cache_budget_bytes") == []


def test_only_fetches_that_brought_a_model_are_timed(metrics: Metrics) -> None:
    metrics.cache(world.cached(finished=(FinishedFetch("a", "ok", 3.0), FinishedFetch("b", "not-found", 1.0))))
    assert value(metrics, "warmslice_fetch_duration_seconds_count") == 1


def test_what_was_removed_is_counted_once(metrics: Metrics) -> None:
    going = Going(RevisionKey("org/m", "a" * 40), ("x",), 5, "room", "was not in use for 3 days")
    metrics.cache(replace(world.cached(), gone=(going, replace(going, reason="old"), going)))
    metrics.cache(world.cached())
    assert value(metrics, "warmslice_cache_evictions_total", reason="room") == 2
    assert value(metrics, "warmslice_cache_evictions_total", reason="old") == 1


def test_what_reading_again_has_found_is_shown(metrics: Metrics) -> None:
    assert series(metrics, "warmslice_scrub_oldest_timestamp_seconds") == []
    metrics.cache(replace(world.cached(), scrub=ScrubReport(1_699_000_000.0, 4096, damaged=2)))
    assert value(metrics, "warmslice_scrub_oldest_timestamp_seconds") == 1_699_000_000
    assert value(metrics, "warmslice_scrub_bytes_total") == 4096
    assert value(metrics, "warmslice_verify_failures_total") == 3  # one more was wrong when it came


def test_what_of_the_weights_is_in_memory_is_shown_of_models_that_are_to_be_there(metrics: Metrics) -> None:
    assert series(metrics, "warmslice_model_page_cache_bytes") == []
    models = (ModelInMemory("ready-one", "main", 100, 96), ModelInMemory("refused", "main", 100, 0, "no room"))
    metrics.cache(replace(world.cached(), page_cache=PageCacheReport(models)))
    for model, resident in (("ready-one", 96), ("refused", 0)):
        assert value(metrics, "warmslice_model_page_cache_bytes", model=model, revision="main") == resident


def test_events_are_counted() -> None:
    metrics = populated()

    assert value(metrics, "warmslice_reconfigures_total", outcome="success", reason="applied") == 1
    assert value(metrics, "warmslice_slices_total", action="created") == 1
    assert value(metrics, "warmslice_pods_evicted_total") == 1
    assert value(metrics, "warmslice_reconfigure_duration_seconds_sum", phase="destroy") == 1.5
    assert value(metrics, "warmslice_build_info", version="1.2.3") == 1
    assert {s["loop"] for s in series(metrics, "warmslice_last_pass_timestamp_seconds")} == {
        "partition",
        "telemetry",
        "cache",
    }


@pytest.mark.parametrize("populate", [True, False])
def test_promtool_finds_nothing_to_say(populate: bool) -> None:
    metrics = populated() if populate else Metrics("1.2.3", lambda: NOW, PRICES)
    body, content_type = metrics.rendered("")

    checked = subprocess.run([promtool(), "check", "metrics"], input=body, capture_output=True, timeout=30, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
    assert content_type.startswith("text/plain; version=0.0.4")


def test_a_scraper_that_asks_for_openmetrics_gets_it() -> None:
    body, content_type = populated().rendered("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")

    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in parse_openmetrics(body.decode())}  # type: ignore[no-untyped-call]
    assert "warmslice_slice_info" in names
    assert "warmslice_pods_evicted" in names


def test_every_metric_stands_in_the_list_with_its_type_and_labels_and_none_stands_there_in_vain() -> None:
    found = {
        family.name: (family.type, family.documentation, {name for s in family.samples for name in s.labels} - {"le"})
        for family in populated().registry.collect()
        if family.name.startswith("warmslice_")
    }
    assert found == {one.name: (one.kind, one.text, set(one.labels)) for one in families.ALL}
