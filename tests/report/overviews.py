"""Overviews, whole and drawn at random, for the tests of the page."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from agent.model.cache import CacheReport
from agent.model.mig import Layout, Placement, Shape, Slot
from agent.model.node import PodRef
from agent.model.operation import Before, Operation
from agent.model.overview import EventView, Overview, Part
from agent.model.report import PartitionReport, WaitedFor
from agent.model.steps import Change, Create, Destroy, GpuChange
from agent.model.telemetry import TelemetrySnapshot, Xid
from agent.report.overview import cache_view, overview_of, partition_view
from tests.report import world

NOW = 1_700_000_020.0


def overview(
    report: PartitionReport | None = None,
    telemetry: TelemetrySnapshot | None = None,
    cache: CacheReport | None = None,
    events: tuple[EventView, ...] = (),
    gate: tuple[str, ...] = (),
) -> Overview:
    own = Part(
        partition_view(report, telemetry) if report is not None else None,
        cache_view(cache, gate) if cache is not None else None,
        events,
    )
    return overview_of("gpu-1", NOW, "1.2.3", own, None)


def changing() -> PartitionReport:
    """The second of two steps on the hardware is being taken, and one pod had to move."""
    keep: Layout = (Slot(Placement(0, 1), Shape("1g.10gb")),)
    create: Layout = (Slot(Placement(4, 4), Shape("3g.40gb")),)
    change = Change((GpuChange(world.GPU, keep, create=create),), (PodRef("ml", "goes", "u"),))
    return replace(
        world.report(world.owner("trainer", world.SMALL)),
        operation=Operation("1", "r", "mixed", "b", NOW - 60, True, {world.GPU: Before(True, keep)}),
        change=change,
        steps=(Destroy(world.GPU, Placement(4, 1), "1g.10gb"), Create(world.GPU, Placement(4, 4), Shape("3g.40gb"))),
        taken=1,
    )


def blocked(name: str = "web-1") -> PartitionReport:
    pods = (WaitedFor("ml", name, "ReplicaSet/web", "keep-web"),)
    return replace(world.report(waits_for="budget"), pods=pods, waits_message=f"budget keep-web holds {name}")


def looked() -> TelemetrySnapshot:
    gpus = (world.cut(), world.whole(), world.lost())
    return world.looked(world.small(), world.large(), gpus=gpus, xids={Xid(world.GPU, 0, 9, 43): 2})


EVERYTHING = overview(
    changing(),
    looked(),
    world.cached(),
    (EventView(NOW - 5, True, "Drift", "changed by hand", "Node gpu-1"),),
    ("layout",),
)


def strange() -> st.SearchStrategy[Overview]:
    """Every text that a stranger may have written is one that hurts where it is not escaped."""
    nasty = st.one_of(
        st.text(max_size=30),
        st.sampled_from(
            [
                '<script>alert("x")</script>',
                "</section><h1>",
                "'\"><img src=x onerror=y>",
                "&amp;",
                "\u202e\x00\x1b[31m",
            ]
        ),
    )

    def made(words: list[str]) -> Overview:
        pod, message, event, layout = words
        report = blocked(pod)
        assert report.status is not None
        status = replace(report.status, message=message, layout=layout, state="failed")
        report = replace(report, status=status, owners=(world.owner(pod, world.SMALL, world.WHOLE),), error=message)
        cached = world.cached()
        models = tuple(replace(model, name=pod, message=message, because=event) for model in cached.models)
        said = EventView(NOW, False, event, message, f"Pod {pod}", 2)
        return overview(
            report, looked(), replace(cached, models=models, refusal=event, over=message), (said,), (event,)
        )

    return st.lists(nasty, min_size=4, max_size=4).map(made)
