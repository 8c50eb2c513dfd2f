"""The partition role's part of the composition root: layout loop, sampler and who is told of its looks, the fleet's slots."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from agent.adapters import clock, command
from agent.adapters.boot import this_boot
from agent.adapters.cgroups import Processes
from agent.adapters.dcgm import DcgmExporter
from agent.adapters.dra import Dra
from agent.adapters.fleet import FleetView, FollowedLease
from agent.adapters.history_file import NAME as HISTORY
from agent.adapters.history_file import HistoryFile
from agent.adapters.leases import Leases
from agent.adapters.nvml import Hardware
from agent.adapters.watch import Metadata
from agent.execute.fleet import FleetHands, LeaderHands
from agent.execute.mig import Gpus
from agent.execute.partition import Hands
from agent.model import labels
from agent.model.fleet import LEADER, slot_name
from agent.model.mig import Gpu
from agent.model.report import PartitionReport
from agent.model.telemetry import TelemetrySnapshot
from agent.observe.claims import Claims
from agent.observe.dcgm import DcgmLoads, exporter_url
from agent.observe.fleet import kept_of_member
from agent.observe.telemetry import Telemetry
from agent.observe.world import Kubelet, World
from agent.plan.fleet import LEASE_SECONDS
from agent.plan.upgrade import driver_leaves
from agent.reconcile.election import Elected
from agent.reconcile.fleet import Board, NoSlots, OwnSlot, Slots
from agent.reconcile.history import Remembering
from agent.reconcile.host import HostCommands
from agent.reconcile.leading import FleetPass, FleetRules
from agent.reconcile.partition import PartitionPass, Rules
from agent.reconcile.policy import catalog_to_wait_for, policy_of
from agent.shared import Shared

log = logging.getLogger("warmslice.partition")

_LONGEST_LOOK_SECONDS = 900.0
"""Of telemetry, where the driver answers slowly, as it does while its GPUs are reset."""
_DCGM_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Machine:
    """The doors to the machine that the agent is on."""

    hardware: Hardware
    kubelet: Kubelet


@dataclass(slots=True)
class PartitionRole:
    """Everything that the role needs, made and started by ``begin``. ``told`` is given each report, ``looked`` each look of the
    sampler; ``elected`` are to be resigned at the end."""

    shared: Shared
    machine: Machine
    told: Callable[[PartitionReport], None]
    looked: Callable[[TelemetrySnapshot], None]
    elected: list[Elected] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    _fleet_wake: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self) -> None:
        """Open the doors, and start the loops."""
        shared, settings, hardware = self.shared, self.shared.settings, self.machine.hardware
        loads = self._dcgm_loads()
        period = settings.telemetry_period_seconds
        remembering = Remembering(HistoryFile(Path(settings.state_directory) / HISTORY), period)

        def sampled(snapshot: TelemetrySnapshot) -> None:
            try:
                filled = loads.filled(snapshot)
                self.looked(filled)
                remembering.look(filled)
            except Exception:
                # What is told of a look is not worth the sampler, nor the process.
                log.exception("sampled.not-told")

        shared.metrics.expect("telemetry", period + _LONGEST_LOOK_SECONDS)
        telemetry = Telemetry(hardware, period, clock.now, sampled)
        for work in (telemetry.run(), loads.run(), remembering.run()):
            shared.start(work)
        driver = _Driver(hardware, telemetry)
        layout: list[object] = []

        def publish(report: PartitionReport) -> None:
            self.told(report)
            remembering.partition(report)
            node = shared.own.node()
            driver.in_use(node is None or not driver_leaves(node))
            loads.changing(bool(report.steps))
            shape = [report.taken, *(gpu.instances for gpu in report.gpus)]
            if shape != layout:
                layout[:] = shape
                telemetry.wake()

        shared.loop("partition", self._pass(driver, publish), self.wake)

    # -- its parts --------------------------------------------------------------------------------------------------

    def _pass(self, driver: _Driver, publish: Callable[[PartitionReport], None]) -> PartitionPass:
        shared, settings = self.shared, self.shared.settings
        dra = Dra(shared.kube, settings.node_name, shared.start, self.wake.set)
        return PartitionPass(
            World(
                shared.node,
                shared.pods,
                driver,
                self.machine.kubelet,
                Claims(dra),
                Processes(settings.proc_directory).origin,
                shared.kube.budgets,
                lambda: this_boot(settings.boot_id_file),
                clock.now,
            ),
            Hands(
                shared.kube,
                Gpus(self.machine.hardware, driver.release, command.reset_gpus),
                HostCommands(settings),
            ),
            shared.node,
            shared.events,
            shared.metrics,
            self._slots(),
            publish,
            Rules(
                settings.layouts_file,
                settings.mig_config_label,
                policy_of(settings),
                settings.resync_seconds,
                catalog_to_wait_for(settings),
                settings.reconnect_jitter_seconds,
            ),
            clock.now,
        )

    def _dcgm_loads(self) -> DcgmLoads:
        settings, pods = self.shared.settings, self.shared.pods
        exporter = DcgmExporter(lambda: exporter_url(settings.dcgm_exporter, pods.objects), _DCGM_SECONDS)
        interval, period = settings.dcgm_exporter_interval_seconds, settings.telemetry_period_seconds
        return DcgmLoads(exporter, interval, period, time.monotonic)

    def _slots(self) -> Slots:
        """Without a limit there is no fleet to speak of."""
        shared, settings, name = self.shared, self.shared.settings, self.shared.settings.node_name
        if settings.limit.none:
            return NoSlots()

        leases = Leases(shared.kube, settings.namespace)
        hands = FleetHands(leases, clock.now)
        ballot = LeaderHands(leases, LEADER, LEASE_SECONDS, clock.now)
        board = Board(self.wake.set, self._fleet_wake.set)
        followed = FollowedLease(shared.kube, leases.path, slot_name(name), shared.start, self.wake.set)
        rules = FleetRules(settings.limit, settings.window, settings.mig_config_label)
        members = Metadata(labels.STATE, lambda item: kept_of_member(item, settings.mig_config_label))
        view = FleetView(shared.kube, leases.path, members, shared.start, self._fleet_wake.set)
        holder = f"{name}_{uuid4().hex[:8]}"
        fleet = FleetPass(holder, ballot, hands, view, board, rules, clock.now, time.monotonic)
        self.elected.append(fleet)
        shared.loop("fleet", fleet, self._fleet_wake)
        return OwnSlot(name, hands, followed, board, clock.now)


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
