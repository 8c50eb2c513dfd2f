"""The cache role's part of the composition root: models on disk, demand, weights in memory, cold starts, the start-up gate."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from agent.adapters import clock
from agent.adapters.boot import this_boot
from agent.adapters.demand import DemandMap, WorkloadView
from agent.adapters.files import TextFile, token_reader
from agent.adapters.leases import Leases
from agent.adapters.memory import Memory
from agent.execute.fetch import FetchSupervisor
from agent.execute.fleet import LeaderHands, TokenHands
from agent.execute.gate import GateHands
from agent.execute.scrub import Reader
from agent.model.cache import CacheReport
from agent.model.demand import Demand
from agent.model.demand_map import NAME as DEMAND
from agent.model.errors import AgentError
from agent.model.revision import PodText
from agent.observe.cluster import pod_of
from agent.observe.revisions import pod_texts
from agent.plan.fleet import LEASE_SECONDS
from agent.plan.gate import GateRules
from agent.plan.page_cache import WarmRules
from agent.reconcile.cache import CachePass, CacheRules, NoWorkloads, Workloads
from agent.reconcile.cold_starts import ColdStarts
from agent.reconcile.demand import DemandRules, NodeDemand
from agent.reconcile.election import Elected
from agent.reconcile.fits import SliceFits
from agent.reconcile.gate import GateKeeper, GateSight, in_this_boot
from agent.reconcile.page_cache import PageCache
from agent.reconcile.publishing import PublishingPass, kept_whatever_it_is
from agent.reconcile.room import RoomKeeper, RoomRules
from agent.reconcile.scrub import Scrub
from agent.reconcile.servings import PodServings
from agent.reconcile.telling import CacheNews
from agent.reconcile.tokens import LeaseTokens, NoTokens, Tokens
from agent.shared import Shared

log = logging.getLogger("warmslice.cache")

_DAY_SECONDS = 86400.0
_NODE_LOOK_SECONDS = 5.0
_DEMAND_SECONDS = 60.0
"""So long what workloads want is waited for: where nobody may read it, or the API server is away, the catalog has to do."""


@dataclass(slots=True)
class CacheRole:
    """Everything that the role needs, made and started by ``begin``. ``told`` is given each report; ``elected`` are to be
    resigned at the end."""

    shared: Shared
    told: Callable[[CacheReport], None]
    elected: list[Elected] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    _servings: PodServings = field(default_factory=PodServings)
    _fetches: FetchSupervisor | None = None
    _room: RoomKeeper | None = None
    _demand: NodeDemand | None = None
    _starts: ColdStarts | None = None
    _gate: GateKeeper | None = None
    _gate_wake: asyncio.Event = field(default_factory=asyncio.Event)
    _names: Mapping[tuple[str, str], str] = field(default_factory=dict)
    _wanted_here: tuple[Demand, ...] = ()
    _reported: bool = False

    def begin(self) -> None:
        """Open the doors, and start the loops."""
        shared, settings = self.shared, self.shared.settings
        cache = Path(settings.cache_directory)
        tokens = token_reader(settings.hub_token_file, settings.hub_tokens_directory)
        fetches = self._fetches = FetchSupervisor(cache, shared.start, self.wake.set, tokens, clock.now)
        gate_learned = self._start_gate()
        starts = self._starts = self._cold_starts()
        fits = self._slice_fits(cache)
        news = CacheNews(shared.events, shared.own.node, clock.now)
        reports: list[CacheReport] = []

        async def publish(report: CacheReport) -> None:
            reports[:] = [report]
            self._reported = True
            starts.take(report)
            shared.metrics.cache(report)
            self._names = {(one.repository, one.revision): one.name for one in report.models}
            self._show_models()
            self.told(report)
            await news.tell(report)

        room = self._room = RoomKeeper(RoomRules.of(settings), self._pod_texts)
        scrub = self._scrub(cache)
        warmth = self._page_cache(cache)
        catalog = TextFile(Path(settings.catalog_file))
        rules, workloads = CacheRules.of(settings), self._workloads(starts)
        one_pass = CachePass(
            rules,
            catalog,
            shared.own,
            fetches,
            publish,
            clock.now,
            room,
            scrub.report,
            workloads,
            warmth,
            self._fetch_tokens(),
        )

        began = time.monotonic()

        async def cache_pass() -> float:
            if shared.own.item is None:
                # Without its labels nobody knows what it wants. The watch wakes the loop when it is known.
                return _NODE_LOOK_SECONDS
            if self._demand is not None and not self._demand.known and time.monotonic() < began + _DEMAND_SECONDS:
                # What workloads want would look as if nobody wanted it, and labels and fetches would go.
                return _NODE_LOOK_SECONDS
            error: AgentError | None = None
            try:
                await one_pass.run()
            except AgentError as failed:
                # Labels that cannot be written keep no node shut for ever, and no pod out of the ledger.
                error = failed
            waits: list[float | None] = [reports[0].look_again_seconds if reports else None]
            if reports:
                gate_learned(reports[0])
                for part in (fits.look(reports[0]), starts.settle()):
                    try:
                        waits.append(await part)
                    except AgentError as failed:
                        error = error or failed
                    except Exception:
                        # What says how pods do is not worth the loop that everything else rests on.
                        log.exception("part.failed")
            if error is not None:
                raise error
            # Progress is shown while something is fetched; nothing else needs a look before the resync.
            return min(
                settings.resync_seconds,
                2.0 if fetches.running() else 3600.0,
                *(wait for wait in waits if wait is not None),
            )

        shared.loop("cache", cache_pass, self.wake)

    def pods_changed(self) -> None:
        """Models matter only where a pod may hold the room that one of them needs, names one, or has become ready with one; it
        may be a driver that the start-up gate waits for."""
        try:
            self._look_at_pods()
        except Exception:
            # Whoever may make a pod wrote it; the watch goes on for everybody else.
            log.exception("pods.not-read")

    def _look_at_pods(self) -> None:
        if self._starts is not None:
            self._starts.look()
        self._show_models()
        before, self._wanted_here = self._wanted_here, self._demand.here() if self._demand is not None else ()
        waiting = (
            self._wanted_here != before,
            self._starts is not None and self._starts.due(),
            self._room is not None and self._room.waits,
        )
        if any(waiting) or (self._demand is not None and not self._reported):
            self.wake.set()
        if self._gate is not None and self._gate.waits_for_driver:
            self._gate_wake.set()

    def _show_models(self) -> None:
        self.shared.metrics.serving(self._servings.models(self._known_pods() or (), self._names))

    def stop(self) -> None:
        """Fetches are broken off, and go on from there when the agent comes again."""
        if self._fetches is not None:
            self._fetches.close()

    # -- its parts --------------------------------------------------------------------------------------------------

    def _known_pods(self) -> tuple[dict[str, Any], ...] | None:
        """None while the pods of this node are not known."""
        return self.shared.pods.objects if self.shared.pods.synced else None

    def _pod_texts(self) -> tuple[PodText, ...] | None:
        """The like: then nothing goes."""
        pods = self._known_pods()
        return pod_texts(pods) if pods is not None else None

    def _scrub(self, cache: Path) -> Scrub:
        settings = self.shared.settings
        reader = Reader(settings.scrub_bytes_per_second, Path(settings.pressure_file))
        scrub = Scrub(cache, reader, settings.scrub_days * _DAY_SECONDS, self.wake.set, clock.now)
        if settings.scrub_days:
            self.shared.metrics.scrubs((settings.scrub_days + 1) * _DAY_SECONDS)
            self.shared.start(scrub.run())
        return scrub

    def _page_cache(self, cache: Path) -> PageCache:
        settings = self.shared.settings
        memory = Memory(Path(settings.meminfo_file), Path(settings.memory_pressure_file))
        warmth = PageCache(cache, memory, WarmRules(settings.page_cache_ratio), self.wake.set, time.monotonic)
        self.shared.start(warmth.run())
        return warmth

    def _fetch_tokens(self) -> Tokens:
        """Where the settings set no limit there is no Lease."""
        settings = self.shared.settings
        if not settings.fetch_at_once:
            return NoTokens()
        leases = Leases(self.shared.kube, settings.namespace)

        def ballot(name: str) -> TokenHands:
            return TokenHands(leases, name, LEASE_SECONDS, clock.now)

        holder = f"{settings.node_name}_{uuid4().hex[:8]}"
        tokens = LeaseTokens(holder, settings.fetch_at_once, ballot, time.monotonic)
        self.elected.append(tokens)
        return tokens

    def _cold_starts(self) -> ColdStarts:
        shared = self.shared
        return ColdStarts(
            lambda: shared.own.item,
            self._known_pods,
            shared.kube.events_of,
            shared.own.annotate,
            shared.metrics.pod_started,
            clock.now,
            time.monotonic,
            lambda: this_boot(shared.settings.boot_id_file).id or (node.boot_id if (node := shared.own.node()) else ""),
            self._servings,
        )

    def _slice_fits(self, cache: Path) -> SliceFits:
        shared, pods = self.shared, self._known_pods
        found = shared.metrics.misfits
        return SliceFits(cache, shared.own.node, pods, self._servings, shared.events, found, clock.now)

    def _start_gate(self) -> Callable[[CacheReport], None]:
        """A loop of its own: the deadline comes also where a disk hangs, or labels are refused. Returns what is to be told each
        report."""
        settings, wake = self.shared.settings, asyncio.Event()
        gate = self._gate = self._gate_keeper()

        async def gate_pass() -> float:
            wait = await gate.keep()
            return min(settings.resync_seconds, wait if wait is not None else settings.resync_seconds)

        def learned(report: CacheReport) -> None:
            gate.learn(report)
            wake.set()

        self._gate_wake = wake
        self.shared.loop("gate", gate_pass, wake)
        return learned

    def _gate_keeper(self) -> GateKeeper:
        shared, settings = self.shared, self.shared.settings
        sight = GateSight(
            lambda: in_this_boot(shared.own.node(), this_boot(settings.boot_id_file).id),
            lambda: [pod_of(item) for item in shared.pods.objects],
        )
        rules = GateRules(settings.mig_config_label, settings.gate_seconds)
        hands = GateHands(shared.kube)
        return GateKeeper(sight, hands, shared.node, shared.events, shared.metrics, rules, clock.now)

    def _workloads(self, starts: ColdStarts) -> Workloads:
        """Where nobody looks at workloads there is no Lease and no watch more."""
        shared, settings = self.shared, self.shared.settings
        if settings.prewarm == "off":
            return NoWorkloads()

        wake = asyncio.Event()

        def changed() -> None:
            self.wake.set()
            wake.set()

        published = DemandMap(shared.kube, settings.namespace, changed)
        shared.start(published.run())
        ballot = LeaderHands(Leases(shared.kube, settings.namespace), DEMAND, LEASE_SECONDS, clock.now)
        view = WorkloadView(shared.kube, settings.namespace, kept_whatever_it_is, shared.start, wake.set)
        holder = f"{settings.node_name}_{uuid4().hex[:8]}"
        publishing = PublishingPass(
            holder,
            ballot,
            view,
            published,
            settings.allowed,
            shared.metrics.published,
            time.monotonic,
            lambda: self._demand.declared if self._demand is not None else (),
        )
        self.elected.append(publishing)
        shared.loop("demand", publishing, wake)
        self._demand = NodeDemand(
            DemandRules(settings.allowed, settings.prewarm_most, settings.mig_config_label),
            shared.own.node,
            self._known_pods,
            lambda: published.data,
            lambda: published.synced,
            starts.history,
            self._servings,
        )
        return self._demand
