"""Loads of slices out of a dcgm-exporter's answers: what is taken, from whom, and for which slice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.model.errors import RetryError
from agent.model.mig import Placement
from agent.model.telemetry import SliceSample, TelemetrySnapshot, Utilization
from agent.observe.dcgm import DcgmLoads, ExporterLoad, exporter_url, is_same_profile, loads_of

GPU = "GPU-34319582-d595-d1c7-d1d2-179bcfa61660"
NOTHING = Utilization()
INTERVAL = 30.0


def line(name: str, value: str, gi: str = "9", profile: str = "1g.10gb", gpu: str = GPU, pod: str = "") -> str:
    labels = {"gpu": "0", "UUID": gpu, "GPU_I_PROFILE": profile, "GPU_I_ID": gi, "Hostname": "n", "pod": pod}
    written = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return f"{name}{{{written}}} {value}"


def active(value: str, **labels: str) -> str:
    return line("DCGM_FI_PROF_GR_ENGINE_ACTIVE", value, **labels)


def one_slice(compute_instance: int = 0, **fields: Any) -> SliceSample:
    one = SliceSample(GPU, 0, "1g.10gb", Placement(0, 1), 9, compute_instance, f"MIG-{compute_instance}")
    return replace(one, **fields)


# -- an answer ------------------------------------------------------------------------------------------------------------


def test_each_field_of_a_gpu_instance_has_its_name() -> None:
    text = [
        "# HELP DCGM_FI_PROF_GR_ENGINE_ACTIVE Ratio of time the graphics engine is active.",
        "# TYPE DCGM_FI_PROF_GR_ENGINE_ACTIVE gauge",
        active("0.500000"),
        line("DCGM_FI_PROF_SM_ACTIVE", "0.4"),
        line("DCGM_FI_PROF_SM_OCCUPANCY", "0.3"),
        line("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "0.2"),
        line("DCGM_FI_PROF_DRAM_ACTIVE", "0.1"),
        line("DCGM_FI_DEV_FB_USED", "5000"),
    ]
    expected = {(GPU, 9): (ExporterLoad("1g.10gb", Utilization(0.5, 0.4, 0.3, 0.2, 0.1)),)}
    assert loads_of("\n".join(text).encode()) == expected


def test_what_its_administrator_did_not_turn_on_is_absent() -> None:
    (load,) = loads_of(active("0.5").encode())[GPU, 9]
    assert load.utilization == Utilization(graphics=0.5)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-0.1", "1.2", "9223372036854775794", "busy", ""])
def test_a_number_that_no_load_can_be_is_left_out(value: str) -> None:
    assert loads_of(active(value).encode()) == {}


@pytest.mark.parametrize(
    "broken",
    [
        'DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0",UUID="GPU-x"} 0.5',
        'DCGM_FI_PROF_GR_ENGINE_ACTIVE{UUID="GPU-x",GPU_I_ID="first",GPU_I_PROFILE="1g.5gb"} 0.5',
        'DCGM_FI_PROF_GR_ENGINE_ACTIVE{UUID="GPU-x",GPU_I_ID="1',
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE{",
        "<html>",
    ],
)
def test_a_line_that_cannot_be_read_takes_no_other_with_it(broken: str) -> None:
    assert list(loads_of(f"{broken}\n{active('0.5')}\n{broken}".encode())) == [(GPU, 9)]


def test_series_of_a_slice_that_pods_share_are_one_and_contradictions_are_none() -> None:
    same = [active("0.5", pod="one"), active("0.5", pod="two")]
    assert loads_of("\n".join(same).encode())[GPU, 9] == (ExporterLoad("1g.10gb", Utilization(graphics=0.5)),)
    differ = [*same, active("0.6", pod="three"), active("0.6", pod="four")]
    assert loads_of("\n".join(differ).encode())[GPU, 9] == (ExporterLoad("1g.10gb", NOTHING),)


@given(st.binary(max_size=200), st.text(max_size=80), st.text(max_size=20))
def test_no_answer_of_a_stranger_is_an_error(noise: bytes, labels: str, value: str) -> None:
    loads_of(noise)
    for text in (
        f"DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{labels}}} {value}",
        f"DCGM_FI_PROF_DRAM_ACTIVE{{{labels}",
        active(value),
    ):
        loads_of(text.encode("utf-8", "replace") + noise)


@pytest.mark.parametrize(
    ("said", "ours", "same"),
    [
        ("1g.10gb", "1g.10gb", True),
        ("7g.79gb", "7g.80gb", True),
        ("1g.11gb", "1g.12gb", True),
        ("1g.10gb", "1g.10gb+me", True),
        ("1g.10gb+me", "1g.10gb", False),
        ("1g.5gb", "1g.10gb", False),
        ("2g.10gb", "1g.10gb", False),
        ("", "1g.10gb", False),
        ("1c.2g.20gb", "2g.20gb", False),
    ],
)
def test_dcgm_may_round_the_memory_of_a_profile_in_its_own_way(said: str, ours: str, same: bool) -> None:
    assert is_same_profile(said, ours) == same


# -- from whom ------------------------------------------------------------------------------------------------------------


def exporter_pod(name: str = "nvidia-dcgm-exporter-x7k2p", **changes: Any) -> dict[str, Any]:
    ports = [{"name": "health", "containerPort": 9401}, {"name": "metrics", "containerPort": 9410}]
    owner = {"kind": "DaemonSet", "name": "nvidia-dcgm-exporter", "controller": True}
    metadata = {"namespace": "gpu-operator", "name": name, "labels": {"app": "nvidia-dcgm-exporter"}}
    return {
        "metadata": metadata | {"ownerReferences": [owner]} | changes.get("metadata", {}),
        "spec": {"containers": [{"name": "exporter", "ports": ports}]} | changes.get("spec", {}),
        "status": {"phase": "Running", "podIP": "10.0.0.7"} | changes.get("status", {}),
    }


def test_the_exporter_of_the_node_is_found_by_what_its_charts_say_of_it() -> None:
    assert exporter_url("auto", [exporter_pod()]) == "http://10.0.0.7:9410/metrics"
    chart = exporter_pod(
        metadata={"labels": {"app.kubernetes.io/name": "dcgm-exporter"}},
        spec={"containers": [{"name": "exporter"}]},
        status={"podIP": "fd00::7"},
    )
    assert exporter_url("auto", [chart]) == "http://[fd00::7]:9400/metrics"


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": {"labels": {"app": "nvidia-device-plugin"}}},
        {"metadata": {"ownerReferences": [{"kind": "ReplicaSet", "name": "mine", "controller": True}]}},
        {"metadata": {"ownerReferences": []}},
        {"metadata": {"deletionTimestamp": "2026-11-23T21:32:41Z"}},
        {"status": {"phase": "Pending"}},
        {"status": {"podIP": ""}},
    ],
)
def test_a_pod_that_is_no_running_exporter_of_a_daemonset_is_not_asked(changes: dict[str, Any]) -> None:
    assert exporter_url("auto", [exporter_pod(**changes)]) is None


def test_nobody_is_asked_where_nobody_is_wanted_and_where_it_is_not_clear_who() -> None:
    assert exporter_url("off", [exporter_pod()]) is None
    assert exporter_url("http://127.0.0.1:9400/metrics", [exporter_pod()]) == "http://127.0.0.1:9400/metrics"
    with pytest.raises(RetryError, match="gpu-operator/a, gpu-operator/b"):
        exporter_url("auto", [exporter_pod("b"), exporter_pod("a")])


# -- for which slice ------------------------------------------------------------------------------------------------------


@dataclass
class Exporter:
    """Answers what ``page`` says."""

    page: Callable[[], str | None]
    asked: int = 0

    async def read(self) -> bytes | None:
        self.asked += 1
        found = self.page()
        if found is None:
            raise RetryError("no answer")
        return found.encode()


@dataclass
class Node:
    """Looks and questions in the time of ``now``."""

    exporter: Exporter
    interval: float = INTERVAL
    period: float = 10.0
    now: float = 0.0
    loads: DcgmLoads = field(init=False)

    def __post_init__(self) -> None:
        self.loads = DcgmLoads(self.exporter, self.interval, self.period, lambda: self.now)

    def look(self, *slices: SliceSample, after: float = 0.0) -> tuple[SliceSample, ...]:
        self.now += after
        return self.loads.filled(TelemetrySnapshot(self.now, slices)).slices

    async def settled(self, *slices: SliceSample) -> tuple[SliceSample, ...]:
        """Seen long enough, asked, and looked at."""
        for _ in range(7):
            self.look(*slices, after=10.0)
        await self.loads.ask()
        return self.look(*slices)


async def test_a_slice_without_a_load_gets_the_exporters_and_counts_it() -> None:
    node = Node(Exporter(lambda: active("0.5")))
    (filled,) = await node.settled(one_slice())
    assert (filled.utilization, filled.active_seconds) == (Utilization(graphics=0.5), 0.0)
    (later,) = node.look(one_slice(), after=10.0)
    assert later.active_seconds == 5.0


async def test_compute_instances_of_a_gpu_instance_share_its_load() -> None:
    both = (one_slice(0), one_slice(1))
    filled = await Node(Exporter(lambda: active("0.5"))).settled(*both)
    assert [one.utilization.graphics for one in filled] == [0.5, 0.5]


async def test_what_nvml_measures_itself_is_left_as_it_is_also_while_it_is_silent() -> None:
    node = Node(Exporter(lambda: active("0.5")))
    own = one_slice(utilization=Utilization(graphics=0.1), active_seconds=3.0)
    assert await node.settled(own) == (own,)
    assert await node.settled(one_slice()) == (one_slice(),)


async def test_a_load_is_that_of_its_gpu_instance_and_profile_alone() -> None:
    others = [active("0.5", gi="8"), active("0.5", gpu="GPU-other"), active("0.5", profile="2g.20gb")]
    (filled,) = await Node(Exporter(lambda: "\n".join(others))).settled(one_slice())
    assert filled.utilization == NOTHING


async def test_an_exporter_that_does_not_answer_leaves_its_last_word_for_two_intervals_and_the_count_for_ever() -> None:
    said: list[str | None] = [active("0.5")]
    node = Node(Exporter(lambda: said[0]))
    await node.settled(one_slice())
    said[0] = None
    for _ in range(6):
        (filled,) = node.look(one_slice(), after=10.0)
        await node.loads.ask()
        assert filled.utilization.graphics == 0.5
    (gone,) = node.look(one_slice(), after=10.0)
    assert (gone.utilization, gone.active_seconds) == (NOTHING, 30.0)


async def test_a_time_without_an_answer_is_not_counted() -> None:
    said: list[str | None] = [active("1")]
    node = Node(Exporter(lambda: said[0]))
    await node.settled(one_slice())
    said[0] = "\n"
    await node.loads.ask()
    node.look(one_slice(), after=10.0)
    said[0] = active("1")
    await node.loads.ask()
    (filled,) = node.look(one_slice(), after=10.0)
    assert filled.active_seconds == 0.0


async def test_nobody_is_asked_while_there_is_nothing_to_ask_for() -> None:
    """No slice, one too young to be told of, and slices whose load NVML tells."""
    exporter = Exporter(lambda: active("0.5"))
    node = Node(exporter, interval=1.0, period=0.001)
    asking = asyncio.create_task(node.loads.run())
    try:
        for slices in ((), (one_slice(),), (one_slice(utilization=Utilization(graphics=0.1)),) * 3):
            node.look(*slices, after=1.0)
            await asyncio.sleep(0.01)
            assert exporter.asked == 0
        node.look(one_slice(gpu_instance=8), after=1.0)
        node.look(one_slice(gpu_instance=8), after=2.0)
        async with asyncio.timeout(5):
            while exporter.asked == 0:
                await asyncio.sleep(0.001)
    finally:
        asking.cancel()
        await asyncio.wait([asking])


@dataclass(frozen=True)
class Cut:
    """The GPU instance is made anew at ``at`` and a half. ``seen``: a look can tell the two apart; else the agent did it."""

    at: int
    seen: bool


@given(
    cuts=st.lists(st.builds(Cut, st.integers(0, 60), st.booleans()), max_size=4, unique_by=lambda cut: cut.at),
    interval=st.integers(1, 8),
    phase=st.integers(0, 7),
    period=st.integers(1, 5),
)
@example(cuts=[Cut(20, seen=False)], interval=5, phase=1, period=1)
@example(cuts=[Cut(20, seen=True), Cut(21, seen=False)], interval=8, phase=7, period=2)
@example(cuts=[Cut(20, seen=True)], interval=3, phase=0, period=5)
def test_whatever_is_cut_when_no_load_is_that_of_an_instance_before(
    cuts: list[Cut], interval: int, phase: int, period: int
) -> None:
    """A look each second and a question now and then. What is collected while one instance gave way to another says 0.99; else
    the number of the instance that it is of. It does come, once an instance has been there for long enough."""
    asyncio.run(_play(sorted(cuts, key=lambda cut: cut.at), interval, phase, period))


async def _play(cuts: list[Cut], interval: int, phase: int, period: int) -> None:
    moments = [-1000.0, *(cut.at + 0.5 for cut in cuts)]

    def number(at: float) -> int:
        return sum(moment <= at for moment in moments)

    def page() -> str:
        collected = node.now - (node.now - phase) % interval
        pure = number(collected) == number(collected - interval)
        return active(str(number(collected) / 100 if pure else 0.99))

    node = Node(Exporter(page), interval=interval, period=period)
    for second in range(100):
        node.now = float(second)
        if any(cut.at + 1 == second and not cut.seen for cut in cuts):
            node.loads.changing(True)
            node.loads.changing(False)
        told = sum(cut.seen for cut in cuts if cut.at < second)
        (filled,) = node.look(one_slice(placement=Placement(told, 1)))
        if second % period == 0:
            await node.loads.ask()
        load = filled.utilization.graphics
        assert load in (None, number(second) / 100)
        assert load is not None or second - max(0, moments[number(second) - 1]) <= 2 * interval + period + 1


def test_a_line_longer_than_any_exporters_is_passed_over() -> None:
    """The parser's time goes with the square of a line's length; the rest of the answer counts."""
    right = 'DCGM_FI_PROF_GR_ENGINE_ACTIVE{{UUID="{}",GPU_I_ID="7",GPU_I_PROFILE="1g.10gb"{}}} 0.5'
    long = "".join(f',x{number}="y"' for number in range(1_000))
    body = f"{right.format('GPU-1', long)}\n{right.format('GPU-2', '')}\n"
    assert list(loads_of(body.encode())) == [("GPU-2", 7)]


def test_of_an_answer_without_end_as_much_is_read_as_any_node_has() -> None:
    line = 'DCGM_FI_PROF_GR_ENGINE_ACTIVE{{UUID="GPU-{}",GPU_I_ID="7",GPU_I_PROFILE="1g.10gb"}} 0.5\n'
    assert len(loads_of("".join(map(line.format, range(6_000))).encode())) == 5_000
