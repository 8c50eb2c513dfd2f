"""Sharing of whole GPUs or slices by NVIDIA's device plugin: in one way for the whole node, by resource name.

# Note [The name of an entry]
# The device plugin takes its configuration from the entry of a ConfigMap that the node's label names. The name of an entry of
# ours says all that is in it: ``warmslice-time-slicing_1g.10gb-4_2g.20gb-2`` are four replicas of each 1g.10gb and two of each
# 2g.20gb. For a plugin with another MIG strategy than ``mixed`` the strategy stands before: ``warmslice-single-mps_gpu-4``. So
# equal sharings have one entry, the prefix tells which values of the label are ours, and what such a value promises can be
# read back from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

Means = Literal["time-slicing", "mps"]
MigStrategy = Literal["mixed", "single", "none"]

ENTRY_PREFIX = "warmslice-"
WHOLE = "gpu"
"""A whole GPU, where a profile could stand."""

LONGEST_LABEL_VALUE = 63
"""Kubernetes' limit for the value of a label."""

_ENTRY = re.compile(
    ENTRY_PREFIX + r"(?:(?P<strategy>single|none)-)?(?P<means>time-slicing|mps)(?P<items>(?:_[0-9a-z.-]+-[0-9]+)+)"
)


@dataclass(frozen=True, slots=True)
class Sharing:
    """What the device plugin shares on a node with that MIG strategy, and among how many.

    ``replicas`` are pairs, sorted: ``gpu`` or a profile as resource names have it (``1g.10gb``, ``1c.2g.20gb``), and 2 or more.
    """

    means: Means
    replicas: tuple[tuple[str, int], ...]
    strategy: MigStrategy = "mixed"

    @property
    def entry(self) -> str:
        """The name of its entry. See Note [The name of an entry]."""
        strategy = "" if self.strategy == "mixed" else f"{self.strategy}-"
        items = "".join(f"_{what}-{count}" for what, count in self.replicas)
        return f"{ENTRY_PREFIX}{strategy}{self.means}{items}"

    @property
    def resources(self) -> Mapping[str, int]:
        """Resource name to replicas."""
        return {resource_of(what): count for what, count in self.replicas}


def resource_of(what: str) -> str:
    """The device plugin's resource name of ``gpu`` or of a profile."""
    return f"nvidia.com/{what}" if what == WHOLE else f"nvidia.com/mig-{what}"


def named_by(value: str) -> Sharing | None:
    """The sharing that an entry's name promises; None where the name is not ours."""
    match = _ENTRY.fullmatch(value)
    if match is None:
        return None
    items = (item.rpartition("-") for item in match["items"].removeprefix("_").split("_"))
    replicas = tuple((what, int(count)) for what, _, count in items)
    return Sharing(cast(Means, match["means"]), replicas, cast(MigStrategy, match["strategy"] or "mixed"))


def is_foreign(value: str) -> bool:
    """Whether somebody else chose that configuration of the device plugin; an empty value chooses none."""
    return bool(value) and not value.startswith(ENTRY_PREFIX)
