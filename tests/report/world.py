"""A node with two GPUs, one cut into slices, and a cache with two models: whole reports for the tests of this folder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agent.model.cache import CacheReport, DiskUse, FetchTotals, FinishedFetch, ModelReport, ModelState
from agent.model.mig import ComputeInstance, Gpu, GpuInstance, Placement, Profile
from agent.model.node import DeviceOwner
from agent.model.report import NodeStatus, PartitionReport
from agent.model.telemetry import GpuSample, SliceSample, TelemetrySnapshot, Utilization, Xid

GPU = "GPU-5c2b1f36-0d0e-4b4e-9f7a-000000000000"
SMALL = "MIG-11111111-1111-5111-8111-111111111111"
WHOLE = "GPU-5c2b1f36-0d0e-4b4e-9f7a-000000000001"
LARGE = "MIG-22222222-2222-5222-8222-222222222222"

ONE = Profile("1g.10gb", 19, 1, 9728, 16, 7, tuple(Placement(start, 1) for start in range(7)), (1,))
WITH_MEDIA = Profile("1g.10gb+me", 20, 1, 9728, 16, 1, tuple(Placement(start, 1) for start in range(7)), (1,))
TWO = Profile("2g.20gb", 14, 2, 19968, 32, 3, tuple(Placement(start, 2) for start in (0, 2, 4)), (1, 2))
THREE = Profile("3g.40gb", 9, 3, 40448, 60, 2, (Placement(0, 4), Placement(4, 4)), (1, 2, 3))
SEVEN = Profile("7g.80gb", 0, 7, 81152, 132, 1, (Placement(0, 8),), (1, 2, 3, 4, 7))


def gpu(*instances: GpuInstance, mig_enabled: bool | None = True, unknown: str = "") -> Gpu:
    return Gpu(
        uuid=GPU,
        index=0,
        name="NVIDIA H100 80GB HBM3",
        pci_device_id="0x233010DE",
        memory_mib=81559,
        mig_enabled=mig_enabled,
        mig_pending=mig_enabled,
        resetless=True,
        profiles=(ONE, WITH_MEDIA, TWO, THREE, SEVEN),
        instances=instances,
        unknown=unknown,
    )


def instance(profile: Profile, placement: Placement, number: int = 1, uuid: str = SMALL) -> GpuInstance:
    return GpuInstance(number, profile.name, placement, (ComputeInstance(0, profile.slices, True, uuid),))


def small(used: int = 12 << 20) -> SliceSample:
    return SliceSample(
        gpu=GPU,
        gpu_index=0,
        profile="1g.10gb",
        placement=Placement(0, 1),
        gpu_instance=9,
        compute_instance=0,
        uuid=SMALL,
        memory_used_bytes=used,
        memory_total_bytes=9728 << 20,
        processes=1,
        utilization=Utilization(0.5, 0.25, 0.125, 0.0, 0.75),
        active_seconds=30.0,
        gpu_share=0.125,
    )


def large() -> SliceSample:
    return SliceSample(GPU, 0, "3g.40gb", Placement(4, 4), 1, 0, LARGE, 20 << 20, 40448 << 20, 0)


def looked(
    *slices: SliceSample, gpus: tuple[GpuSample, ...] = (), xids: dict[Xid, int] | None = None
) -> TelemetrySnapshot:
    return TelemetrySnapshot(1_700_000_010.0, slices, gpus=gpus, xids=xids or {})


def whole(**changes: Any) -> GpuSample:
    """A GPU whose MIG mode is off."""
    sample = GpuSample(
        uuid=WHOLE,
        index=1,
        model="NVIDIA H100 80GB HBM3",
        mig=False,
        temperature_celsius=41.0,
        power_watts=312.5,
        ecc_corrected=3,
        ecc_uncorrected=0,
        memory_used_bytes=1 << 30,
        memory_total_bytes=80 << 30,
        processes=2,
        utilization=Utilization(0.75, 0.5, 0.25, 0.125, 0.0),
        active_seconds=90.0,
    )
    return replace(sample, **changes)


def cut(**changes: Any) -> GpuSample:
    """One that is cut into slices: what is measured of it as a whole is none."""
    return replace(
        GpuSample(GPU, 0, "NVIDIA H100 80GB HBM3", True, temperature_celsius=39.0, power_watts=120.0), **changes
    )


def owner(pod: str, *devices: str, container: str = "main") -> DeviceOwner:
    return DeviceOwner("ml", pod, container, "nvidia.com/mig-1g.10gb", devices)


def report(*owners: DeviceOwner, waits_for: str = "", gpus: tuple[Gpu, ...] = ()) -> PartitionReport:
    return PartitionReport(
        finished=1_700_000_000.0,
        gpus=gpus or (gpu(instance(ONE, Placement(0, 1)), instance(THREE, Placement(4, 4), 2, LARGE)),),
        owners=owners,
        status=NodeStatus("pending", "waiting", "waits", 1_699_999_000.0, "all-1g.10gb", "4f2a9c01"),
        waits_for=waits_for,
        waits_since=1_699_999_940.0,
    )


def cached(budget: int | None = 10 << 30, finished: tuple[FinishedFetch, ...] = ()) -> CacheReport:
    return CacheReport(
        at_seconds=1_700_000_005.0,
        models=(_model("ready-one", ModelState.READY, 100, 100), _model("new-one", ModelState.FETCHING, 0, 0)),
        refusal=None,
        disk=DiskUse(used_bytes=100, free_bytes=1 << 40),
        budget_bytes=budget,
        totals=FetchTotals(received_bytes=140, failures={"rate-limited": 2}, verify_failures=1),
        finished=finished,
        labels_to_write={},
        look_again_seconds=None,
    )


def _model(name: str, state: ModelState, size: int, fetched: int) -> ModelReport:
    return ModelReport(name, f"org/{name}", "main", None, state, "", "", size, fetched, 1_700_000_000.0, None)


def lost() -> GpuSample:
    """One that fell off the bus."""
    return GpuSample("GPU-5c2b1f36-0d0e-4b4e-9f7a-000000000002", 2, "NVIDIA H100 80GB HBM3", True, down="GPU is lost")
