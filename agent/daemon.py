"""The composition root: opens the doors, starts the loops in one TaskGroup, ends them in order. It decides nothing. What
the cache role is made of stands in cache_role.py."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from agent.adapters import clock, command
from agent.adapters.boot import this_boot
from agent.adapters.cgroups import Processes
from agent.adapters.dcgm import DcgmExporter
from agent.adapters.dra import Dra
from agent.adapters.fleet import FleetView, FollowedLease
from agent.adapters.history_file import NAME as HISTORY
from agent.adapters.history_file import HistoryFile
from agent.adapters.kube import Kube
from agent.adapters.kubelet import PodResources
from agent.adapters.leases import Leases
from agent.adapters.nvml import Hardware
from agent.adapters.watch import Metadata, Watch
from agent.cache_role import CacheRole, Shared
from agent.execute.fleet import FleetHands, LeaderHands
from agent.execute.mig import Gpus
from agent.execute.partition import Hands
from agent.model import labels
from agent.model.cache import CacheReport
from agent.model.errors import BadInputError
from agent.model.fleet import LEADER, slot_name
from agent.model.mig import Gpu
from agent.model.report import PartitionReport
from agent.model.telemetry import TelemetrySnapshot
from agent.observe.claims import Claims
from agent.observe.dcgm import DcgmLoads, exporter_url
from agent.observe.fleet import kept_of_member
from agent.observe.telemetry import Telemetry
from agent.observe.world import Kubelet, World
from agent.page_role import PageRole
from agent.plan.fleet import LEASE_SECONDS
from agent.plan.upgrade import driver_leaves
from agent.reconcile.fleet import Board, NoSlots, OwnSlot, Slots
from agent.reconcile.history import Remembering
from agent.reconcile.host import HostCommands
from agent.reconcile.leading import FleetPass, FleetRules
from agent.reconcile.loop import keep_passing
from agent.reconcile.own_node import OwnNode
from agent.reconcile.partition import PartitionPass, Rules
from agent.reconcile.policy import catalog_to_wait_for, policy_of
from agent.reconcile.publishing import PublishingPass
from agent.reconcile.telling import CountedEvents
from agent.report.exposition import application, serving
from agent.report.health import Heartbeats, Readiness
from agent.report.log import configure
from agent.report.metrics import Metrics
from agent.settings import Settings

log = logging.getLogger("warmslice.daemon")

_LONGEST_PASS_SECONDS = 1500.0
"""Eight GPUs that are reset one after the other, two minutes each, and some more."""
_LONGEST_LOOK_SECONDS = 900.0
"""Of telemetry, where the driver answers slowly, as it does while its GPUs are reset."""
_TOLD_FIRST_SECONDS = 900.0
"""So long somebody may read in metrics that a loop is stuck before the kubelet starts the container anew."""
_DAY_SECONDS = 86400.0
_FILE_LOOK_SECONDS = 5.0
_NODE_LOOK_SECONDS = 5.0
_RESIGN_SECONDS = 5.0
_DCGM_SECONDS = 3.0


def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    if not settings.node_name:
        raise BadInputError(
            "node_name is not set; give the name of this machine's node object (NODE_NAME or --node-name)"
        )
    configure(settings.log_level)
    asyncio.run(_run(settings))
    log.info("stopped")
    logging.shutdown()
    # A call that the driver never answered would hold the interpreter's exit for ever.
    os._exit(0)


async def _run(settings: Settings) -> None:
    kube = await Kube.connect(settings.kubeconfig)
    try:
        agent = Agent(settings, kube, Machine(Hardware(), PodResources(settings.pod_resources_socket)))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, agent.stop)
        await agent.run()
    finally:
        await kube.close()


@dataclass(frozen=True, slots=True)
class Machine:
    """The doors to the machine that the agent is on."""

    hardware: Hardware
    kubelet: Kubelet


class Agent:
    """What the roles of one process share."""

    def __init__(self, settings: Settings, kube: Kube, machine: Machine) -> None:
        self._settings = settings
        self._kube = kube
        self._machine = machine
        self._stopping = asyncio.Event()
        self._wakes = {role: asyncio.Event() for role in settings.roles - {"cache"}}
        self._fleet_wake = asyncio.Event()
        self._elected: list[FleetPass | PublishingPass] = []
        hostname = settings.node_name if settings.dcgm_names else ""
        self._metrics = Metrics(version("warmslice"), clock.now, settings.gpu_prices, hostname)
        self._beats = Heartbeats(time.monotonic)
        parts = {"partition": "driver", "cache": "catalog"}
        self._ready = Readiness(["node", *(parts[role] for role in sorted(settings.roles))])
        self._fingerprint: object = None
        selector = f"metadata.name={settings.node_name}"
        # The journal is on it: an old node would bring back a record that is done with.
        self._node = Watch(kube, "/api/v1/nodes", selector, self._node_changed, consistent=True)
        self._pods = Watch(kube, "/api/v1/pods", f"spec.nodeName={settings.node_name}", self._pods_changed)
        self._own = OwnNode(kube, settings.node_name, self._node)
        self._page = PageRole(settings, self._own.node, self._ready.lacking)
        self._events = CountedEvents(kube, self._page.latest.wrote)
        self._cache: CacheRole | None = None

    async def run(self) -> None:
        """Start everything; end the loops first, each after its pass, then the rest."""
        listen = self._settings.cache_listen if self._settings.role == "cache" else self._settings.partition_listen
        page = application(self._metrics.rendered, self._beats.overdue, self._ready.lacking)
        self._page.add_to(page)
        tls = self._page.tls()
        async with serving(page, listen, tls) as address, self._page.telling(), asyncio.TaskGroup() as tasks:
            log.info(
                "started", extra={"role": self._settings.role, "node": self._settings.node_name, "address": address}
            )
            helpers = [tasks.create_task(work) for work in (self._node.run(), self._pods.run(), self._watch_files())]
            loops: list[asyncio.Task[None]] = []
            if "partition" in self._settings.roles:
                self._start_partition(tasks, helpers, loops)
            if "cache" in self._settings.roles:
                self._start_cache(tasks, helpers, loops)
            await self._stopping.wait()
            log.info("stopping")
            await asyncio.wait(loops)
            await self._resign()
            for helper in helpers:
                helper.cancel()

    def _start_partition(
        self, tasks: asyncio.TaskGroup, helpers: list[asyncio.Task[Any]], loops: list[asyncio.Task[None]]
    ) -> None:
        settings, hardware = self._settings, self._machine.hardware
        loads = self._dcgm_loads()
        period = settings.telemetry_period_seconds
        remembering = Remembering(HistoryFile(Path(settings.state_directory) / HISTORY), period)

        def sampled(snapshot: TelemetrySnapshot) -> None:
            try:
                filled = loads.filled(snapshot)
                self._metrics.telemetry(filled)
                self._page.latest.telemetry(filled)
                remembering.look(filled)
            except Exception:
                # What is told of a look is not worth the sampler, nor the process.
                log.exception("sampled.not-told")

        self._metrics.expect("telemetry", period + _LONGEST_LOOK_SECONDS)
        self._metrics.expect("partition", self._pass_limit_seconds)
        telemetry = Telemetry(hardware, period, clock.now, sampled)
        helpers += [tasks.create_task(work) for work in (telemetry.run(), loads.run(), remembering.run())]
        driver = _Driver(hardware, telemetry)
        layout: list[object] = []

        def publish(report: PartitionReport) -> None:
            self._metrics.partition(report)
            self._page.latest.partition(report)
            remembering.partition(report)
            node = self._own.node()
            driver.in_use(node is None or not driver_leaves(node))
            loads.changing(bool(report.steps))
            shape = [report.taken, *(gpu.instances for gpu in report.gpus)]
            if shape != layout:
                layout[:] = shape
                telemetry.wake()
            self._ready.lacks("driver", report.error) if report.error else self._ready.ready("driver")

        dra = Dra(self._kube, settings.node_name, _starter(tasks, helpers), self._wakes["partition"].set)
        slots = self._start_fleet(tasks, helpers, loops)
        one_pass = PartitionPass(
            World(
                self._node,
                self._pods,
                driver,
                self._machine.kubelet,
                Claims(dra),
                Processes(settings.proc_directory).origin,
                self._kube.budgets,
                lambda: this_boot(settings.boot_id_file),
                clock.now,
            ),
            Hands(self._kube, Gpus(hardware, driver.release, command.reset_gpus), HostCommands(settings)),
            self._node,
            self._events,
            self._metrics,
            slots,
            publish,
            Rules(
                settings.layouts_file,
                settings.mig_config_label,
                policy_of(settings),
                settings.resync_seconds,
                catalog_to_wait_for(settings),
            ),
            clock.now,
        )
        loops.append(self._start_loop(tasks, "partition", one_pass))

    def _dcgm_loads(self) -> DcgmLoads:
        settings = self._settings
        exporter = DcgmExporter(lambda: exporter_url(settings.dcgm_exporter, self._pods.objects), _DCGM_SECONDS)
        interval, period = settings.dcgm_exporter_interval_seconds, settings.telemetry_period_seconds
        return DcgmLoads(exporter, interval, period, time.monotonic)

    def _start_fleet(
        self, tasks: asyncio.TaskGroup, helpers: list[asyncio.Task[Any]], loops: list[asyncio.Task[None]]
    ) -> Slots:
        """Without a limit there is no fleet to speak of."""
        settings, name = self._settings, self._settings.node_name
        if settings.limit.none:
            return NoSlots()

        start = _starter(tasks, helpers)
        leases = Leases(self._kube, settings.namespace)
        hands = FleetHands(leases, clock.now)
        ballot = LeaderHands(leases, LEADER, LEASE_SECONDS, clock.now)
        board = Board(self._wakes["partition"].set, self._fleet_wake.set)
        followed = FollowedLease(self._kube, leases.path, slot_name(name), start, self._wakes["partition"].set)
        rules = FleetRules(settings.limit, settings.window, settings.mig_config_label)
        members = Metadata(labels.STATE, lambda item: kept_of_member(item, settings.mig_config_label))
        view = FleetView(self._kube, leases.path, members, start, self._fleet_wake.set)
        holder = f"{name}_{uuid4().hex[:8]}"
        fleet = FleetPass(holder, ballot, hands, view, board, rules, clock.now, time.monotonic)
        self._elected.append(fleet)
        self._wakes["fleet"] = self._fleet_wake
        loops.append(self._start_loop(tasks, "fleet", fleet))
        return OwnSlot(name, hands, followed, board, clock.now)

    async def _resign(self) -> None:
        try:
            async with asyncio.timeout(_RESIGN_SECONDS):
                for one in self._elected:
                    await one.resign()
        except TimeoutError:
            log.warning("lead.not-resigned")

    def _start_cache(
        self, tasks: asyncio.TaskGroup, helpers: list[asyncio.Task[Any]], loops: list[asyncio.Task[None]]
    ) -> None:
        def loop(name: str, one_pass: Callable[[], Awaitable[float]], wake: asyncio.Event) -> None:
            self._wakes[name] = wake
            loops.append(self._start_loop(tasks, name, one_pass))

        shared = Shared(
            self._settings,
            self._kube,
            self._node,
            self._pods,
            self._events,
            self._metrics,
            _starter(tasks, helpers),
            loop,
            self._own,
        )
        self._metrics.expect("cache", self._pass_limit_seconds)
        self._cache = CacheRole(shared, self._cache_told)
        self._cache.begin()
        self._elected += self._cache.elected

    def _start_loop(
        self, tasks: asyncio.TaskGroup, name: str, one_pass: Callable[[], Awaitable[float]]
    ) -> asyncio.Task[None]:
        self._beats.expect(name, self._pass_limit_seconds + _TOLD_FIRST_SECONDS)

        async def beating() -> float:
            try:
                return await one_pass()
            finally:
                self._beats.beat(name)

        return tasks.create_task(keep_passing(name, beating, self._wakes[name], self._stopping))

    @property
    def _pass_limit_seconds(self) -> float:
        """A loop's longest wait and its longest pass."""
        return self._settings.resync_seconds + _LONGEST_PASS_SECONDS + self._settings.reboot_timeout_seconds

    def _cache_told(self, report: CacheReport) -> None:
        self._page.latest.cache(report)
        self._ready.lacks("catalog", report.refusal) if report.refusal else self._ready.ready("catalog")

    def _node_changed(self) -> None:
        """Wake the loops when the node changed in something they read; a heartbeat of its status is nothing to them."""
        node = next(iter(self._node.objects), None)
        if node is None:
            self._ready.lacks("node", f"there is no node {self._settings.node_name!r}")
            fingerprint: object = None
        else:
            self._ready.ready("node")
            status = node.get("status") or {}
            fingerprint = (
                node["metadata"]["uid"],
                node["metadata"].get("labels"),
                node["metadata"].get("annotations"),
                (node.get("spec") or {}).get("unschedulable"),
                (node.get("spec") or {}).get("taints"),
                status.get("allocatable"),
                (status.get("nodeInfo") or {}).get("bootID"),
            )
        if fingerprint != self._fingerprint:
            self._fingerprint = fingerprint
            self._wake_all()

    def _pods_changed(self) -> None:
        """A layout may wait for one; so may models."""
        if "partition" in self._wakes:
            self._wakes["partition"].set()
        if self._cache is not None:
            self._cache.pods_changed()

    async def _watch_files(self) -> None:
        """A mounted ConfigMap changes without an event: look at the files' times now and then."""
        files = (Path(self._settings.layouts_file), Path(self._settings.catalog_file))
        before = [_changed_at(file) for file in files]
        while True:
            await asyncio.sleep(_FILE_LOOK_SECONDS)
            now = [_changed_at(file) for file in files]
            if now != before:
                before = now
                self._wake_all()

    def _wake_all(self) -> None:
        for wake in self._wakes.values():
            wake.set()

    def stop(self) -> None:
        """Let ``run`` come to its end. A change of layout is not broken off; fetches are, and go on from there."""
        self._stopping.set()
        if self._cache is not None:
            self._cache.stop()
        self._wake_all()


class _Driver:
    """NVML's session, which both the loop and telemetry use: it is closed for both or for none."""

    def __init__(self, hardware: Hardware, telemetry: Telemetry) -> None:
        self._hardware = hardware
        self._telemetry = telemetry
        self._closed = False

    async def read(self) -> tuple[Gpu, ...]:
        """Every GPU."""
        return await self._hardware.read()

    async def release(self) -> None:
        """Close the session: telemetry's buffers belong to it, so they go first."""
        self._closed = True
        await self._telemetry.pause()
        await self._hardware.release()

    def in_use(self, used: bool) -> None:
        """Let telemetry go on once the driver may be asked again."""
        if used and self._closed:
            self._closed = False
            self._telemetry.resume()


def _starter(
    tasks: asyncio.TaskGroup, helpers: list[asyncio.Task[Any]]
) -> Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]:
    """Starts tasks that are helpers as long as they run."""

    def start(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = tasks.create_task(coroutine)
        helpers.append(task)
        task.add_done_callback(helpers.remove)
        return task

    return start


def _changed_at(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
