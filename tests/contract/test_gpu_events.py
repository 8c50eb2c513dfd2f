"""What the driver tells of by itself: changes of the MIG layout and Xid errors, to every listener of every process."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pynvml
import pytest

from tests.contract.nvml_session import Session
from tests.fakes.simgpu import H100, SimulatedGpus

NONE = 0xFFFFFFFF
CHANGE, XID = pynvml.nvmlEventMigConfigChange, pynvml.nvmlEventTypeXidCriticalError


@contextmanager
def listening(types: int, *gpus: Any) -> Iterator[Any]:
    """An event set with ``types`` of each GPU."""
    found = pynvml.nvmlEventSetCreate()
    for gpu in gpus:
        pynvml.nvmlDeviceRegisterEvents(gpu, types, found)
    yield found
    pynvml.nvmlEventSetFree(found)


def told(events: Any) -> list[tuple[int, int, int, int]]:
    """(type, data, GPU instance id, compute instance id) of all that is waiting in the set."""
    found: list[tuple[int, int, int, int]] = []
    while True:
        try:
            event = pynvml.nvmlEventSetWait_v2(events, 1)
        except pynvml.NVMLError_Timeout:
            return found
        found.append((event.eventType, event.eventData, event.gpuInstanceId, event.computeInstanceId))


def xid(session: Session, device: Any, number: int) -> None:
    session.node.run("xid", "--device", pynvml.nvmlDeviceGetUUID(device), "--xid", str(number))


class TestLayout:
    def test_a_change_is_an_event_of_the_parent(self, session: Session) -> None:
        with listening(CHANGE, session.gpu) as events:
            session.create("1g.10gb", 0)
            event = pynvml.nvmlEventSetWait_v2(events, 1000)
            assert (event.eventType, event.eventData) == (CHANGE, 0)
            assert pynvml.nvmlDeviceGetUUID(event.device) == pynvml.nvmlDeviceGetUUID(session.gpu)

    def test_every_change_is_an_event_of_its_own(self, session: Session) -> None:
        """Two instances, each with its compute instance, and the end of one: six changes."""
        with listening(CHANGE, session.gpu) as events:
            session.create_slice("1g.10gb", 0)
            instance, compute, _ = session.create_slice("1g.10gb", 1)
            pynvml.nvmlComputeInstanceDestroy(compute)
            pynvml.nvmlGpuInstanceDestroy(instance)
            assert told(events) == [(CHANGE, 0, NONE, NONE)] * 6

    def test_what_was_refused_is_no_change(self, session: Session) -> None:
        session.create("7g.80gb", 0)
        with listening(CHANGE, session.gpu) as events:
            with pytest.raises(pynvml.NVMLError_InsufficientResources):
                session.create("1g.10gb", 0)
            assert told(events) == []

    def test_two_sets_each_get_them_all(self, session: Session) -> None:
        with listening(CHANGE, session.gpu) as first, listening(CHANGE, session.gpu) as second:
            session.create("1g.10gb", 0)
            session.create("1g.10gb", 1)
            assert told(first) == told(second) == [(CHANGE, 0, NONE, NONE)] * 2

    def test_another_process_gets_them_all_too(self, session: Session) -> None:
        code = (
            "import pynvml as n\n"
            "n.nvmlInit()\n"
            "events = n.nvmlEventSetCreate()\n"
            "n.nvmlDeviceRegisterEvents(n.nvmlDeviceGetHandleByIndex(0), n.nvmlEventMigConfigChange, events)\n"
            "print('listening', flush=True)\n"
            "print([n.nvmlEventSetWait_v2(events, 20000).eventType for _ in range(3)], flush=True)\n"
        )
        listener = subprocess.Popen(
            [sys.executable, "-c", code], env=session.node.env(), stdout=subprocess.PIPE, text=True
        )
        with listener, listening(CHANGE, session.gpu) as events:
            assert listener.stdout is not None
            assert listener.stdout.readline() == "listening\n"
            for start in range(3):
                session.create("1g.10gb", start)
            assert listener.stdout.readline() == f"{[CHANGE] * 3}\n"
            assert len(told(events)) == 3

    def test_what_happened_before_it_was_asked_for_is_not_told(self, tmp_path: Path) -> None:
        session = Session(SimulatedGpus.create(tmp_path, f"{H100}:2", mig=True))
        with listening(CHANGE, pynvml.nvmlDeviceGetHandleByIndex(1)) as events:
            session.create("1g.10gb", 0)
            xid(session, session.gpu, 31)
            pynvml.nvmlDeviceRegisterEvents(session.gpu, CHANGE, events)
            session.create("1g.10gb", 1)
            xid(session, session.gpu, 32)
            pynvml.nvmlDeviceRegisterEvents(session.gpu, XID, events)
            xid(session, session.gpu, 33)
            assert told(events) == [(CHANGE, 0, NONE, NONE), (XID, 33, NONE, NONE)]
        pynvml.nvmlShutdown()


class TestXid:
    def test_an_xid_names_the_instances_it_struck(self, session: Session) -> None:
        _, _, device = session.create_slice("3g.40gb", 4)
        with listening(XID, session.gpu) as events:
            xid(session, device, 31)
            xid(session, session.gpu, 79)
            assert told(events) == [(XID, 31, 2, 0), (XID, 79, NONE, NONE)]

    def test_it_tells_the_compute_instances_of_one_instance_apart(self, session: Session) -> None:
        instance = session.create("3g.40gb", 4)
        computes = [pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 0) for _ in range(3)]
        with listening(XID, session.gpu) as events:
            xid(session, pynvml.nvmlComputeInstanceGetInfo(computes[2]).device, 43)
            assert told(events) == [(XID, 43, 2, 2)]

    def test_only_what_was_asked_for_is_told(self, session: Session) -> None:
        with listening(CHANGE, session.gpu) as events:
            xid(session, session.gpu, 79)
            session.create("1g.10gb", 0)
            assert told(events) == [(CHANGE, 0, NONE, NONE)]

    def test_both_kinds_come_in_the_order_in_which_they_happened(self, session: Session) -> None:
        with listening(CHANGE | XID, session.gpu) as events:
            xid(session, session.gpu, 79)
            session.create("1g.10gb", 0)
            xid(session, session.gpu, 31)
            assert [(kind, data) for kind, data, *_ in told(events)] == [(XID, 79), (CHANGE, 0), (XID, 31)]

    def test_who_never_listens_loses_the_oldest(self, session: Session) -> None:
        """How many a driver keeps is not known; here it is 256."""
        with listening(CHANGE, session.gpu) as events:
            instance = session.create("7g.80gb", 0)
            for _ in range(150):
                compute = pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 0)
                pynvml.nvmlComputeInstanceDestroy(compute)
            assert len(told(events)) == 256
