"""What GPUs can still become, as text for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model.reach import GpuReach, Reach
from agent.report.drawing import bar

NO_LABEL = "(no label value asks for this split)"


def reach_drawn(reach: Reach) -> str:
    """Each GPU with who is on it, and a bar with its label value for each geometry."""
    rows = [row for gpu in reach.gpus for row in _gpu(gpu)]
    if reach.starting:
        rows.append(f"about to take a slice, which one is not known yet: {', '.join(reach.starting)}")
    if reach.unknown:
        rows.append(reach.unknown)
    return "\n".join(rows or ["no GPU of this host supports MIG"])


def _gpu(gpu: GpuReach) -> Iterator[str]:
    head = f"GPU {gpu.gpu}  {gpu.name}"
    if gpu.unknown:
        yield f"{head}: cannot be read: {gpu.unknown}"
        return
    if not gpu.mig_enabled:
        yield f"{head}: MIG mode is off"
        return
    number = len(gpu.geometries)
    word = "geometry, as label value" if number == 1 else "geometries, as label values"
    yield f"{head}: {len(gpu.held)} held, {number} maximal {word}"
    for name in gpu.held:
        who = ", ".join(gpu.holders.get(name, ()))
        yield f"held     {name}{f'  by {who}' if who else ''}"
    for found in gpu.geometries:
        yield f"{bar(found.slots, gpu.memory_slices)}  {found.layout or NO_LABEL}"
