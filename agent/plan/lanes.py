"""Which steps of a plan are taken side by side: those that cut different GPUs."""

from __future__ import annotations

from collections.abc import Sequence

from agent.model.steps import Create, Destroy, SetMode, Step, Trim

Batch = tuple[tuple[int, ...], ...]
"""Lanes of steps, by their numbers in the plan: one lane after the other or side by side, each in its own order."""


def batches(steps: Sequence[Step]) -> tuple[Batch, ...]:
    """Every step once. Batches follow one another. A switch of the mode has a batch of its own: it may close the session that
    other changes are made in, and a reset may take other GPUs with it.
    """
    found: list[dict[str, list[int]]] = []
    cutting = False
    for number, step in enumerate(steps):
        cuts = isinstance(step, Destroy | Trim | Create)
        if not (cuts and cutting):
            found.append({})
        cutting = cuts
        found[-1].setdefault(gpu_of(step), []).append(number)
    return tuple(tuple(tuple(lane) for lane in lanes.values()) for lanes in found)


def gpu_of(step: Step) -> str:
    """The GPU whose hardware the step changes; empty for all other steps."""
    return step.gpu if isinstance(step, SetMode | Destroy | Trim | Create) else ""
