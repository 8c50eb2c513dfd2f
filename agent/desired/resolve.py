"""From what people wrote to what this hardware shall be: a wish per GPU, or one sentence why not."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from agent.desired.inline import Ask, looks_inline, parse_inline, parse_profile, shapes_of
from agent.desired.layout_file import Entry, Layouts
from agent.desired.sharing import Part, node_sharing, single_refusal
from agent.model.desired import Desired, Refusal, Unasked, Wish
from agent.model.errors import BadInputError
from agent.model.labels import GPU_LAYOUT_PREFIX, GPU_LAYOUT_SUFFIX, STRATEGY, asked_layout, own_layouts
from agent.model.mig import Gpu, GpuWish, Profile, Shape
from agent.model.schedule import InForce

Fits = Callable[[Gpu, tuple[Shape, ...]], bool]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where wishes come from. ``layouts_error`` is the sentence when the layouts file cannot be read.

    ``gpus_before`` is how many GPUs the node had when a layout was last applied (None: never): an index means something
    only while that is so, since a lost GPU shifts them. ``period``: the label names a schedule, and ``labels`` have the layout
    that it means now in its place.
    """

    label_key: str
    labels: Mapping[str, str]
    layouts: Layouts
    layouts_error: str = ""
    gpus_before: int | None = None
    period: InForce | None = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """One GPU's part of a layout, before it is held against the GPU."""

    mig_enabled: bool
    asks: tuple[Ask, ...] = ()
    shapes: tuple[Shape, ...] | None = None


def resolve(sources: Sources, gpus: tuple[Gpu, ...], fits: Fits) -> Wish:
    """The node's wish. ``fits`` says whether an empty GPU can have some instances together (the planner's geometry)."""
    name = sources.labels.get(sources.label_key, "")
    overrides = own_layouts(sources.labels)
    if not name and not overrides:
        return Unasked()
    known = [gpu for gpu in gpus if not gpu.unknown]
    wishes: dict[str, GpuWish] = {}
    unread: set[str] = set()
    try:
        own = {which: gpu for which in sorted(overrides) if (gpu := _named_gpu(which, sources, gpus)) is not None}
        overridden = {gpu.uuid for gpu in own.values()}
        if len(own) < len(overrides):
            unread |= {gpu.uuid for gpu in gpus if gpu.nameless}
        if name:
            for gpu, layout in _node_layout(name, sources, gpus, overridden).items():
                if gpu.unknown:
                    unread.add(gpu.uuid)
                else:
                    wishes[gpu.uuid] = _wish(gpu, layout(gpu), f"layout {name!r}", fits)
        for which, gpu in own.items():
            value = overrides[which]
            layout = _layout(value, sources)
            if gpu.unknown:
                unread.add(gpu.uuid)
            else:
                wishes[gpu.uuid] = _wish(gpu, layout(gpu), f"layout {value!r}", fits)
    except _RefusedError as refused:
        return Refusal(refused.reason, str(refused), name)
    except BadInputError as error:
        return Refusal("unknown-profile", str(error), name)
    entries = sources.layouts.get(name, ())
    parts = _parts(known, wishes, entries, overridden)
    if sources.labels.get(STRATEGY) == "single":
        refusal = single_refusal(name, parts)
        if refusal is not None:
            return refusal
    sharing = node_sharing(name, entries, parts, sources.labels)
    if isinstance(sharing, Refusal):
        return sharing
    called = asked_layout(sources.labels, sources.label_key)
    return Desired(called, _revision(name, entries, overrides), wishes, sharing, frozenset(unread))


def name_refusal(name: str, layouts: Layouts) -> Refusal | None:
    """What is wrong with the name of a layout, whatever GPUs it is for."""
    try:
        if name not in layouts:
            _layout(name, Sources("", {}, layouts))
    except _RefusedError as refused:
        return Refusal(refused.reason, str(refused), name)
    return None


def _parts(
    gpus: list[Gpu], wishes: Mapping[str, GpuWish], entries: tuple[Entry, ...], overridden: set[str]
) -> tuple[Part, ...]:
    """Every GPU as it will be; one that the wish does not name, as it is."""
    parts = []
    for gpu in gpus:
        entry = None if gpu.uuid in overridden else _entry_for(gpu, entries)
        share = entry.sharing if entry is not None else None
        wish = wishes.get(gpu.uuid)
        if wish is None:
            parts.append(Part(gpu, bool(gpu.mig_enabled), tuple(slot.shape for slot in gpu.layout), share))
        else:
            parts.append(Part(gpu, wish.mig_enabled, wish.shapes, share))
    return tuple(parts)


def _revision(name: str, entries: tuple[Entry, ...], overrides: Mapping[str, str]) -> str:
    """12 hexadecimal digits of what people wrote. They do not change with what can be read of the hardware just now: a GPU that
    stops answering makes no other wish."""
    asked = msgspec.json.encode((name, entries, overrides), order="sorted")
    return hashlib.sha256(asked).hexdigest()[:12]


class _RefusedError(BadInputError):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _node_layout(
    name: str, sources: Sources, gpus: tuple[Gpu, ...], overridden: set[str]
) -> dict[Gpu, Callable[[Gpu], _Asked]]:
    """The node's layout for each MIG-capable GPU that has none of its own. A file's later entries override earlier ones."""
    capable = [gpu for gpu in gpus if gpu.mig_enabled is not None or gpu.never_read]
    entries = sources.layouts.get(name)
    if entries is not None:
        _check_indices(name, entries, sources, gpus)
        found = {gpu: _entry_for(gpu, entries) for gpu in capable if gpu.uuid not in overridden}
        return {gpu: _from_entry(name, entry) for gpu, entry in found.items() if entry is not None}
    if not capable:
        raise _RefusedError("no-mig", f"layout {name!r}: no GPU of this node supports MIG")
    layout = _layout(name, sources)
    return {gpu: layout for gpu in capable if gpu.uuid not in overridden}


def _layout(name: str, sources: Sources) -> Callable[[Gpu], _Asked]:
    """A layout that is not in the file: a generated name, or an inline layout."""
    match name:
        case "disabled" | "all-disabled":
            return lambda gpu: _Asked(False)
        case "enabled" | "all-enabled":
            return lambda gpu: _Asked(True)
        case "all-balanced":
            return lambda gpu: _Asked(True, shapes=_balanced(gpu))
    if name.startswith("all-") and looks_inline(name.removeprefix("all-")):
        return lambda gpu: _Asked(True, shapes=_filled(gpu, name))
    if looks_inline(name):
        try:
            asks = parse_inline(name)
        except BadInputError as error:
            raise _RefusedError("unparsable-layout", str(error)) from error
        return lambda gpu: _Asked(True, asks)
    if sources.layouts_error:
        raise _RefusedError("layouts-unreadable", f"layout {name!r} cannot be looked up: {sources.layouts_error}")
    raise _RefusedError("unknown-layout", _unknown(name, sources))


def _unknown(name: str, sources: Sources) -> str:
    known = ", ".join(sorted(sources.layouts)[:12]) or "none"
    return f"layout {name!r} is neither in the layouts file (it has: {known}) nor an inline layout such as 7x1g.10gb"


def _from_entry(name: str, entry: Entry) -> Callable[[Gpu], _Asked]:
    return lambda gpu: _Asked(entry.mig_enabled, entry.asks(f"layout {name!r}"))


def _entry_for(gpu: Gpu, entries: tuple[Entry, ...]) -> Entry | None:
    return next((entry for entry in reversed(entries) if entry.names(gpu)), None)


def _check_indices(name: str, entries: tuple[Entry, ...], sources: Sources, gpus: tuple[Gpu, ...]) -> None:
    if any(entry.devices != "all" for entry in entries):
        _check_count(f"layout {name!r} lists GPUs by index", sources, gpus)


def _check_count(what: str, sources: Sources, gpus: tuple[Gpu, ...]) -> None:
    count = sum(gpu.listed for gpu in gpus)
    if sources.gpus_before is not None and sources.gpus_before != count:
        raise _RefusedError(
            "gpu-count-changed",
            f"{what}, but the node has {count} GPUs now and had {sources.gpus_before} when a layout was last applied: "
            "a lost GPU shifts indices; name GPUs by UUID, or bring the GPU back",
        )


def _named_gpu(which: str, sources: Sources, gpus: tuple[Gpu, ...]) -> Gpu | None:
    """A GPU by the first 8 hexadecimal digits of its UUID, or by index; None where it may be one that was never read."""
    if len(which) < 8 and which.isdigit():
        _check_count(f"label {GPU_LAYOUT_PREFIX}{which}{GPU_LAYOUT_SUFFIX} names a GPU by index", sources, gpus)
        found = [gpu for gpu in gpus if gpu.listed and gpu.index == int(which)]
    else:
        found = [gpu for gpu in gpus if gpu.short == which.lower()]
        if not found and any(gpu.nameless for gpu in gpus):
            return None
    if len(found) != 1:
        have = ", ".join(gpu.short for gpu in gpus if not gpu.nameless)
        raise _RefusedError(
            "unknown-gpu",
            f"label {GPU_LAYOUT_PREFIX}{which}{GPU_LAYOUT_SUFFIX} names no GPU of this node; it has {have}",
        )
    return found[0]


def _wish(gpu: Gpu, asked: _Asked, where: str, fits: Fits) -> GpuWish:
    """Held against the GPU: every profile exists, and all fit together on an empty one.

    Where the driver lists no profiles yet, MIG mode is all that can be asked for; the rest is held against it once it is on.
    """
    if gpu.mig_enabled is None:
        raise _RefusedError("no-mig", f"{where}: {gpu.name} (GPU {gpu.index}) does not support MIG")
    if not asked.mig_enabled:
        return GpuWish(False)
    if gpu.profiles_unknown:
        return GpuWish(True)
    shapes = asked.shapes if asked.shapes is not None else shapes_of(gpu, asked.asks, where)
    if not fits(gpu, shapes):
        listed = ", ".join(f"{count}x{shape}" for shape, count in Counter(shapes).items())
        raise _RefusedError(
            "no-placement",
            f"{where}: {listed} do not fit together on {gpu.name} (GPU {gpu.index}): no legal placement holds them all; "
            "`warmslice layouts` lists what fits",
        )
    return GpuWish(True, shapes)


def _filled(gpu: Gpu, name: str) -> tuple[Shape, ...]:
    """``all-<profile>``: as many as the GPU can hold."""
    ask = parse_profile(name.removeprefix("all-"), 1, f"layout {name!r}")
    if gpu.profiles_unknown:
        return ()
    shapes = shapes_of(gpu, (ask,), f"layout {name!r}")
    profile = gpu.profile(shapes[0].profile)
    return shapes * _most(profile) if profile is not None else ()


def _most(profile: Profile) -> int:
    """How many instances of one profile fit beside each other, by its placements."""
    count, end = 0, -1
    for place in sorted(profile.placements, key=lambda p: p.end):
        if place.start >= end:
            count, end = count + 1, place.end
    return min(count, 1) if profile.media in ("me", "me.all") else count


def _balanced(gpu: Gpu) -> tuple[Shape, ...]:
    """``all-balanced``: 2x1g + 1x2g + 1x3g on a board of seven compute slices, 2x1g + 1x2g on one of four."""
    if gpu.profiles_unknown:
        return ()
    plain = [profile for profile in gpu.profiles if not {"+", "-"} & set(profile.name)]
    smallest: dict[int, Profile] = {}
    for profile in sorted(plain, key=lambda p: p.memory_mib):
        smallest.setdefault(profile.slices, profile)
    counts = {3: 1, 2: 1, 1: 2} if max(smallest, default=0) >= 7 else {2: 1, 1: 2}
    missing = [slices for slices in counts if slices not in smallest]
    if missing:
        raise _RefusedError("unknown-profile", f"layout 'all-balanced': {gpu.name} has no {missing[0]}g profile")
    return tuple(Shape(smallest[slices].name) for slices, count in counts.items() for _ in range(count))
