"""What Prometheus sees of GPUs, and of what they cost."""

from __future__ import annotations

import pytest
from prometheus_client.metrics_core import Metric

from agent.model.telemetry import GpuSample, Xid
from agent.report.gpus import gpu_families, price_family, price_of, xid_family
from agent.report.slices import holders_by_slice
from tests.report import world

WHOLE = {"gpu": "1", "gpu_uuid": world.WHOLE}
NOBODY = {"namespace": "", "pod": "", "container": ""}


def shown(*gpus: GpuSample, owners: tuple[str, ...] = ()) -> dict[str, list[tuple[dict[str, str], float]]]:
    holders = holders_by_slice([world.owner(pod, f"{world.WHOLE}::{number}") for number, pod in enumerate(owners)])
    return {family.name: samples(family) for family in gpu_families(gpus, holders)}


def samples(family: Metric) -> list[tuple[dict[str, str], float]]:
    return [(sample.labels, sample.value) for sample in family.samples]


def test_a_whole_gpu_is_measured_as_a_slice_is() -> None:
    found = shown(world.whole())
    for name, value in {
        "memory_used_bytes": 1 << 30,
        "processes": 2,
        "utilization_ratio": 0.75,
        "sm_utilization_ratio": 0.5,
        "dram_bandwidth_utilization_ratio": 0.0,
        "active_seconds": 90.0,
    }.items():
        assert found[f"warmslice_gpu_{name}"] == [(WHOLE | NOBODY, value)]
    assert found["warmslice_gpu_temperature_celsius"] == [(WHOLE, 41.0)]
    assert found["warmslice_gpu_power_watts"] == [(WHOLE, 312.5)]
    assert found["warmslice_gpu_info"] == [(WHOLE | {"model": "NVIDIA H100 80GB HBM3", "mig": "off"}, 1)]
    errors = {labels["type"]: value for labels, value in found["warmslice_gpu_ecc_errors"]}
    assert errors == {"corrected": 3, "uncorrected": 0}


def test_a_gpu_that_is_cut_has_health_and_leaves_the_rest_to_its_slices() -> None:
    """Memory of slices and of their GPU in one sum would be counted twice."""
    found = shown(world.cut())
    assert "warmslice_gpu_temperature_celsius" in found
    assert not [name for name in found if "memory" in name or "ratio" in name or "active" in name]


def test_time_slicing_names_every_holder_and_measures_the_gpu_once() -> None:
    found = shown(world.whole(), owners=("a", "b"))
    assert [labels["pod"] for labels, _ in found["warmslice_gpu_holder_info"]] == ["a", "b"]
    assert found["warmslice_gpu_memory_used_bytes"] == [(WHOLE | NOBODY, 1 << 30)]
    alone = shown(world.whole(), owners=("a",))
    assert [labels["pod"] for labels, _ in alone["warmslice_gpu_memory_used_bytes"]] == ["a"]


def test_a_lost_gpu_says_that_it_is_down_and_nothing_that_was_measured_before() -> None:
    lost = GpuSample(world.WHOLE, 1, "NVIDIA H100 80GB HBM3", False, down="GPU is lost")
    found = shown(lost)
    assert found["warmslice_gpu_up"] == [(WHOLE, 0)]
    assert found.keys() == {"warmslice_gpu_up", "warmslice_gpu_info"}


def test_an_xid_of_the_whole_gpu_has_no_gpu_instance() -> None:
    found = samples(xid_family({Xid(world.GPU, 0, None, 79): 1, Xid(world.GPU, 0, 9, 43): 2}))
    assert [(labels["gpu_instance"], labels["xid"], value) for labels, value in found] == [
        ("", "79", 1),
        ("9", "43", 2),
    ]


@pytest.mark.parametrize(
    ("model", "price"),
    [("NVIDIA A100-SXM4-40GB", 2.0), ("NVIDIA H100 80GB HBM3", 4.0), ("NVIDIA L40S", 1.0), ("", None)],
)
def test_the_first_pattern_that_matches_says_the_price(model: str, price: float | None) -> None:
    assert price_of(model, {"NVIDIA A100*": 2.0, "NVIDIA H100*": 4.0, "*": 1.0}) == price


def test_a_gpu_of_unknown_price_has_none() -> None:
    assert samples(price_family([world.whole()], {"NVIDIA A100*": 2.0})) == []
