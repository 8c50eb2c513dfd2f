"""Advice on GPUs by their history, with the labels that would have the agent follow it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from agent.desired.inline import parse_inline, shapes_of
from agent.model.advice import Advice, Advised, Geometry
from agent.model.errors import BadInputError
from agent.model.history import History
from agent.model.labels import GPU_LAYOUT_PREFIX, GPU_LAYOUT_SUFFIX
from agent.model.mig import Gpu, Slot
from agent.plan.advise import LONGEST_UNSEEN_SECONDS, advise, fragments, not_seen, unknown_holders
from agent.reconcile.reach import label_value

_LONGEST_LABEL = 63


def advised(
    history: History, gpus: Sequence[Gpu], gpus_seen: float | None, now: float, least_seconds: float
) -> Advised:
    """All there is to say of these GPUs. ``gpus_seen``: when they were so; None: now."""
    known = {gpu.uuid: gpu for gpu in gpus}
    # Looks go by the holders that the pass over those GPUs saw, so GPUs that were seen before the last look are of its time.
    at = now if gpus_seen is None else max(gpus_seen, history.seen)
    lies = {gpu.uuid: fragments(gpu) for gpu in gpus if gpu.mig_enabled and not gpu.unknown}
    could_gain = [known[uuid] for uuid, one in lies.items() if one.fragmentation]
    unread = [f"GPU {gpu.index} cannot be read: {gpu.unknown}" for gpu in gpus if gpu.unknown]
    return Advised(
        history.observed_seconds,
        least_seconds,
        history.seen or None,
        gpus_seen,
        advice=tuple(_labelled(one, known) for one in advise(history, gpus, at, least_seconds)),
        gpus=tuple(lies.values()),
        unknown="; ".join([*unread, *(_unheld(history, could_gain, at) if lies else ())]),
    )


def _unheld(history: History, could_gain: Sequence[Gpu], at: float) -> Iterator[str]:
    """What is not said because it is not known who holds a slice."""
    if history.seen and not_seen(history, at):
        yield (
            f"the history ends more than {LONGEST_UNSEEN_SECONDS / 60:.0f} min from when the GPUs were so, so who holds their "
            "slices is not known and nothing is advised"
        )
        return
    for gpu in could_gain:
        if slices := unknown_holders(history, gpu, at):
            yield f"GPU {gpu.index}: who holds {', '.join(slices)} is not known, so no other places are advised"


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
