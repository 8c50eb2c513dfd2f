"""An answer as text for people: a bar for each GPU before and after, and what happens to whom. Fits 80 columns. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from agent.model.answer import Answer, GpuAnswer

_BAR = 64
"""Characters of a bar: 8 for each of eight memory slices, 16 for each of four."""
_VERDICTS = {"nothing": "nothing to do", "change": "would change", "wait": "has to wait", "refused": "refused"}


def drawn(answer: Answer) -> str:
    """The whole answer."""
    rows = [f"{answer.layout!r}: {_VERDICTS[answer.verdict]}"]
    if answer.verdict in ("wait", "refused"):
        rows.append(f"{answer.reason}: {answer.message}")
    for gpu in answer.gpus:
        rows += _gpu(gpu)
    rows += [f"move     {pod}{_budgets(pod, answer)}" for pod in answer.pods]
    rows += [f"may move {pod}{_budgets(pod, answer)}" for pod in answer.may_move]
    if not answer.exact:
        rows.append("a way that moves fewer pods may exist: there were too many to look at all")
    if answer.unknown:
        rows.append(answer.unknown)
    return "\n".join(rows)


def _gpu(gpu: GpuAnswer) -> Iterable[str]:
    changed = bool(gpu.destroy or gpu.create or gpu.mode is not None)
    counts = (
        f"{len(gpu.keep)} kept, {len(gpu.destroy)} destroyed, {len(gpu.create)} created" if changed else "unchanged"
    )
    mode = "" if gpu.mode is None else f", MIG mode {'on' if gpu.mode else 'off'}"
    yield f"GPU {gpu.gpu}  {gpu.name}: {counts}{mode}"
    yield f"{'before' if changed else 'now':6} {bar(gpu.now, gpu.memory_slices)}"
    if changed:
        yield f"after  {bar((*gpu.keep, *gpu.create), gpu.memory_slices)}"
    for title, names in (("keep", gpu.keep), ("destroy", gpu.destroy)):
        for name in names:
            if title == "destroy" or name in gpu.holders:
                held = ", ".join(gpu.holders.get(name, ()))
                yield f"{title:8} {name}{f'  held by {held}' if held else ''}"
    for name in gpu.create:
        yield f"create   {name}"


def bar(names: Iterable[str], slices: int) -> str:
    """Memory slices from left to right; ``.`` is a free one."""
    cell = _BAR // max(slices, 1)
    bar = list("|" + ".".center(cell) * slices)
    for name in names:
        label, _, place = name.rpartition("@")
        start, size = (int(part) for part in place.split(":"))
        room = cell * size - 1
        bar[cell * start : cell * (start + size) + 1] = f"|{_fitted(label, room).center(room, '-')}|"
    return "".join(bar[:-1]) + "|"


def _fitted(label: str, room: int) -> str:
    """A long name loses its memory size first: ``1g.10gb+me`` is ``1g+me`` on one slice."""
    if len(label) <= room:
        return label
    head, _, tail = label.partition("gb")
    return f"{head.rpartition('.')[0]}{tail}"[:room]


def _budgets(pod: str, answer: Answer) -> str:
    names = answer.budgets.get(pod, ())
    if not names:
        return "  (no budget)"
    return f"  (budget {', '.join(names)}{': lets none go now' if pod in answer.held_back else ''})"
