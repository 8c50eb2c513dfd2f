"""What is asked of the node: a resolved wish, a wish that cannot be, or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.model.mig import GpuWish
from agent.model.sharing import Sharing


@dataclass(frozen=True, slots=True)
class Desired:
    """A wish that this hardware can have. GPUs that ``wishes`` (by UUID) does not name are left alone. ``unread`` are the UUIDs
    of GPUs that cannot be read now and that it names, or may name: what is asked of them is not known.

    ``revision`` hashes what people wrote, so an edit of the layouts file under the same name is another wish. ``sharing`` None:
    nothing is asked of the device plugin beside the slices.
    """

    layout: str
    revision: str
    wishes: Mapping[str, GpuWish]
    sharing: Sharing | None = None
    unread: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Never on this node as things are. ``message`` is one clear sentence; nothing is touched."""

    reason: str
    message: str
    layout: str = ""


@dataclass(frozen=True, slots=True)
class Unasked:
    """No layout label: the node stays as it is."""


Wish = Desired | Refusal | Unasked
