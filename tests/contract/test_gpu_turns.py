"""Which calls the driver does side by side, and which one after the other: told by the stamps of its log, not by a clock."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pynvml
import pytest

from tests.contract.nvml_session import Session
from tests.fakes.simgpu import H100, SimulatedGpus

SET_MODE = "nvmlDeviceSetMigMode"


@dataclass(frozen=True, slots=True)
class TwoGpus:
    node: SimulatedGpus
    handles: tuple[Any, Any]

    def called(self) -> int:
        return self.node.counters().get(SET_MODE, 0)

    def held_up(self) -> int:
        """How many calls hang in the driver: those that have their turn."""
        return sum(fault["seen"] for fault in json.loads(self.node.run("fault", "list")))

    def spans(self) -> list[tuple[int, int]]:
        """Begin and end of each change."""
        return sorted((entry["begun_ns"], entry["ended_ns"]) for entry in self.node.log())


@pytest.fixture
def two(tmp_path: Path) -> Iterator[TwoGpus]:
    session = Session(SimulatedGpus.create(tmp_path, f"{H100}:2"))
    yield TwoGpus(session.node, (session.gpu, pynvml.nvmlDeviceGetHandleByIndex(1)))
    pynvml.nvmlShutdown()


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline


def switch_on(gpu: Any) -> threading.Thread:
    thread = threading.Thread(target=pynvml.nvmlDeviceSetMigMode, args=(gpu, 1))
    thread.start()
    return thread


@contextmanager
def hanging(two: TwoGpus, *gpus: Any) -> Iterator[None]:
    """A change of each of the GPUs has been asked for, and hangs in the driver or waits for its turn."""
    two.node.fault(SET_MODE, "--hang")
    threads = [switch_on(gpu) for gpu in gpus]
    try:
        wait_until(lambda: two.called() == len(gpus) and two.held_up() > 0)
        yield
    finally:
        two.node.clear_faults()
        for thread in threads:
            thread.join()


def overlap(spans: list[tuple[int, int]]) -> bool:
    (_, end), (begin, _) = spans
    return begin < end


class TestInParallel:
    """As at first: per GPU."""

    def test_changes_of_two_gpus_run_side_by_side(self, two: TwoGpus) -> None:
        with hanging(two, *two.handles):
            wait_until(lambda: two.held_up() == 2)
        assert overlap(two.spans())

    def test_changes_of_one_gpu_follow_one_another(self, two: TwoGpus) -> None:
        with hanging(two, two.handles[0], two.handles[0]):
            assert two.held_up() == 1
        assert not overlap(two.spans())

    def test_so_do_those_of_two_processes(self, two: TwoGpus) -> None:
        other = threading.Thread(target=two.node.nvidia_smi, args=("-i", "0", "-mig", "1"))
        with hanging(two, two.handles[0]):
            other.start()
            wait_until(lambda: two.called() == 2)
            assert two.held_up() == 1
        other.join()
        assert not overlap(two.spans())

    def test_instances_are_changes_of_their_gpu(self, tmp_path: Path) -> None:
        session = Session(SimulatedGpus.create(tmp_path, H100, mig=True))
        _, compute, _ = session.create_slice("1g.10gb", 0)
        empty, orphan = session.create("1g.10gb", 1), session.create("1g.10gb", 2)
        profile = session.profile("1g.10gb").id
        changes: dict[str, Callable[[], Any]] = {
            "nvmlComputeInstanceDestroy": lambda: pynvml.nvmlComputeInstanceDestroy(compute),
            "nvmlGpuInstanceDestroy": lambda: pynvml.nvmlGpuInstanceDestroy(orphan),
            "nvmlGpuInstanceCreateComputeInstance": lambda: pynvml.nvmlGpuInstanceCreateComputeInstance(empty, 0),
            "nvmlDeviceCreateGpuInstance": lambda: pynvml.nvmlDeviceCreateGpuInstance(session.gpu, profile),
        }
        threads = [threading.Thread(target=change) for change in changes.values()]
        called, done = session.node.counters(), session.node.log()
        with hanging(TwoGpus(session.node, (session.gpu, session.gpu)), session.gpu):
            for thread in threads:
                thread.start()
            wait_until(
                lambda: {name for name, n in session.node.counters().items() if n > called.get(name, 0)} > {*changes}
            )
            assert session.node.log() == done
        for thread in threads:
            thread.join()
        ended = session.node.log()[len(done) :]
        assert ended[0]["function"] == SET_MODE
        assert {entry["function"] for entry in ended[1:]} == {*changes}
        pynvml.nvmlShutdown()

    def test_looking_waits_for_no_change(self, two: TwoGpus) -> None:
        with hanging(two, two.handles[0]):
            assert [pynvml.nvmlDeviceGetMigMode(gpu) for gpu in two.handles] == [[0, 0], [0, 0]]
            assert two.node.nvidia_smi("-L").returncode == 0


class TestOneAtATime:
    @pytest.fixture(autouse=True)
    def one_at_a_time(self, two: TwoGpus) -> None:
        two.node.run("parallel", "off")

    def test_changes_of_two_gpus_follow_one_another(self, two: TwoGpus) -> None:
        with hanging(two, *two.handles):
            assert two.held_up() == 1
        assert not overlap(two.spans())

    def test_looking_waits_too(self, two: TwoGpus) -> None:
        with hanging(two, two.handles[0]):
            two.node.fault("nvmlDeviceGetName", "--hang")
            looking = threading.Thread(target=pynvml.nvmlDeviceGetName, args=(two.handles[1],))
            looking.start()
            wait_until(lambda: two.node.counters().get("nvmlDeviceGetName") == 1)
            assert two.held_up() == 1
        looking.join()

    def test_who_waits_for_an_event_holds_up_nobody(self, two: TwoGpus) -> None:
        events, heard = pynvml.nvmlEventSetCreate(), []
        pynvml.nvmlDeviceRegisterEvents(two.handles[0], pynvml.nvmlEventMigConfigChange, events)
        listener = threading.Thread(target=lambda: heard.append(pynvml.nvmlEventSetWait_v2(events, 20_000)))
        listener.start()
        wait_until(lambda: two.node.counters().get("nvmlEventSetWait_v2") == 1)
        pynvml.nvmlDeviceSetMigMode(two.handles[0], 1)
        listener.join()
        assert [event.eventType for event in heard] == [pynvml.nvmlEventMigConfigChange]
        pynvml.nvmlEventSetFree(events)

    def test_who_is_killed_in_the_driver_leaves_its_turn(self, two: TwoGpus) -> None:
        two.node.fault(SET_MODE, "--count", "1", "--die", "before")
        assert two.node.nvidia_smi("-i", "0", "-mig", "1").returncode == -signal.SIGKILL
        assert pynvml.nvmlDeviceSetMigMode(two.handles[1], 1) == pynvml.NVML_SUCCESS


def test_latency_is_part_of_the_turn(two: TwoGpus) -> None:
    two.node.run("latency", "--function", SET_MODE, "--ms", "30")
    threads = [switch_on(two.handles[0]) for _ in range(4)]
    for thread in threads:
        thread.join()
    spans = two.spans()
    assert all(end - begin >= 30_000_000 for begin, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
