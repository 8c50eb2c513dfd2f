"""The same numbers under dcgm-exporter's names: held against what one says, and what a dashboard of NVIDIA's asks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from agent.model.mig import Placement
from agent.model.node import DeviceOwner
from agent.model.telemetry import GpuSample, SliceSample, TelemetrySnapshot, Utilization
from agent.observe.dcgm import loads_of
from agent.report.dcgm_names import dcgm_families
from agent.report.metrics import Metrics
from tests.report import world

DATA = Path(__file__).parents[1] / "data" / "dcgm"
WHOLE = "GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52"
LOAD = Utilization(0.99, 0.98, 0.41, 0.93, 0.8)
CUT_GPU = GpuSample(
    world.GPU,
    0,
    "NVIDIA H100 80GB HBM3",
    mig=True,
    temperature_celsius=61,
    power_watts=409.7,
    ecc_uncorrected=0,
    pci_bus_id="00000000:1A:00.0",
    last_xid=0,
)
WHOLE_GPU = replace(
    CUT_GPU,
    uuid=WHOLE,
    index=1,
    mig=False,
    pci_bus_id="00000000:1B:00.0",
    memory_used_bytes=4 << 30,
    memory_total_bytes=80 << 30,
    utilization=LOAD,
    last_xid=79,
    ecc_uncorrected=2,
)
IDLE = Utilization(0, 0, 0, 0, 0)
SLICES = (replace(world.small(), utilization=LOAD), replace(world.large(), utilization=IDLE))


def shown(
    *gpus: GpuSample, slices: tuple[SliceSample, ...] = SLICES, owners: Iterable[DeviceOwner] = ()
) -> dict[str, Metric]:
    snapshot = replace(world.looked(*slices), gpus=gpus or (CUT_GPU, WHOLE_GPU))
    held = owners or (world.owner("trainer", world.SMALL),)
    return {family.name: family for family in dcgm_families(snapshot, held, "gpu-1")}


def rows(family: Metric) -> list[tuple[dict[str, str], float]]:
    return [(sample.labels, sample.value) for sample in family.samples]


RECORDED = {family.name: family for family in parse_text((DATA / "exporter.txt").read_text())}
NOT_SERVED = {"DCGM_FI_DEV_SM_CLOCK"}


@pytest.mark.parametrize("name", sorted(RECORDED.keys() - NOT_SERVED))
def test_a_series_has_the_name_the_words_and_the_labels_of_the_exporters(name: str) -> None:
    theirs, ours = RECORDED[name], shown()[name]
    assert ours.documentation == theirs.documentation
    assert ours.type == ("unknown" if theirs.type == "counter" else theirs.type)
    # The parser gives a counter the ending that dcgm-exporter's have not.
    assert {sample.name for sample in ours.samples} == {sample.name.removesuffix("_total") for sample in theirs.samples}
    kinds = {frozenset(sample.labels) for sample in ours.samples}
    for sample in theirs.samples:
        assert frozenset(sample.labels) - {"DCGM_FI_DRIVER_VERSION"} in kinds


def test_nothing_is_shown_that_the_exporter_does_not_have() -> None:
    assert shown().keys() == RECORDED.keys() - NOT_SERVED


@pytest.mark.parametrize(
    "query", [line for line in (DATA / "dashboard_12239.txt").read_text().splitlines() if not line.startswith("#")]
)
def test_each_query_of_nvidias_dashboard_gets_data(query: str) -> None:
    """But the clocks, which the agent does not read."""
    (name,) = re.findall(r"DCGM_[A-Z_]+", query)
    if name in NOT_SERVED:
        assert name not in shown()
        return
    asked = set(re.findall(r"(\w+)=~", query)) | set(re.findall(r", (\w+)\)", query))
    assert asked <= {"gpu", "instance"}, "instance is the scraper's"
    assert {labels["gpu"] for labels, _ in rows(shown()[name])} & {
        labels["gpu"] for labels, _ in rows(shown()["DCGM_FI_DEV_GPU_TEMP"])
    }


def test_a_slice_has_its_own_load_and_memory_and_its_pod() -> None:
    labels = {
        "gpu": "0",
        "UUID": world.GPU,
        "pci_bus_id": "00000000:1A:00.0",
        "device": "nvidia0",
        "modelName": "NVIDIA H100 80GB HBM3",
        "Hostname": "gpu-1",
    }
    small = labels | {
        "GPU_I_PROFILE": "1g.10gb",
        "GPU_I_ID": "9",
        "container": "main",
        "namespace": "ml",
        "pod": "trainer",
    }
    large = labels | {"GPU_I_PROFILE": "3g.40gb", "GPU_I_ID": "1"}
    families = shown(CUT_GPU)
    assert rows(families["DCGM_FI_PROF_GR_ENGINE_ACTIVE"]) == [(small, 0.99), (large, 0)]
    assert rows(families["DCGM_FI_DEV_FB_USED"]) == [(small, 12), (large, 20)]
    assert rows(families["DCGM_FI_DEV_FB_FREE"]) == [(small, 9716), (large, 40428)]
    assert rows(families["DCGM_FI_DEV_POWER_USAGE"]) == [(labels, 409.7)]
    assert "DCGM_FI_DEV_GPU_UTIL" not in families


def test_a_whole_gpu_has_what_a_slice_has_and_its_util_in_per_cent() -> None:
    families = shown(WHOLE_GPU, slices=(), owners=(world.owner("trainer", f"{WHOLE}::1"),))
    ((labels, per_cent),) = rows(families["DCGM_FI_DEV_GPU_UTIL"])
    assert (labels["pod"], labels["gpu"], per_cent) == ("trainer", "1", 99)
    assert "GPU_I_ID" not in labels
    values = {name: rows(family)[0][1] for name, family in families.items()}
    assert (values["DCGM_FI_DEV_FB_USED"], values["DCGM_FI_PROF_SM_ACTIVE"]) == (4096, 0.98)
    assert (values["DCGM_FI_DEV_XID_ERRORS"], values["DCGM_FI_DEV_ECC_DBE_VOL_TOTAL"]) == (79, 2)


def test_a_share_of_time_with_a_kernel_is_no_engine_activity() -> None:
    """An A100 with MIG off: NVML knows the one, DCGM means the other."""
    families = shown(replace(WHOLE_GPU, utilization=Utilization(graphics=0.5)), slices=())
    assert rows(families["DCGM_FI_DEV_GPU_UTIL"])[0][1] == 50
    assert "DCGM_FI_PROF_GR_ENGINE_ACTIVE" not in families


def test_compute_instances_of_one_gpu_instance_are_one_series() -> None:
    """Its holders' pods too, where there are several, so that sums are right."""
    parts = tuple(
        SliceSample(world.GPU, 0, "2g.20gb", Placement(0, 2), 3, part, f"MIG-{part}", 10 << 20, 20 << 30, 1, LOAD)
        for part in (0, 1)
    )
    both = (world.owner("one", "MIG-0"), world.owner("two", "MIG-1"))
    ((labels, used),) = rows(shown(CUT_GPU, slices=parts, owners=both)["DCGM_FI_DEV_FB_USED"])
    assert (labels.get("pod"), used) == (None, 10)


def test_a_lost_gpu_says_nothing() -> None:
    assert shown(replace(WHOLE_GPU, down="it is lost"), slices=()) == {}


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text;version=1.0.0"])
def test_the_page_has_them_where_it_is_set_and_a_scraper_reads_them(accept: str) -> None:
    parse = parse_openmetrics if accept else parse_text
    for hostname in ("", "gpu-1"):
        metrics = Metrics("1.2.3", lambda: 1_700_000_000.0, {}, hostname)
        metrics.partition(world.report())
        metrics.telemetry(replace(world.looked(*SLICES), gpus=(CUT_GPU, WHOLE_GPU)))
        page = metrics.rendered(accept)[0].decode()
        names = {sample.name for family in parse(page) for sample in family.samples if sample.name.startswith("DCGM")}
        assert names == (RECORDED.keys() - NOT_SERVED if hostname else set())


def test_what_the_agent_shows_an_agent_can_read() -> None:
    """The two sides of DCGM's names agree."""
    metrics = Metrics("1.2.3", lambda: 1_700_000_000.0, {}, "gpu-1")
    metrics.partition(world.report())
    metrics.telemetry(TelemetrySnapshot(1_700_000_000.0, SLICES, gpus=(CUT_GPU,)))
    assert [one.utilization for one in loads_of(metrics.rendered("")[0])[world.GPU, 9]] == [LOAD]
