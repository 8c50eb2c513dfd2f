"""The composition root: opens the doors, starts the loops in one TaskGroup, ends them in order. It decides nothing. What
each role is made of stands in partition_role.py and cache_role.py, what the page is made of in page_role.py."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import VERSION
from agent.adapters import (
    clock,
    lean_http,  # noqa: F401  before anything that imports aiohttp
)
from agent.adapters.kube import Kube
from agent.adapters.watch import Watch
from agent.model.cache import CacheReport
from agent.model.errors import BadInputError
from agent.model.report import PartitionReport
from agent.model.telemetry import TelemetrySnapshot
from agent.page_role import PageRole
from agent.reconcile.loop import keep_passing
from agent.reconcile.own_node import OwnNode
from agent.reconcile.telling import CountedEvents
from agent.report.exposition import application, serving
from agent.report.health import Heartbeats, Readiness
from agent.report.log import configure
from agent.report.metrics import Metrics
from agent.settings import Settings
from agent.shared import Pass, Shared

if TYPE_CHECKING:
    from agent.cache_role import CacheRole
    from agent.partition_role import Machine
    from agent.reconcile.election import Elected

log = logging.getLogger("warmslice.daemon")

_LONGEST_PASS_SECONDS = 1500.0
"""Eight GPUs that are reset one after the other, two minutes each, and some more."""
_TOLD_FIRST_SECONDS = 900.0
"""So long somebody may read in metrics that a loop is stuck before the kubelet starts the container anew."""
_FILE_LOOK_SECONDS = 5.0
_RESIGN_SECONDS = 5.0


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
    kube = await Kube.connect(settings.kubeconfig, jitter_seconds=settings.reconnect_jitter_seconds)
    try:
        agent = Agent(settings, kube, _machine(settings))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, agent.stop)
        await agent.run()
    finally:
        await kube.close()


# Note [One role imports nothing of the other]
# Two containers run one role each, and a megabyte that both have is paid twice on every node. So what a role is made of is
# imported when it is known that it runs here.


def _machine(settings: Settings) -> Machine | None:
    """None where no role here looks after layouts. See Note [One role imports nothing of the other]."""
    if "partition" not in settings.roles:
        return None
    from agent.adapters.kubelet import PodResources
    from agent.adapters.nvml import Hardware
    from agent.partition_role import Machine

    return Machine(Hardware(), PodResources(settings.pod_resources_socket))


class Agent:
    """What the roles of one process share. ``machine``: with the role partition."""

    def __init__(self, settings: Settings, kube: Kube, machine: Machine | None) -> None:
        self._settings = settings
        self._kube = kube
        self._machine = machine
        self._stopping = asyncio.Event()
        self._wakes: dict[str, asyncio.Event] = {}
        self._elected: list[Elected] = []
        hostname = settings.node_name if settings.dcgm_names else ""
        self._metrics = Metrics(VERSION, clock.now, settings.gpu_prices, hostname)
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
            self._start(tasks, helpers, loops)
            await self._stopping.wait()
            log.info("stopping")
            await asyncio.wait(loops)
            await self._resign()
            for helper in helpers:
                helper.cancel()

    def _partition_told(self, report: PartitionReport) -> None:
        self._metrics.partition(report)
        self._page.latest.partition(report)
        self._ready.lacks("driver", report.error) if report.error else self._ready.ready("driver")

    def _looked(self, snapshot: TelemetrySnapshot) -> None:
        self._metrics.telemetry(snapshot)
        self._page.latest.telemetry(snapshot)

    async def _resign(self) -> None:
        try:
            async with asyncio.timeout(_RESIGN_SECONDS):
                for one in self._elected:
                    await one.resign()
        except TimeoutError:
            log.warning("lead.not-resigned")

    def _start(
        self, tasks: asyncio.TaskGroup, helpers: list[asyncio.Task[Any]], loops: list[asyncio.Task[None]]
    ) -> None:
        def loop(name: str, one_pass: Pass, wake: asyncio.Event) -> None:
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
        for role in sorted(self._settings.roles, reverse=True):
            self._metrics.expect(role, self._pass_limit_seconds)
        # See Note [One role imports nothing of the other].
        if "partition" in self._settings.roles:
            from agent.partition_role import PartitionRole

            assert self._machine is not None
            partition = PartitionRole(shared, self._machine, self._partition_told, self._looked)
            partition.begin()
            self._elected += partition.elected
        if "cache" in self._settings.roles:
            from agent.cache_role import CacheRole

            self._cache = CacheRole(shared, self._cache_told)
            self._cache.begin()
            self._elected += self._cache.elected

    def _start_loop(self, tasks: asyncio.TaskGroup, name: str, one_pass: Pass) -> asyncio.Task[None]:
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
