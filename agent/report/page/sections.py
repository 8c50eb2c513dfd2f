"""The sections of the page, each by its id. A section says the same while its part of the overview does: how long ago
something was is told by the time itself, which the script counts on from, and by the hour for those who have none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from agent.model.mig import Slot
from agent.model.overview import (
    CacheView,
    ChangeView,
    EventView,
    GpuView,
    LoadView,
    ModelView,
    Overview,
    SliceView,
    WaitView,
)
from agent.report.page.html import Html, joined, tag

_GIB = 1 << 30
_WORDS = {
    "": "no layout asked for",
    "pending": "pending",
    "success": "as wished",
    "failed": "failed",
    "rebooting": "rebooting",
}


def sections(overview: Overview) -> dict[str, str]:
    """Inner markup by the section's id, in the order of the page."""
    return {
        "state": joined(*_state(overview)),
        "gpus": joined(*_gpus(overview)),
        "models": joined(*_models(overview)),
        "events": joined(*_events(overview.events)),
    }


# -- the wish and how it stands -------------------------------------------------------------------------------------------


def _state(overview: Overview) -> Iterator[Html]:
    partition = overview.partition
    if partition is None:
        yield tag("h2", "Layout")
        yield from _missing(overview, "partition")
        return
    layout = partition.layout
    yield tag(
        "h2",
        "Layout ",
        tag("code", layout.layout) if layout.layout else None,
        " ",
        _pill(layout.state or "none", _WORDS[layout.state]),
    )
    if layout.state:
        about = [tag("strong", layout.reason), " since ", _time(layout.since)]
        about += [" · ", layout.schedule] if layout.schedule else []
        about += [" · tried again at ", _time(layout.next_try)] if layout.next_try else []
        yield tag("p", *about, class_="about")
        yield tag("p", layout.message, class_="message")
    if partition.error:
        yield tag("p", "The last look failed: ", partition.error, class_="alarm")
    if partition.waits is not None:
        yield _waits(partition.waits)
    if partition.change is not None:
        yield _change(partition.change)


def _waits(waits: WaitView) -> Html:
    pods = [
        tag(
            "li",
            tag("code", one.pod),
            f" of {one.owner}" if one.owner else None,
            f", budget {one.budget}" if one.budget else None,
        )
        for one in waits.pods
    ]
    return tag(
        "div",
        tag("h3", "Waits for ", tag("strong", waits.reason), " since ", _time(waits.since)),
        tag("p", waits.message),
        tag("ul", *pods) if pods else None,
        class_="waits",
    )


def _change(change: ChangeView) -> Html:
    goes = "Going back" if change.failure else "Changing"
    steps = [
        tag("li", tag("span", _MARKS[step.state], class_="mark", aria_hidden="true"), step.text, _hidden(step.state),
            class_=step.state.replace(" ", ""))
        for step in change.steps
    ]  # fmt: skip
    moves = [tag("li", tag("code", pod)) for pod in change.moves]
    return tag(
        "div",
        tag("h3", f"{goes} to ", tag("code", change.layout), " since ", _time(change.since)),
        tag("p", change.failure, class_="alarm") if change.failure else None,
        tag("p", "The node is cordoned by the agent, and given back at the end.") if change.cordoned else None,
        joined(tag("p", "Pods that have to move:"), tag("ul", *moves)) if moves else None,
        tag("ol", *steps, class_="steps") if steps else None,
        class_="change",
    )


_MARKS = {"done": "✓", "doing": "▸", "to do": "·"}


# -- GPUs -----------------------------------------------------------------------------------------------------------------


def _gpus(overview: Overview) -> Iterator[Html]:
    yield tag("h2", "GPUs")
    if overview.partition is None:
        yield from _missing(overview, "partition")
        return
    for gpu in overview.partition.gpus:
        yield _gpu(gpu)
    if not overview.partition.gpus:
        yield tag("p", "The driver shows none.", class_="about")


def _gpu(gpu: GpuView) -> Html:
    facts = [
        {"on": "MIG on", "off": "MIG off", "none": "without MIG"}[gpu.mig],
        f"{gpu.temperature_celsius:.0f} °C" if gpu.temperature_celsius is not None else None,
        f"{gpu.power_watts:.0f} W" if gpu.power_watts is not None else None,
        f"{gpu.ecc_uncorrected} uncorrected memory errors" if gpu.ecc_uncorrected else None,
    ]
    return tag(
        "article",
        tag(
            "h3",
            f"GPU {gpu.index} ",
            tag("span", gpu.model, class_="model"),
            " ",
            _pill("failed", "lost or silent") if gpu.down else None,
        ),
        tag("p", " · ".join(fact for fact in facts if fact), " · ", tag("code", gpu.uuid), class_="about"),
        tag("p", gpu.down, class_="alarm") if gpu.down else None,
        tag("p", "Xid errors: ", ", ".join(f"{xid} ({count} times)" for xid, count in gpu.xids.items()), class_="alarm")
        if gpu.xids
        else None,
        *([] if gpu.down else _inside(gpu)),
        class_="gpu down" if gpu.down else "gpu",
    )


def _inside(gpu: GpuView) -> Iterator[Html]:
    if gpu.mig != "on":
        yield tag("ul", _row("the whole GPU", gpu.holders, gpu.load), class_="slices")
        return
    yield _bar([(one.profile, one.start, one.size, _use(one)) for one in _instances(gpu.slices)], gpu.memory_slices)
    if gpu.after is not None:
        slots = [Slot.parse(text) for text in gpu.after]
        after = [(slot.shape.profile, slot.placement.start, slot.placement.size, "planned") for slot in slots]
        yield tag("p", "and after the change:", class_="about")
        yield _bar(after, gpu.memory_slices)
    if gpu.slices:
        yield tag("ul", *(_slice(one) for one in gpu.slices), class_="slices")
    else:
        yield tag("p", "No slices.", class_="about")


def _instances(slices: Sequence[SliceView]) -> list[SliceView]:
    """Compute instances of one GPU instance lie in one place."""
    by_place: dict[int, SliceView] = {}
    for one in slices:
        before = by_place.get(one.start)
        if before is None or (one.holders and not before.holders):
            by_place[one.start] = one
    return list(by_place.values())


def _use(one: SliceView) -> str:
    if not one.holders:
        return "free"
    return "busy" if (one.load.utilization_ratio or 0.0) > 0 else "held"


def _bar(parts: Sequence[tuple[str, int, int, str]], slices: int) -> Html:
    """Memory slices from left to right; what nobody has is open."""
    taken = {start + n for _, start, size, _ in parts for n in range(size)}
    cells = [
        (start, tag("span", _short(profile), tag("small", profile.partition(".")[2]), _hidden(use),
                    class_=f"slice {use} at{start} by{size}", title=f"{profile} at {start}, {use}"))
        for profile, start, size, use in parts
    ]  # fmt: skip
    cells += [
        (cell, tag("span", class_=f"open at{cell} by1", title=f"memory slice {cell}, open"))
        for cell in range(slices)
        if cell not in taken
    ]
    drawn = [cell for _, cell in sorted(cells, key=lambda pair: pair[0])]
    words = ", ".join(f"{profile} at {start}" for profile, start, _, _ in parts) or "nothing"
    return tag("div", *drawn, class_=f"bar of{slices}", role="img", aria_label=f"{slices} memory slices: {words}")


def _short(profile: str) -> str:
    """``1g.10gb+me`` is ``1g+me``."""
    head, _, tail = profile.partition(".")
    return head + tail.partition("gb")[2]


def _slice(one: SliceView) -> Html:
    name = f"{one.profile}@{one.start}:{one.size}" + (f" {one.compute}" if one.compute else "")
    return _row(name, one.holders, one.load)


def _row(name: str, holders: Sequence[str], load: LoadView) -> Html:
    who = [tag("span", holder, class_="pod") for holder in holders] or [tag("span", "free", class_="nobody")]
    return tag(
        "li",
        tag("span", tag("code", name), class_="name"),
        tag("span", *who, class_="who"),
        _meter("use", load.utilization_ratio),
        _memory(load),
    )


def _meter(name: str, ratio: float | None) -> Html:
    if ratio is None:
        return tag("span", tag("span", name, class_="what"), tag("span", "not reported", class_="none"), class_="load")
    return tag(
        "span",
        tag("span", name, class_="what"),
        tag("meter", value=f"{ratio:.3f}", min="0", max="1", aria_label=name),
        tag("span", f"{ratio:.0%}", class_="number"),
        class_="load",
    )


def _memory(load: LoadView) -> Html:
    used, total = load.memory_used_bytes, load.memory_total_bytes
    if used is None or not total:
        return _meter("memory", None)
    return tag(
        "span",
        tag("span", "memory", class_="what"),
        tag("meter", value=f"{used / total:.3f}", min="0", max="1", aria_label="memory"),
        tag("span", f"{used / _GIB:.1f} of {total / _GIB:.1f} GiB", class_="number"),
        class_="load",
    )


# -- models ---------------------------------------------------------------------------------------------------------------


def _models(overview: Overview) -> Iterator[Html]:
    yield tag("h2", "Models")
    cache = overview.cache
    if cache is None:
        yield from _missing(overview, "cache")
        return
    if cache.refusal:
        yield tag("p", "The catalog cannot be followed: ", cache.refusal, class_="alarm")
    if cache.gate:
        yield tag("p", "The start-up taint of this node waits for: ", ", ".join(cache.gate), class_="alarm")
    yield _disk(cache)
    if cache.models:
        yield tag("ul", *(_model(model) for model in cache.models), class_="models")
    else:
        yield tag("p", "None is wanted on this node.", class_="about")


def _disk(cache: CacheView) -> Html:
    told = [f"The cache takes {_size(cache.used_bytes)}"]
    told += [f"of a budget of {_size(cache.budget_bytes)}"] if cache.budget_bytes is not None else []
    told += (
        [f"; {_size(cache.free_bytes)} of the disk's {_size(cache.total_bytes)} are free"] if cache.total_bytes else []
    )
    over = tag("p", cache.over, class_="alarm") if cache.over else None
    return joined(tag("p", " ".join(told).replace(" ;", ";"), ".", class_="about"), over)


def _model(model: ModelView) -> Html:
    return tag(
        "li",
        tag("span", tag("strong", model.name), " ", _pill(model.state, model.state), class_="name"),
        tag(
            "span",
            model.repository,
            f" at {model.revision}",
            f" · {model.because}",
            " · the start-up taint waits for it" if model.gate else None,
            class_="who",
        ),
        _progress(model),
        tag(
            "span",
            f"{model.reason}: {model.message}" if model.message else model.reason or None,
            " · " if model.message or model.reason else None,
            "since ",
            _time(model.since),
            joined(" · tried again at ", _time(model.next_try)) if model.next_try else None,
            class_="why",
        ),
    )


def _progress(model: ModelView) -> Html:
    if not model.size_bytes:
        return tag("span", tag("span", "size not known yet", class_="none"), class_="load")
    share = min(1.0, model.fetched_bytes / model.size_bytes)
    return tag(
        "span",
        tag("progress", value=f"{share:.4f}", max="1", aria_label=f"{model.name} on disk"),
        tag("span", f"{_size(model.fetched_bytes)} of {_size(model.size_bytes)}", class_="number"),
        class_="load",
    )


# -- Events ---------------------------------------------------------------------------------------------------------------


def _events(events: Sequence[EventView]) -> Iterator[Html]:
    yield tag("h2", "Events")
    if not events:
        yield tag("p", "None since the agent started.", class_="about")
        return
    yield tag("ul", *(_event(event) for event in events), class_="events")


def _event(event: EventView) -> Html:
    return tag(
        "li",
        _time(event.at),
        " ",
        _pill("failed" if event.warning else "none", "warning" if event.warning else "normal"),
        " ",
        tag("strong", event.reason),
        f" ({event.count} times)" if event.count > 1 else None,
        " ",
        tag("span", event.about, class_="who") if not event.about.startswith("Node ") else None,
        " ",
        event.message,
    )


# -- words ----------------------------------------------------------------------------------------------------------------


def _missing(overview: Overview, role: str) -> Iterator[Html]:
    why = overview.missing.get(role, "it has not looked yet")
    since = overview.missing_since.get(role)
    yield tag(
        "p",
        f"The container {role} says nothing: {why}",
        joined(", since ", _time(since)) if since is not None else None,
        class_="alarm",
    )


def _pill(kind: str, words: str) -> Html:
    return tag("span", words, class_=f"pill {kind}")


def _hidden(words: str) -> Html:
    """For those who cannot see a colour or a mark."""
    return tag("span", f" ({words})", class_="hidden")


def _time(seconds: float) -> Html:
    """The script puts how long that is ago, or in how long it will be, behind it."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return tag("time", f"{moment:%Y-%m-%d %H:%M:%S}Z", datetime=f"{moment:%Y-%m-%dT%H:%M:%SZ}")


def _size(count: int) -> str:
    """In decimal units, as disks and hubs have them."""
    size, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
