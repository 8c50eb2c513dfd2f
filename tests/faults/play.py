"""Plays one cell: the story with its fault, and what is wrong in the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import shutil
import signal
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pynvml

from agent.adapters.nvml import Hardware
from agent.model import labels
from agent.model.errors import AgentError
from agent.plan.way import Policy
from agent.reconcile.partition import PartitionPass
from tests.fakes.sim_world import SimWorld, given_back
from tests.fakes.simgpu import SimulatedGpus
from tests.fakes.world import agent_on
from tests.faults.cells import Cell, Recording
from tests.faults.children import fork_of, in_child
from tests.faults.clock import SkippingLoop, patiently
from tests.faults.stories import Story

POLICY = Policy(clients_stop_seconds=20.0, patience_seconds=60.0, advertise_seconds=60.0)
LASTS_SECONDS = 600.0
"""How long a fault stands that does not go by itself; longer than whatever the agent is patient with."""
ENDS_SECONDS = 900.0
"""Within this time every story is over once nothing disturbs it any more."""
ATTEMPT_SECONDS = 300.0
"""No try of the agent's at a change holds the node longer while a fault stands."""
LATE_SECONDS = 30.0
"""After this time a call that hung comes back, and takes effect."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A story with its node as it is before, and processes that stand for those of pods."""

    story: Story
    template: SimulatedGpus
    holders: tuple[int, ...]

    def node(self, folder: Path) -> SimulatedGpus:
        """The copy of the node in this folder; this process's NVML shows it."""
        simulated = replace(self.template, state=folder / "simgpu.state")
        os.environ["SIMGPU_STATE"] = str(simulated.state)
        return simulated

    def fresh(self, folder: Path) -> SimulatedGpus:
        """A new copy."""
        shutil.copyfile(self.template.state, folder / "simgpu.state")
        return self.node(folder)


def staged(story: Story, folder: Path, holders: tuple[int, ...]) -> Stage:
    """Make the node of a story."""
    simulated = story.simulate(folder)
    os.environ["SIMGPU_STATE"] = str(simulated.state)
    done = in_child(lambda: asyncio.run(story.furnish(simulated, Hardware())))
    if done.wrong:
        raise RuntimeError(done.wrong)
    return Stage(story, simulated, holders)


def recorded(stage: Stage, folder: Path) -> Recording:
    """The story without a disturbance; RuntimeError when it does not end as it should."""
    done = in_child(lambda: _looped(lambda: _record(stage, folder)))
    if done.wrong:
        raise RuntimeError(f"{stage.story.name}: {done.wrong}")
    assert isinstance(done.answer, Recording)
    return done.answer


def played(stage: Stage, cell: Cell, folder: Path) -> str:
    """What is wrong in the end; empty when nothing is."""
    memory = folder / "memory"
    memory.unlink(missing_ok=True)
    done = in_child(lambda: _looped(lambda: _play(stage, cell, folder)))
    if not cell.kind.startswith("killed"):
        return done.wrong
    if done.signal != signal.SIGKILL:
        return done.wrong or "was not killed"
    left = pickle.loads(memory.read_bytes())
    return in_child(lambda: _looped(lambda: _play_on(stage, folder, left))).wrong


def _looped(story: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        return runner.run(story())


async def _record(stage: Stage, folder: Path) -> Recording:
    simulated = stage.fresh(folder)
    changed = len(simulated.log())
    act = _Act(stage, simulated)
    act.begin()
    # A fault is there from here on too: what the story's own client has called does not count.
    begun = simulated.counters()
    before: list[dict[str, int]] = []

    def look() -> None:
        counted = {name: calls - begun.get(name, 0) for name, calls in simulated.counters().items()}
        before.append({name: calls for name, calls in counted.items() if calls})

    await act.until(act.ended, ENDS_SECONDS, look)
    look()
    await act.until(act.reached, ENDS_SECONDS)
    act.check_end()
    done = [entry["function"] for entry in simulated.log()[changed:] if entry["function"].startswith("nvml")]
    within = {name: before[-1].get(name, 0) for name in done}
    changes = tuple(name for name, calls in within.items() for _ in range(calls))
    return Recording(stage.story.name, tuple(before), changes)


async def _play(stage: Stage, cell: Cell, folder: Path) -> None:
    simulated = stage.fresh(folder)
    act = _Act(stage, simulated)
    act.begin()
    act.world.gpus.before_change = lambda: _save(act.world, folder / "memory")
    if cell.fault:
        simulated.fault(*cell.fault)
    match cell.kind:
        case "once":
            await act.until(act.ended, ENDS_SECONDS)
            act.check_end()
        case "killed before" | "killed after":
            await act.until(act.ended, ENDS_SECONDS)
            return
        case "hang":
            await act.until(lambda: bool(act.struck[0]), ENDS_SECONDS)
            await act.until(act.never, LATE_SECONDS)
            await act.clear()
            await act.until(act.ended, ENDS_SECONDS)
            act.check_end()
        case "lasting" | "hang for ever":
            await act.until(act.never, LASTS_SECONDS)
            await act.until(act.given_back, ATTEMPT_SECONDS)
            act.check_meanwhile(silent=1 if act.status["reason"] in ("gpu-unknown", "rollback-failed") else 0)
        case "lost":
            await act.lose_after(cell.after)
            act.check_meanwhile(silent=1)
            return
    await act.clear()
    await act.until(act.reached, ENDS_SECONDS)
    act.check_end()
    if cell.function != "nvmlShutdown":  # a closing that the driver refused leaves its session behind
        await act.close()


async def _play_on(stage: Stage, folder: Path, left: dict[str, Any]) -> None:
    """A new agent finds the world as the one that was killed left it."""
    act = _Act(stage, stage.node(folder))
    act.world.remember(left)
    act.world.tick()
    await act.until(act.ended, ENDS_SECONDS)
    act.check_end()
    await act.until(act.reached, ENDS_SECONDS)
    act.check_end()
    await act.close()


def _save(world: SimWorld, file: Path) -> None:
    file.write_bytes(pickle.dumps(world.memory()))


class _Act:
    """A world with an agent in it, and what has to be true of them."""

    def __init__(self, stage: Stage, simulated: SimulatedGpus) -> None:
        self._story = stage.story
        self._simulated = simulated
        self._hardware = Hardware()
        self.world = SimWorld(simulated, self._hardware, stage.holders)
        self._partition: PartitionPass
        self._partition, _ = agent_on(self.world, replace(POLICY, reboots=self._story.guest))
        self._labels = dict(self.world.node["metadata"]["labels"])
        self._trail: list[str] = []
        self.struck = [0]

    def begin(self) -> None:
        """Pods, the wish, and the fault that belongs to the story."""
        self._story.begin(self.world)
        if self._story.session:
            self._open_another_session()
        if self._story.standing:
            self._simulated.fault(*self._story.standing)

    def _open_another_session(self) -> None:
        """It ends when ours is closed for a reset, or with this process."""
        client = fork_of(pynvml.nvmlInit)
        self.world.gpus.on_release = client.end

    async def until(self, holds: Callable[[], bool], seconds: float, look: Callable[[], None] = lambda: None) -> None:
        """Passes with time between them until it holds; AssertionError after so much of the node's time."""
        late = self.world.time + seconds
        while not holds():
            if self.world.time >= late:
                if holds == self.never:
                    return
                raise AssertionError(f"not over after {seconds:.0f} s: {self}")
            look()
            await self._pass()

    async def _pass(self) -> None:
        wait = 5.0
        try:
            wait = await patiently(self._partition(), self._simulated, self.struck)
        except AgentError as error:
            self._note(f"{type(error).__name__} {error}")
        self._note(f"{self.status.get('state')} {self.status.get('reason')}: {self.world.reports[-1].waits_for}")
        self.world.tick(min(max(wait, 0.5), 10.0))

    def _note(self, words: str) -> None:
        if not self._trail or self._trail[-1] != words:
            self._trail.append(words)

    @property
    def status(self) -> dict[str, Any]:
        """As it stands on the node."""
        found: dict[str, Any] = json.loads(self.world.node["metadata"]["annotations"].get(labels.STATUS, "{}"))
        return found

    def never(self) -> bool:
        """Goes on as long as it may."""
        return False

    def ended(self) -> bool:
        """The agent has said what came of it, and has no change under way."""
        told = self.status.get("state") in ("success", "failed")
        return told and labels.OPERATION not in self.world.node["metadata"]["annotations"]

    def given_back(self) -> bool:
        """No change is under way, or nothing can be done since the whole driver is away."""
        said_away = self.status.get("reason") == "fault"
        return said_away or labels.OPERATION not in self.world.node["metadata"]["annotations"]

    def reached(self) -> bool:
        """The wish came true."""
        return self.ended() and self.status["state"] == "success"

    async def clear(self) -> None:
        """The driver is as it should be; calls that hung have come back."""
        self._simulated.clear_faults()
        while self._hardware.hanging():
            await asyncio.sleep(0.005)

    async def lose_after(self, passes: int) -> None:
        """The first GPU falls off the bus after so many passes."""
        for _ in range(passes):
            await self._pass()
        self._simulated.run("lost", "--gpu", self.world.whole(0))
        await self.until(self.never, LASTS_SECONDS)

    def check_end(self) -> None:
        """Old or new, whole, given back, and told."""
        assert self.ended(), self
        self._check_told()
        self._check_geometry(0)

    def check_meanwhile(self, silent: int) -> None:
        """A fault that lasts: the node is given back and says what is wrong, and no GPU but the first ones suffers that are
        ``silent``. Only where the whole driver is away is nothing given back, and that is said."""
        if self.status.get("reason") != "fault":
            self._check_told()
            self._check_geometry(silent)
        started = [thread.name for thread in threading.enumerate() if thread.name.startswith("nvml-")]
        assert len(started) <= 3 + 2 * len(self._story.before), started

    def _check_told(self) -> None:
        assert not given_back(self.world, self._labels), (
            f"not given back: {given_back(self.world, self._labels)}; {self}"
        )
        assert self.status.get("state") in ("success", "failed", "pending"), self
        assert self.status.get("message"), self
        for name in {tenant.name for tenant in self._story.tenants if tenant.name == "stays"}:
            wanted = sum(tenant.name == name for tenant in self._story.tenants)
            assert len(self.world.uids(name)) == wanted, f"{name} was moved; {self}"

    def _check_geometry(self, first: int) -> None:
        story = self._story
        for number in range(first, len(story.before)):
            has = self.world.has(number)
            old = " ".join(has) == story.before[number]
            # Only another reboot brings the old mode back to a guest.
            old = old or (story.guest and not has)
            new = _shapes(has) == _shapes(story.after[number].split(" " if story.after[number] != "MIG off" else "\0"))
            assert new or (old and self.status["state"] != "success"), f"GPU {number} has {has}; {self}"

    async def close(self) -> None:
        """Every session of ours is closed when we say so."""
        await self._hardware.release()
        with contextlib.suppress(pynvml.NVMLError_Uninitialized):
            pynvml.nvmlDeviceGetCount()
            raise AssertionError("a session is still open")

    def __str__(self) -> str:
        return f"status {self.status}; trail: {' | '.join(self._trail[-40:])}"


def _shapes(instances: Any) -> list[str]:
    return sorted(words.partition("@")[0] for words in instances)
