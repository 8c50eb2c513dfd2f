"""Where a pod may run: what the scheduler asks of a node before anything else, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass

from agent.model.node import Requirement, Taint

FIELD = "@"
"""Stands before the key of a requirement on a field of the node (``matchFields``). No label begins so."""
NODE_NAME = f"{FIELD}metadata.name"
"""The only such field that there is."""


@dataclass(frozen=True, slots=True, order=True)
class Toleration:
    """``operator`` is Equal or Exists; an empty ``key`` with Exists tolerates all, an empty ``effect`` every effect."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def tolerates(self, taint: Taint) -> bool:
        """As the scheduler decides it."""
        if self.effect and self.effect != taint.effect:
            return False
        if self.operator == "Exists":
            return self.key in ("", taint.key)
        return self.operator == "Equal" and (self.key, self.value) == (taint.key, taint.value)


Term = tuple[Requirement, ...]
"""Requirements that have to hold together; none at all match nothing."""


@dataclass(frozen=True, slots=True)
class Place:
    """``selector``: labels that the node has to have; ``terms``: of the required node affinity one has to hold (None: it asks for
    nothing). ``resources``: how many of each nvidia.com resource one pod needs."""

    selector: tuple[tuple[str, str], ...] = ()
    terms: tuple[Term, ...] | None = None
    tolerations: tuple[Toleration, ...] = ()
    resources: tuple[tuple[str, int], ...] = ()
