"""Advice on GPUs by their history, with the labels that would have the agent follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agent.desired.inline import parse_inline, shapes_of
from agent.model.advice import Advice, Advised, Geometry
from agent.model.errors import BadInputError
from agent.model.history import History
from agent.model.labels import GPU_LAYOUT_PREFIX, GPU_LAYOUT_SUFFIX
from agent.model.mig import Gpu, Slot
from agent.plan.advise import advise, fragments
from agent.reconcile.reach import label_value

_LONGEST_LABEL = 63


def advised(history: History, gpus: Sequence[Gpu], gpus_seen: float | None, least_seconds: float) -> Advised:
    """All there is to say of these GPUs. ``gpus_seen``: when they were so; None: now."""
    known = {gpu.uuid: gpu for gpu in gpus}
    unread = [f"GPU {gpu.index} cannot be read: {gpu.unknown}" for gpu in gpus if gpu.unknown]
    return Advised(
        history.observed_seconds,
        least_seconds,
        history.seen or None,
        gpus_seen,
        advice=tuple(_labelled(one, known) for one in advise(history, gpus, least_seconds)),
        gpus=tuple(fragments(gpu) for gpu in gpus if gpu.mig_enabled and not gpu.unknown),
        unknown="; ".join(unread),
    )


def _labelled(one: Advice, gpus: dict[str, Gpu]) -> Advice:
    if not isinstance(one, Geometry):
        return one
    gpu = gpus[one.uuid]
    return replace(one, label=f"{GPU_LAYOUT_PREFIX}{gpu.short}{GPU_LAYOUT_SUFFIX}", layout=_layout(gpu, one.after))


def _layout(gpu: Gpu, after: Sequence[str]) -> str:
    """The value that asks for these slices; empty where none does."""
    slots = [Slot.parse(name) for name in after]
    shapes = tuple(slot.shape for slot in sorted(slots, key=lambda slot: (-slot.placement.size, slot.shape)))
    value = label_value(shapes)
    try:
        asks_for = shapes_of(gpu, parse_inline(value), value)
    except BadInputError:
        return ""
    return value if sorted(asks_for) == sorted(shapes) and len(value) <= _LONGEST_LABEL else ""
