"""What the value of a layout label means as far as that can be said without the node's GPUs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from agent.desired.inline import looks_inline, parse_inline
from agent.desired.layout_file import Entry, LayoutFile
from agent.desired.resolve import name_refusal
from agent.desired.schedule import in_force
from agent.desired.sharing import sharings
from agent.model.cluster_view import ANY, Wished

_WITHOUT_SLICES = frozenset({"", "disabled", "all-disabled", "enabled", "all-enabled"})
_BALANCED_KINDS = 2
"""At least: 1g and 2g."""


def meaning(value: str, file: LayoutFile | None, now: float) -> Wished:
    """``file`` None: the layouts file cannot be read, so that a name of it is not known to be wrong. ``now`` (seconds since the
    epoch) says which period of a schedule is meant."""
    schedule = file.schedules.get(value) if file is not None else None
    if schedule is None:
        return _of_layout(value, file)
    later = frozenset(made for period in schedule.periods for made in _made_by(period.layout, file))
    return replace(_of_layout(in_force(schedule, now).period.layout, file), later=later)


def _made_by(layout: str, file: LayoutFile | None) -> Iterable[str]:
    """As far as it can be said without the GPUs; ANY stands for the rest."""
    named = resources_made(file)
    if layout in named:
        return named[layout]
    if name_refusal(layout, file.layouts if file is not None else {}) is not None:
        return []
    if looks_inline(layout):
        return [ask.profile.replace("+", ".") for ask in parse_inline(layout)]
    return [] if layout in _WITHOUT_SLICES else [ANY]


def _of_layout(value: str, file: LayoutFile | None) -> Wished:
    layouts = file.layouts if file is not None else {}
    if value in layouts:
        return _of_entries(value, layouts[value])
    refusal = name_refusal(value, layouts) if value else None
    if refusal is not None:
        known = file is not None or refusal.reason != "unknown-layout"
        return Wished(refusal.message if known else "")
    if value in _WITHOUT_SLICES:
        return Wished()
    if value == "all-balanced":
        return Wished(slices=True, kinds=_BALANCED_KINDS)
    if looks_inline(value):
        return Wished(slices=True, kinds=len({(ask.profile, ask.compute) for ask in parse_inline(value)}))
    return Wished(slices=True, kinds=1)


def resources_made(file: LayoutFile | None) -> Mapping[str, tuple[str, ...]]:
    """What the device plugin calls the slices of each named layout."""
    if file is None:
        return {}
    return {
        name: tuple(sorted({made for entry in entries if entry.mig_enabled for made in entry.makes}))
        for name, entries in file.layouts.items()
    }


def _of_entries(name: str, entries: tuple[Entry, ...]) -> Wished:
    """An entry with a filter may speak of no GPU of the node, so that its kinds do not count."""
    kinds = [len(set(entry.makes)) for entry in entries if entry.mig_enabled and not entry.filters]
    chosen: dict[str, list[str]] = {}
    for sharing in sharings({name: entries}):
        chosen.setdefault(sharing.strategy, []).append(sharing.entry)
    return Wished(
        slices=any(entry.mig_enabled and entry.makes for entry in entries),
        kinds=max(kinds, default=0),
        entries={strategy: found[0] for strategy, found in chosen.items() if len(found) == 1},
    )
