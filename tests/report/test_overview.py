"""What the status page and its JSON say of a node, from the reports of the two loops."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import jsonschema
import msgspec
import pytest
from hypothesis import given

from agent.model.desired import Desired
from agent.model.gate import Gate
from agent.model.mig import Gpu, GpuInstance, GpuWish, Placement, Shape, Slot
from agent.model.node import PodRef
from agent.model.operation import Before, Operation
from agent.model.overview import Away, FreeRun, HoldingPod, Overview, Share, ShownEvent, ShownPartition
from agent.model.report import PartitionReport, PodWorkload, WaitedFor
from agent.model.steps import (
    AnnounceReboot,
    Begin,
    Change,
    Create,
    Destroy,
    End,
    Evict,
    GpuChange,
    Pause,
    Prepare,
    Reboot,
    Recordon,
    Refresh,
    RestartClient,
    Resume,
    SetMode,
    Step,
    Trim,
    Turn,
)
from agent.model.telemetry import GpuSample, TelemetrySnapshot, Utilization, Xid
from agent.report.answer import memory_slices
from agent.report.looking import to_json
from agent.report.overview import Home, Known, overview_of, share_of
from agent.report.overview_partition import shown_partition
from agent.report.step_words import step_words
from hack import status_schema
from tests.report import world
from tests.strategies import gpus

NOW = 1_700_000_020.0
HOME = Home("gpu-1", "1.2.3", "all", 600.0)
WISH = Desired("night", "9a", {world.GPU: GpuWish(True)})
OPERATION = Operation("9a-1", "9a", "night", "boot", 1_700_000_000.0, True, {world.GPU: Before(True, ())})
POD = PodRef("ml", "trainer", "u-1")
BIG = Slot(Placement(0, 8), Shape("7g.80gb"))
CHANGE = Change(
    (GpuChange(world.GPU, (), ((Placement(0, 1), "1g.10gb"), (Placement(4, 4), "3g.40gb")), (BIG,)),), moves=(POD,)
)
EVERY_STEP: tuple[Step, ...] = (
    Begin(OPERATION, ()),
    Recordon(OPERATION),
    Turn(OPERATION),
    Evict(POD),
    Pause(OPERATION),
    SetMode(world.GPU, True),
    AnnounceReboot(OPERATION, "reboots"),
    Reboot(),
    Destroy(world.GPU, Placement(0, 1), "1g.10gb"),
    Trim(world.GPU, Placement(4, 4), "3g.40gb", (Placement(0, 1),)),
    Create(world.GPU, Placement(0, 8), Shape("7g.80gb")),
    Prepare(),
    Refresh(),
    Resume(OPERATION, "shared"),
    RestartClient(POD),
    End(OPERATION, "success", "applied", "applied", True),
)


def known(**more: Any) -> Known:
    return Known(**{"at": NOW, "partition": world.report(world.owner("trainer", world.SMALL)), **more})


def partition(report: PartitionReport, look: TelemetrySnapshot | None = None) -> ShownPartition:
    shown = shown_partition(report, look)
    assert shown is not None
    return shown


def test_every_kind_of_step_has_words_that_name_its_gpu_by_index() -> None:
    assert {type(step) for step in EVERY_STEP} == set(get_args(Step))
    words = [step_words(step, (world.gpu(),)) for step in EVERY_STEP]
    assert len(set(words)) == len(words)
    assert not any(world.GPU in one for one in words)
    assert "GPU 0: make 7g.80gb@0:8" in words


def test_a_slice_has_its_pods_each_once_and_their_workload() -> None:
    shared = replace(
        world.report(
            world.owner("a", f"{world.SMALL}::0"),
            world.owner("a", f"{world.SMALL}::1", container="other"),
            world.owner("b", f"{world.SMALL}::2"),
        ),
        workloads=(PodWorkload("ml", "a", "Deployment", "serve"),),
    )
    (gpu,) = partition(shared).gpus
    assert gpu.instances[0].devices[0].pods == (HoldingPod("ml", "a", "Deployment", "serve"), HoldingPod("ml", "b"))


def test_the_load_goes_to_the_slice_by_its_uuid_and_what_is_made_anew_has_none() -> None:
    look = world.looked(world.small(), world.large())
    (gpu,) = partition(world.report(), look).gpus
    assert gpu.instances[0].load.utilization == 0.5
    assert gpu.instances[1].load.utilization is None
    anew = world.gpu(world.instance(world.ONE, Placement(0, 1), uuid="MIG-new"))
    (gpu,) = partition(world.report(gpus=(anew,)), look).gpus
    assert gpu.instances[0].load.utilization is None


def test_memory_slices_that_no_profile_can_take_are_left_over() -> None:
    seven = [world.instance(world.ONE, Placement(start, 1), start, f"MIG-{start}") for start in range(7)]
    (gpu,) = partition(world.report(gpus=(world.gpu(*seven),))).gpus
    assert gpu.free == (FreeRun(7, 1, ""),)


@given(gpus())
def test_instances_and_free_runs_cover_each_memory_slice_once(gpu: Gpu) -> None:
    (shown,) = partition(world.report(gpus=(gpu,))).gpus
    runs = [(one.start, one.size) for one in shown.instances] + [(one.start, one.size) for one in shown.free]
    places = sorted(place for start, size in runs for place in range(start, start + size))
    assert places == (list(range(memory_slices(gpu))) if gpu.mig_enabled else [])


def test_a_whole_gpu_has_its_own_load_and_pods() -> None:
    look = TelemetrySnapshot(
        NOW, gpus=(GpuSample(world.GPU, 0, mig=False, temperature_celsius=61.0, utilization=Utilization(0.9)),)
    )
    report = world.report(world.owner("whole", f"{world.GPU}::3"), gpus=(world.gpu(mig_enabled=False),))
    (gpu,) = partition(report, look).gpus
    assert (gpu.mig, gpu.load.utilization, gpu.temperature_celsius) == ("off", 0.9, 61.0)
    assert [pod.pod for pod in gpu.pods] == ["whole"]


def test_a_lost_gpu_is_down_by_the_pass_or_by_a_later_sample_but_not_by_an_earlier_one() -> None:
    down = (GpuSample(world.GPU, 0, down="lost"),)
    healthy = world.report()
    assert partition(world.report(gpus=(world.gpu(unknown="GPU is lost"),))).gpus[0].down == "GPU is lost"
    assert partition(healthy, TelemetrySnapshot(healthy.finished + 1, gpus=down)).gpus[0].down == "lost"
    assert partition(healthy, TelemetrySnapshot(healthy.finished - 1, gpus=down)).gpus[0].down == ""


def test_xids_stand_at_their_gpu() -> None:
    look = TelemetrySnapshot(NOW, xids={Xid(world.GPU, 0, 9, 94): 2, Xid("GPU-other", 1, None, 79): 1})
    (gpu,) = partition(world.report(), look).gpus
    assert [(xid.number, xid.gpu_instance, xid.count) for xid in gpu.xids] == [(94, 9, 2)]


def test_a_change_says_which_slices_go_what_comes_and_who_moves() -> None:
    shown = partition(replace(world.report(waits_for="blocked"), change=CHANGE))
    assert shown.change is not None
    assert (shown.change.stage, shown.change.moves) == ("planned", ("ml/trainer",))
    assert [one.fate for one in shown.gpus[0].instances] == ["goes", "goes"]
    assert shown.gpus[0].planned is not None
    assert [(slot.profile, slot.new) for slot in shown.gpus[0].planned] == [("7g.80gb", True)]


@pytest.mark.parametrize(
    ("operation", "stage"),
    [
        (OPERATION, "draining"),
        (replace(OPERATION, touched=True), "cutting"),
        (replace(OPERATION, touched=True, resumed=True), "advertising"),
    ],
)
def test_the_record_says_how_far_a_change_is(operation: Operation, stage: str) -> None:
    shown = partition(replace(world.report(), operation=operation, change=CHANGE)).change
    assert shown is not None
    assert (shown.stage, shown.started, shown.back) == (stage, OPERATION.started, False)


def test_steps_that_are_taken_leave_nothing_to_wait_for() -> None:
    steps = EVERY_STEP[8:11]
    report = replace(world.report(waits_for="draining"), operation=OPERATION, change=CHANGE, steps=steps)
    report = replace(report, taken=frozenset({0}), doing=frozenset({1}))
    shown = partition(report)
    assert shown.wait is None
    assert shown.change is not None
    assert [step.state for step in shown.change.steps] == ["done", "doing", "to do"]


def test_a_change_that_failed_goes_back_and_says_why() -> None:
    back = OPERATION.failed("the driver refused", "rolled-back")
    shown = partition(replace(world.report(), operation=back)).change
    assert shown is not None
    assert (shown.back, shown.failure) == (True, "the driver refused")


def test_nothing_changes_on_a_node_that_is_settled() -> None:
    assert partition(replace(world.report(), change=CHANGE)).change is None


def test_a_pod_in_the_way_stands_once_with_all_its_budgets() -> None:
    twice = [WaitedFor("ml", "a", "ReplicaSet/a", budget) for budget in ("one", "two")]
    pods = (*twice, WaitedFor("ml", "b", "", ""))
    shown = partition(replace(world.report(waits_for="budget"), pods=pods, waits_message="waits"))
    assert shown.wait is not None
    assert [(pod.pod, pod.budgets) for pod in shown.wait.pods] == [("a", ("one", "two")), ("b", ())]


def test_the_cache_containers_part_is_the_same_as_its_own() -> None:
    apart = Home("gpu-1", "1.2.3", "cache", 600.0)
    there = Known(NOW, cache=world.cached(), lacks=("node: away",))
    told = Share.from_json(to_json(share_of(there, apart)))
    assert told is not None
    here = overview_of(known(), replace(HOME, role="partition"), told)
    assert here.cache == overview_of(there, apart, None).cache
    assert [(one.role, one.state, one.lacks) for one in here.containers] == [
        ("partition", "here", ()),
        ("cache", "answers", ("node: away",)),
    ]


def test_a_cache_container_that_does_not_answer_takes_nothing_else_away() -> None:
    here = overview_of(known(), replace(HOME, role="partition"), Away("nobody listens", NOW - 5))
    assert here.cache is None
    assert here.partition is not None
    assert (here.containers[1].state, here.containers[1].since) == ("away", NOW - 5)


def test_what_another_program_says_is_no_share() -> None:
    for text in (b"", b"{}", b"[1]", b"[" * 100_000, b"\xff"):
        assert Share.from_json(text) is None


def test_the_newest_events_of_both_containers_come_first() -> None:
    def event(at: float, role: Any) -> ShownEvent:
        return ShownEvent(at, role, False, "Applied", f"at {at}")

    told = Share("1", (), None, tuple(event(at, "cache") for at in (3.0, 1.0)))
    here = overview_of(known(events=(event(2.0, "partition"),)), replace(HOME, role="partition"), told)
    assert [one.at for one in here.events] == [3.0, 2.0, 1.0]


def test_a_gate_that_is_shut_opens_at_the_latest_when_the_setting_says() -> None:
    gate = overview_of(known(gate=Gate(NOW, "models", "waits for acme/chat")), HOME, None).gate
    assert gate is not None
    assert (gate.since, gate.opens) == (NOW, NOW + 600)


def test_only_the_time_makes_no_news() -> None:
    assert known() == known(at=NOW + 1)
    assert known() != known(cordoned=True)


def whole() -> Overview:
    """Something of everything."""
    report = replace(
        world.report(waits_for="blocked"),
        operation=OPERATION,
        change=CHANGE,
        steps=EVERY_STEP,
        taken=frozenset({0, 1}),
        doing=frozenset({2}),
        gpus=(
            world.gpu(world.instance(world.ONE, Placement(0, 1)), GpuInstance(3, "3g.40gb", Placement(4, 4))),
            replace(world.gpu(unknown="lost"), index=1, uuid="GPU-2"),
        ),
    )
    events = (ShownEvent(NOW, "partition", True, "Blocked", "blocked", "Pod ml/a", 3),)
    everything = known(
        partition=report,
        telemetry=world.looked(world.small()),
        cache=world.cached(),
        gate=Gate(NOW, "models", "waits"),
        cordoned=True,
        events=events,
    )
    return overview_of(everything, HOME, None)


def test_the_schema_in_the_repository_is_that_of_the_code() -> None:
    """``python -m hack.status_schema`` writes it."""
    assert Path(status_schema.SCHEMA).read_text("utf-8") == status_schema.schema()


def test_every_noun_of_the_schema_has_its_sentence() -> None:
    nouns = json.loads(status_schema.schema())["$defs"]
    assert [name for name, noun in nouns.items() if not noun.get("description")] == []


@pytest.mark.parametrize("overview", [whole(), overview_of(Known(NOW), replace(HOME, role="cache"), None)])
def test_what_is_served_is_as_the_schema_says(overview: Overview) -> None:
    schema = json.loads(status_schema.schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(to_json(overview)), schema)
    assert msgspec.json.decode(to_json(overview), type=Overview) == overview


def test_half_a_surrogate_pair_in_a_message_stops_nobody() -> None:
    event = ShownEvent(NOW, "cache", False, "ModelReady", "\ud800")
    assert json.loads(to_json(overview_of(known(events=(event,)), HOME, None)))["events"][0]["message"] == "?"
