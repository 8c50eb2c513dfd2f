"""The cache loop's pass: read the wish and the world, plan, act, report. And the commands that work without a node."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from agent.adapters.hub_cache import disk_use
from agent.execute.fetch import EndedFetch, FetchSupervisor
from agent.execute.fetch_messages import Failed
from agent.model.cache import (
    CachedModel,
    CacheReport,
    DiskUse,
    FailureKind,
    FetchFailure,
    FetchLimits,
    FetchProgress,
    FinishedFetch,
    ModelReport,
    ModelState,
)
from agent.model.catalog import Catalog, CatalogModel, CatalogRefusal
from agent.model.demand import Asked
from agent.model.scrub import ScrubReport
from agent.observe.cache import observe_model
from agent.plan.demand import Choice, Wanted, choose, not_outranked
from agent.plan.prefetch import CachePlan, CacheSeen, failure_of, next_try_seconds, plan_prefetch
from agent.reconcile.catalog import CatalogSource, read_wish
from agent.reconcile.page_cache import Warmth
from agent.reconcile.room import RoomKeeper, Use
from agent.reconcile.tokens import NoTokens, Tokens
from agent.settings import Settings


class Workloads(Protocol):
    """What workloads want of this node, beside what the catalog does."""

    def choose(self, catalog: Catalog, declared: Sequence[CatalogModel]) -> Choice: ...


class NoWorkloads:
    """Nobody looks at workloads."""

    def choose(self, catalog: Catalog, declared: Sequence[CatalogModel]) -> Choice:
        """The catalog's alone."""
        return choose(catalog, declared, (), None, 0)


class NodeLabels(Protocol):
    """The labels of our node, as last seen, and the way to change some (None removes one)."""

    def labels(self) -> Mapping[str, str]: ...

    async def patch_labels(self, labels: Mapping[str, str | None]) -> None: ...


@dataclass(frozen=True, slots=True)
class CacheRules:
    """What the settings say. ``budget_bytes``: None for no other limit than the disk; ``reserve_ratio``: share of the file
    system that stays free whatever the budget; ``endpoint``: None for the public hub; ``bytes_per_second``: of all fetches
    together, None for no limit."""

    cache: Path
    endpoint: str | None = None
    budget_bytes: int | None = None
    reserve_ratio: float = 0.0
    connections: int = 16
    fetches_at_once: int = 1
    stall_seconds: float = 30.0
    bytes_per_second: float | None = None
    require_safetensors: bool = False
    xet: bool = False

    @staticmethod
    def of(settings: Settings) -> CacheRules:
        return CacheRules(
            Path(settings.cache_directory),
            settings.hub_endpoint,
            settings.cache_budget_bytes,
            settings.cache_reserve_ratio,
            connections=settings.fetch_connections,
            bytes_per_second=settings.fetch_bytes_per_second,
            require_safetensors=settings.require_safetensors,
            xet=settings.fetch_xet,
        )


@dataclass(slots=True)
class CachePass:
    """Call ``run`` at each pass; it never waits for a fetch. Between passes it keeps only what cannot be observed:
    failures with their next try, and since when each state has held.

    ``room`` keeps the cache inside its budget; ``scrubbed`` says how reading again what is on disk stands; ``warmth`` keeps
    weights in memory. ``publish`` is given each report before the node's labels are written: metrics stay true, and every fetch
    is counted, while the API server is away.
    """

    rules: CacheRules
    catalog: CatalogSource
    node: NodeLabels
    fetches: FetchSupervisor
    publish: Callable[[CacheReport], Awaitable[None]]
    now: Callable[[], float]
    room: RoomKeeper
    scrubbed: Callable[[], ScrubReport]
    workloads: Workloads
    warmth: Warmth
    tokens: Tokens = field(default_factory=NoTokens)
    _failures: dict[str, FetchFailure] = field(default_factory=dict)
    _since: dict[str, tuple[ModelState, float]] = field(default_factory=dict)

    async def run(self) -> CacheReport:
        """One pass. Errors of the node's labels pass through, after fetches were started and stopped."""
        report = await self._pass()
        await self.publish(report)
        if report.labels_to_write:
            await self.node.patch_labels(report.labels_to_write)
        return report

    async def _pass(self) -> CacheReport:
        now = self.now()
        # Both before the disk is read, without a wait between them: a fetch that ends while we look is then seen as
        # running, and looked at again at the next pass, instead of being neither running nor complete nor failed.
        running = {name: progress.model for name, progress in self.fetches.running().items()}
        ended = self.fetches.take_ended()
        finished = self._take_in(ended)
        wish = read_wish(self.catalog, self.node.labels())
        disk = await asyncio.to_thread(disk_use, self.rules.cache)
        if isinstance(wish, CatalogRefusal):
            await self.tokens.keep(running.keys())
            return self._report(now, (), wish.message, disk, finished, {}, None)
        choice = self.workloads.choose(wish.catalog, wish.wanted)
        wanted = tuple(one.model for one in choice.wanted)
        ranks = {one.model.name: one.rank for one in choice.wanted}
        models = await asyncio.to_thread(observe_all, self.rules.cache, wanted)
        self._distrust(ended, wanted, models)
        seen = CacheSeen(models, running, self._failures, self.node.labels(), ranks)
        short = self._too_large(wanted, seen)
        declared = {model.name for model in wish.wanted}
        holding = not_outranked(choice.wanted, declared, short.model.name if short is not None else None)
        room = await self.room.keep(Use(holding, models, wish.pinned, self.room.pods()), short, disk, now)
        if short is not None and room.made:
            del self._failures[short.model.name]
        if room.gone:
            disk = await asyncio.to_thread(disk_use, self.rules.cache)
        plan, seen = await self._with_tokens(
            plan_prefetch(wanted, seen, now, self.rules.fetches_at_once), wanted, seen, now
        )
        self._act(plan, disk)
        reports = self._models(choice.wanted, seen, plan, now)
        self.warmth.want([m for m in wanted if m.page_cache and plan.states[m.name] is ModelState.READY])
        waits = [wait for wait in (plan.look_again_seconds, self.tokens.look_again_seconds) if wait is not None]
        report = self._report(now, reports, None, disk, finished, plan.labels, min(waits, default=None))
        return replace(report, gone=room.gone, over=room.over, asked=Asked.of(choice.refused, choice.over))

    async def _with_tokens(
        self, plan: CachePlan, wanted: Sequence[CatalogModel], seen: CacheSeen, now: float
    ) -> tuple[CachePlan, CacheSeen]:
        """The plan for those that have a token: others neither start nor make one that runs end. See Note [Fetch tokens] in
        tokens.py."""
        may = await self.tokens.seek(plan.asking, plan.most)
        if may != plan.asking[: plan.most]:
            seen = replace(seen, held=frozenset(model.name for model in plan.asking) - {model.name for model in may})
            plan = plan_prefetch(wanted, seen, now, self.rules.fetches_at_once)
        await self.tokens.keep({*(seen.running.keys() - set(plan.stops)), *(model.name for model in may)})
        return plan, seen

    def _too_large(self, wanted: Sequence[CatalogModel], seen: CacheSeen) -> FetchFailure | None:
        """Why the first wanted model that did not fit did not."""
        waiting = (m for m in wanted if not seen.models[m.name].complete and m.name not in seen.running)
        failures = (failure_of(model, self._failures) for model in waiting)
        return next((failure for failure in failures if failure is not None and failure.needed_bytes), None)

    def _act(self, plan: CachePlan, disk: DiskUse) -> None:
        for name in plan.stops:
            self.fetches.stop(name)
        for model in plan.starts:
            limits = limits_of(self.rules, model, disk)
            self.fetches.start(model, self.rules.endpoint, limits, self.rules.require_safetensors)

    def _take_in(self, ended: Sequence[EndedFetch]) -> tuple[FinishedFetch, ...]:
        for fetch in ended:
            if fetch.failure is not None:
                self._remember(fetch, fetch.failure)
            elif fetch.stopped:
                self._failures.pop(fetch.progress.model.name, None)
        return tuple(_finished(fetch) for fetch in ended)

    def _distrust(
        self, ended: Sequence[EndedFetch], wanted: Sequence[CatalogModel], models: Mapping[str, CachedModel]
    ) -> None:
        """A fetch that says done is believed once the disk says so too: else it would be started again at once, for ever."""
        for fetch in ended:
            model = fetch.progress.model
            if fetch.failure is not None or fetch.stopped:
                continue
            lacking = models[model.name].lacking if model in wanted else None
            if lacking is None:
                self._failures.pop(model.name, None)
            else:
                self._remember(fetch, Failed(FailureKind.FAULT, "incomplete", f"fetched, and yet {lacking}"))

    def _remember(self, fetch: EndedFetch, failure: Failed) -> None:
        model, at = fetch.progress.model, fetch.ended_at_seconds
        before = failure_of(model, self._failures)
        failures = 1 + (before.failures if before is not None else 0)
        self._failures[model.name] = FetchFailure(
            model=model,
            kind=failure.kind,
            reason=failure.reason,
            message=failure.message,
            failures=failures,
            failed_at_seconds=at,
            next_try_seconds=next_try_seconds(failure.kind, failures, at, failure.after_seconds, random.random()),
            needed_bytes=failure.needed_bytes,
        )

    def _models(
        self, wanted: Sequence[Wanted], seen: CacheSeen, plan: CachePlan, now: float
    ) -> tuple[ModelReport, ...]:
        self._since = {
            name: self._since[name] if self._since.get(name, (None,))[0] is state else (state, now)
            for name, state in plan.states.items()
        }
        running = self.fetches.running()
        return tuple(
            _model_report(
                one,
                self._since[one.model.name],
                seen.models[one.model.name],
                running.get(one.model.name),
                failure_of(one.model, self._failures),
                self.room.why_not(one.model),
                self.tokens.why if one.model.name in seen.held else "",
            )
            for one in wanted
        )

    def _report(
        self,
        now: float,
        models: tuple[ModelReport, ...],
        refusal: str | None,
        disk: DiskUse,
        finished: tuple[FinishedFetch, ...],
        labels: Mapping[str, str | None],
        look_again: float | None,
    ) -> CacheReport:
        return CacheReport(
            at_seconds=now,
            models=models,
            refusal=refusal,
            disk=disk,
            budget_bytes=self.rules.budget_bytes,
            totals=self.fetches.totals,
            finished=finished,
            labels_to_write=dict(labels),
            look_again_seconds=look_again,
            scrub=self.scrubbed(),
            page_cache=self.warmth.report(),
        )


def observe_all(cache: Path, wanted: Sequence[CatalogModel]) -> dict[str, CachedModel]:
    return {model.name: observe_model(cache, model) for model in wanted}


def limits_of(rules: CacheRules, model: CatalogModel, disk: DiskUse) -> FetchLimits:
    """A fetch has an equal share of the rate of all, whether the others run or not: so it holds without a word between them."""
    allowance = None if rules.budget_bytes is None else max(0, rules.budget_bytes - disk.used_bytes)
    share = None if rules.bytes_per_second is None else rules.bytes_per_second / rules.fetches_at_once
    return FetchLimits(
        allowance_bytes=allowance,
        reserve_bytes=int(rules.reserve_ratio * disk.total_bytes),
        connections=rules.connections,
        stall_seconds=rules.stall_seconds,
        xet=rules.xet,
        bytes_per_second=min((rate for rate in (share, model.bytes_per_second) if rate is not None), default=None),
    )


def _finished(fetch: EndedFetch) -> FinishedFetch:
    reason = "stopped" if fetch.stopped else "ok" if fetch.failure is None else fetch.failure.reason
    seconds = fetch.ended_at_seconds - fetch.progress.started_at_seconds
    return FinishedFetch(fetch.progress.model.name, reason, seconds)


def _model_report(
    wanted: Wanted,
    since: tuple[ModelState, float],
    cached: CachedModel,
    progress: FetchProgress | None,
    failure: FetchFailure | None,
    held: str | None,
    tokenless: str,
) -> ModelReport:
    model, (state, since_seconds) = wanted.model, since
    fetching = progress if state is ModelState.FETCHING else None
    reason, message = _why(state, cached, failure, held) if fetching is None else ("fetching", _how_far(fetching))
    if tokenless and state is ModelState.WAITING:
        reason, message = "fetch-token", tokenless
    return ModelReport(
        name=model.name,
        repository=model.repository,
        revision=model.revision,
        commit=fetching.commit if fetching is not None and fetching.commit else cached.commit,
        state=state,
        reason=reason,
        message=message,
        size_bytes=max(cached.size_bytes, fetching.size_bytes if fetching is not None else 0),
        fetched_bytes=max(cached.present_bytes, fetching.fetched_bytes if fetching is not None else 0),
        since_seconds=since_seconds,
        next_try_seconds=failure.next_try_seconds if failure is not None and progress is None else None,
        gate=model.gate,
        rank=wanted.rank,
        because=wanted.because,
    )


def _how_far(progress: FetchProgress) -> str:
    if not progress.size_bytes:
        return "the hub is asked what there is to fetch"
    done = f"{progress.fetched_bytes / 1e9:.2f} of {progress.size_bytes / 1e9:.2f} GB are here"
    retries = ", ".join(f"{reason} ({count})" for reason, count in sorted(progress.retries.items()))
    return f"{done}; tried again after: {retries}" if retries else done


def _why(state: ModelState, cached: CachedModel, failure: FetchFailure | None, held: str | None) -> tuple[str, str]:
    """The reason's short word and the sentence."""
    if state is ModelState.READY and failure is not None:
        return "not-followed", f"every wanted file is here; a newer commit could not be fetched: {failure.message}"
    if state is ModelState.READY:
        return "complete", "every wanted file is here and was checked"
    if state is ModelState.FAILED and failure is not None:
        return (failure.reason, failure.message) if held is None else ("blocked", f"{failure.message}; {held}")
    return state.value, cached.lacking or ""
