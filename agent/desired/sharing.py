"""What a layout asks of the device plugin beside slices, and what the plugin cannot do: one sentence why not.

# Note [What the device plugin cannot do]
# From the sources of NVIDIA's k8s-device-plugin, v0.15 to v0.18: it shares by resource name, all devices of the node alike
# (internal/rm/device_map.go); in one way at a time, MPS where both are configured (api/config/v1/sharing.go); it does not start
# with MPS on a node that has MIG devices, shared or not (internal/plugin/mps.go), nor with more than 48 MPS clients of a GPU
# (cmd/mps-control-daemon/mps/device.go). With the strategy ``single`` it does not start where a GPU in MIG mode has no slice,
# where some GPUs are in MIG mode and others are not, or where slices are of more than one kind (device_map.go). With ``none``
# slices are not advertised at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from agent.desired.layout_file import Entry, Layouts, Share
from agent.model.desired import Refusal
from agent.model.labels import PLUGIN_CONFIG, STRATEGY
from agent.model.mig import Gpu, Shape
from agent.model.sharing import (
    LONGEST_LABEL_VALUE,
    WHOLE,
    MigStrategy,
    Sharing,
    is_foreign,
)

_MOST_MPS_CLIENTS = 48


@dataclass(frozen=True, slots=True)
class Part:
    """One GPU as it will be, and what its entry of the layout says of sharing."""

    gpu: Gpu
    mig: bool
    shapes: tuple[Shape, ...] = ()
    share: Share | None = None

    def devices(self, strategy: str) -> frozenset[str]:
        """What a layout calls that which a device plugin of this MIG strategy advertises of the GPU."""
        if not self.mig or strategy == "none":
            return frozenset({WHOLE})
        return frozenset(name for shape in self.shapes for name in _devices_of(self.gpu, shape))


def _devices_of(gpu: Gpu, shape: Shape) -> Iterable[str]:
    profile = gpu.profile(shape.profile)
    whole = profile.slices if profile is not None else 0
    for slices in shape.compute or (whole,):
        yield ("" if slices == whole else f"{slices}c.") + shape.profile.replace("+", ".")


def node_sharing(
    layout: str, entries: tuple[Entry, ...], parts: tuple[Part, ...], labels: Mapping[str, str]
) -> Sharing | Refusal | None:
    """The sharing that a layout means on this node; None for none."""
    refusal = layout_refusal(layout, entries)
    if refusal is not None:
        return refusal
    if all(part.share is None for part in parts):
        return None
    where = f"layout {layout!r}"
    taken = labels.get(PLUGIN_CONFIG, "")
    if is_foreign(taken):
        message = (
            f"{where} is shared, but label {PLUGIN_CONFIG}={taken} is somebody else's choice for the device plugin"
        )
        return Refusal("sharing-config-taken", f"{message}; remove that label, or the sharing", layout)
    strategy = labels.get(STRATEGY) or "mixed"
    sharing = _for_strategy(entries, parts, strategy)
    sentence = _disagreement(parts, strategy) or _mps_with_mig(parts)
    sentence = sentence or (sharing if isinstance(sharing, str) else "")
    if sentence:
        return Refusal("sharing-unsupported", f"{where}: {sentence}", layout)
    return cast(Sharing, sharing)


def layout_refusal(layout: str, entries: tuple[Entry, ...]) -> Refusal | None:
    """What no node can have, whatever its GPUs."""
    sentence = _contradiction(entries)
    if not sentence:
        return None
    return Refusal("sharing-unsupported", f"layout {layout!r}: {sentence}", layout)


def sharings(layouts: Layouts) -> tuple[Sharing, ...]:
    """Every sharing that some node, with whatever MIG strategy, can come to ask for; each once."""
    found: dict[str, Sharing] = {}
    for name, entries in layouts.items():
        if layout_refusal(name, entries) is None:
            found.update((sharing.entry, sharing) for sharing in _of_each_strategy(entries))
    return tuple(found[entry] for entry in sorted(found))


def single_refusal(layout: str, parts: tuple[Part, ...]) -> Refusal | None:
    """Why a device plugin with the strategy ``single`` would not start on this node."""
    empty = [part.gpu.index for part in parts if part.mig and not part.shapes]
    whole = [part.gpu.index for part in parts if not part.mig]
    kinds = sorted(frozenset[str]().union(*(part.devices("single") for part in parts if part.mig)))
    if empty:
        why = f"GPU {empty[0]} would be in MIG mode without a slice"
    elif whole and kinds:
        why = f"GPU {whole[0]} would be whole beside slices of other GPUs"
    elif len(kinds) > 1:
        why = f"the node would have slices of more than one kind ({', '.join(kinds)})"
    else:
        return None
    message = f"layout {layout!r}: {why}, and with {STRATEGY}=single the device plugin does not start then"
    return Refusal("single-strategy", message, layout)


def _contradiction(entries: tuple[Entry, ...]) -> str:
    shares = [entry.sharing for entry in entries if entry.sharing is not None]
    if len({share.strategy for share in shares}) > 1:
        return "one entry is time-sliced and another shared by MPS, but the device plugin shares a node in one way"
    replicas: dict[str, int] = {}
    for share in shares:
        for what, count in share.each.items():
            if replicas.setdefault(what, count) != count:
                return (
                    f"{what} has {replicas[what]} replicas in one entry and {count} in another, but the device plugin "
                    "shares by resource name for the whole node; give them one number"
                )
    if any(entry.mig_enabled for entry in entries if entry.sharing is not None and entry.sharing.strategy == "mps"):
        return "MPS cannot share slices: NVIDIA's device plugin refuses MPS with MIG; use time-slicing"
    if shares and shares[0].strategy == "mps" and max(replicas.values()) > _MOST_MPS_CLIENTS:
        return f"{max(replicas.values())} replicas by MPS, but a GPU has at most {_MOST_MPS_CLIENTS} MPS clients"
    longest = max((sharing.entry for sharing in _of_each_strategy(entries)), key=len, default="")
    if len(longest) > LONGEST_LABEL_VALUE:
        return (
            f"{len(replicas)} shared profiles make a label of {len(longest)} characters ({longest}), "
            f"and Kubernetes allows {LONGEST_LABEL_VALUE}; share fewer"
        )
    return ""


def _of_each_strategy(entries: tuple[Entry, ...]) -> Iterable[Sharing]:
    shares = [entry.sharing for entry in entries if entry.sharing is not None]
    if not shares:
        return
    means = shares[0].strategy
    replicas = {what: count for share in shares for what, count in share.each.items()}
    yield Sharing(means, tuple(sorted(replicas.items())))
    for count in sorted(set(replicas.values())):
        yield Sharing(means, ((WHOLE, count),), "single")
    if WHOLE in replicas:
        yield Sharing(means, ((WHOLE, replicas[WHOLE]),), "none")


def _disagreement(parts: tuple[Part, ...], strategy: str) -> str:
    """A device of one GPU that is shared while the like of it on another GPU is not."""
    shared = {what: part.share.each[what] for part in parts if part.share for what in part.share.each}
    for part in parts:
        for what in sorted(part.devices(strategy) & shared.keys()):
            if part.share is None or what not in part.share.each:
                return (
                    f"{what} has {shared[what]} replicas, but GPU {part.gpu.index} has {what} that nobody asked to share, and "
                    "the device plugin shares by resource name for the whole node"
                )
    return ""


def _mps_with_mig(parts: tuple[Part, ...]) -> str:
    if not any(part.share is not None and part.share.strategy == "mps" for part in parts):
        return ""
    cut = next((part for part in parts if part.mig and part.shapes), None)
    if cut is None:
        return ""
    return f"GPU {cut.gpu.index} would have slices, and NVIDIA's device plugin refuses MPS on a node with MIG; use time-slicing"


def _for_strategy(entries: tuple[Entry, ...], parts: tuple[Part, ...], strategy: str) -> Sharing | str:
    """As the device plugin of that MIG strategy names what is shared, or why it cannot."""
    mixed = next(iter(_of_each_strategy(entries)))
    if strategy not in ("single", "none"):
        return mixed
    shared = [(part, part.share) for part in parts if part.share is not None]
    counts = {count for part, share in shared for what, count in share.each.items() if what in part.devices(strategy)}
    if strategy == "none" and any(part.mig for part, _ in shared):
        return f"with {STRATEGY}=none the device plugin advertises no slices, so none can be shared"
    if len(counts) != 1:
        return f"with {STRATEGY}={strategy} everything is nvidia.com/gpu, and that has one number of replicas"
    return Sharing(mixed.means, ((WHOLE, counts.pop()),), cast(MigStrategy, strategy))
