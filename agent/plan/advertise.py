"""What the node should advertise for its slices, and whether it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from agent.model.desired import Desired
from agent.model.labels import CLIENTS, DEVICE_PLUGIN, PLUGIN_CONFIG, STRATEGY
from agent.model.mig import Gpu, GpuWish, Layout
from agent.model.node import Node, Offers, Pod
from agent.model.operation import Operation
from agent.model.sharing import Sharing, named_by
from agent.model.snapshot import Snapshot

HARDWARE_ALONE = "applied; neither a device plugin nor a DRA driver runs here, so the hardware's word alone counts"
_WHOLE = "nvidia.com/gpu"
_SLICING = ["mixed", "single"]
"""Either counts where nobody says which strategy the device plugin has."""
_PLUGIN_APPS = next(client.apps for client in CLIENTS if client.label == DEVICE_PLUGIN)


def applied(seen: Snapshot, operation: Operation | None = None) -> str:
    """Whose word an applied layout has."""
    if _plugin_belongs(seen, operation) or _driver_belongs(seen, operation):
        return "applied"
    return HARDWARE_ALONE


def not_shown(seen: Snapshot, word: Word, operation: Operation | None = None) -> str:
    """In words how what is advertised here differs from the layout; empty where it does not, or nobody advertises. The
    ``operation`` knows who belongs here though nothing shows it now."""
    by_plugin = difference(seen.node, seen.gpus, word) if _plugin_belongs(seen, operation) else ""
    by_driver = not_offered(seen.offers, seen.gpus) if _driver_belongs(seen, operation) else ""
    wrong = "; ".join(filter(None, (by_plugin, by_driver)))
    return wrong if not wrong or has_known_advertiser(seen) else f"{wrong} ({_NO_POD})"


def _plugin_belongs(seen: Snapshot, operation: Operation | None) -> bool:
    return has_plugin(seen) or (operation is not None and operation.plugin)


def _driver_belongs(seen: Snapshot, operation: Operation | None) -> bool:
    return has_driver(seen) or (operation is not None and operation.driver)


def has_known_advertiser(seen: Snapshot) -> bool:
    """Whether what advertises here has a pod that can be started anew, or is going to have one."""
    asked = seen.node.labels.get(DEVICE_PLUGIN, "false") != "false"
    return asked or any(is_plugin(pod) for pod in seen.pods) or has_driver(seen)


def is_advertised(node: Node) -> bool:
    """Whether somebody offers a GPU or a slice by the kubelet."""
    return any(_ours(name) and count for name, count in node.allocatable.items())


def has_plugin(seen: Snapshot) -> bool:
    """Whether NVIDIA's device plugin runs, is asked for, or has ever advertised here. What it leaves behind on a node that has
    changed to a DRA driver is no sign of it."""
    asked = seen.node.labels.get(DEVICE_PLUGIN, "false") != "false"
    if asked or any(is_plugin(pod) for pod in seen.pods):
        return True
    return any(_ours(name) and (count or not has_driver(seen)) for name, count in seen.node.capacity.items())


def has_driver(seen: Snapshot) -> bool:
    """Whether NVIDIA's DRA driver offers GPUs here, or is about to."""
    return any(pod.dra_driver for pod in seen.pods) or bool(seen.offers is not None and seen.offers.devices)


def is_plugin(pod: Pod) -> bool:
    """A pod of NVIDIA's device plugin."""
    return pod.app in _PLUGIN_APPS


_NO_POD = "no pod of NVIDIA's device plugin runs here; if it is a service of the host, set refresh_commands to what restarts it"


@dataclass(frozen=True, slots=True)
class Word:
    """What is known of replicas: ``sharing`` where a configuration of ours is chosen. Otherwise ``discovery`` says whether the
    labels count that GPU feature discovery writes beside a shared resource (``<resource>.replicas``)."""

    sharing: Sharing | None = None
    discovery: bool = True


def difference(node: Node, gpus: tuple[Gpu, ...], word: Word) -> str:
    """In words what allocatable shows and what it should; empty when they agree.

    Under somebody else's configuration a shared resource may have another name (``.shared``); ours has no
    ``renameByDefault``. The plugin's strategy is the label ``nvidia.com/mig.strategy`` where there is one, else that of our
    configuration; else either way of advertising counts.
    """
    shown = _shown(node, renamed=word.sharing is None)
    strategy = node.labels.get(STRATEGY) or (word.sharing.strategy if word.sharing else "")
    strategies = [strategy] if strategy else _SLICING
    wanted = [_shared(expected(gpus, one), word, node.labels) for one in strategies]
    if shown in wanted:
        return ""
    if any(gpu.unknown for gpu in gpus) and any(shown >= one for one in map(Counter, wanted)):
        # Whatever is shown beside is that GPU's.
        return ""
    return f"allocatable shows {_words(shown)}, the layout is {_words(wanted[0])}"


def shows_at_least(node: Node, layouts: Collection[Layout]) -> bool:
    """Whether allocatable has the slices of these layouts, one for each GPU in MIG mode: for one who cannot ask NVML. More of
    each may be replicas, and what is shown beside may be whole GPUs; without any slice one whole GPU is enough."""
    shown = _shown(node, renamed=True)
    if not layouts:
        return shown[_WHOLE] > 0
    sharing = named_by(node.labels.get(PLUGIN_CONFIG, ""))
    strategy = node.labels.get(STRATEGY) or (sharing.strategy if sharing is not None else "")
    return any(shown >= _of_slots(layouts, one) for one in ([strategy] if strategy else _SLICING))


def _of_slots(layouts: Collection[Layout], strategy: str) -> Counter[str]:
    if strategy == "none":
        return Counter({_WHOLE: len(layouts)})
    counts: Counter[str] = Counter()
    for slot in (slot for layout in layouts for slot in layout):
        profile = slot.shape.profile
        for slices in slot.shape.compute or (_compute_slices(profile),):
            counts[_resource(profile, slices, _compute_slices(profile), strategy)] += 1
    return counts


def _compute_slices(profile: str) -> int:
    """By its name: 3 of ``3g.40gb``."""
    return int(profile.partition("g.")[0])


def not_offered(offers: Offers | None, gpus: tuple[Gpu, ...]) -> str:
    """In words what the ResourceSlices of NVIDIA's DRA driver offer and what they should: every compute instance, and every GPU
    outside MIG mode, by UUID."""
    if offers is None:
        return "the ResourceSlices of this node are not known yet"
    if not offers.whole:
        return "the ResourceSlices of this node are being written"
    read = [gpu for gpu in gpus if not gpu.unknown]
    wanted = {gpu.uuid for gpu in read if not gpu.mig_enabled}
    wanted |= {one.uuid for gpu in read if gpu.mig_enabled for i in gpu.instances for one in i.compute}
    shown = set(offers.devices.values())
    # What is shown beside may be a GPU's that cannot be read.
    over = shown - wanted if len(read) == len(gpus) else set()
    if wanted <= shown and not over:
        return ""
    more = f", and {len(over)} that are not there" if over else ""
    return f"ResourceSlices offer {len(wanted & shown)} of {len(wanted)} devices of the layout{more}"


def expected(gpus: tuple[Gpu, ...], strategy: str) -> dict[str, int]:
    """Resource name to count, as the device plugin's strategy ``none``, ``single`` or ``mixed`` advertises this layout.

    Of a GPU that cannot be read nothing is expected.
    """
    counts: Counter[str] = Counter()
    for gpu in gpus:
        if gpu.unknown:
            continue
        if gpu.mig_enabled and strategy != "none":
            for instance in gpu.instances:
                known = gpu.profile(instance.profile)
                for compute in instance.compute:
                    whole = known.slices if known is not None else compute.slices
                    counts[_resource(instance.profile, compute.slices, whole, strategy)] += 1
        else:
            counts[_WHOLE] += 1
    return dict(counts)


def offered(wish: Desired, seen: Snapshot) -> dict[str, int]:
    """Resource name to count once the wish is applied, by the node's strategy (mixed where none is known)."""
    strategy = seen.node.labels.get(STRATEGY) or (wish.sharing.strategy if wish.sharing else "") or "mixed"
    counts = expected(tuple(gpu for gpu in seen.gpus if gpu.uuid not in wish.wishes), strategy)
    for gpu in seen.gpus:
        asked = wish.wishes.get(gpu.uuid)
        if asked is None:
            continue
        for name in _wished(gpu, asked, strategy):
            counts[name] = counts.get(name, 0) + 1
    return _shared(counts, Word(wish.sharing), seen.node.labels)


def _wished(gpu: Gpu, asked: GpuWish, strategy: str) -> Iterator[str]:
    if not asked.mig_enabled or strategy == "none":
        yield _WHOLE
        return
    shapes = asked.shapes if asked.placed is None else tuple(slot.shape for slot in asked.placed)
    for shape in shapes:
        known = gpu.profile(shape.profile)
        whole = known.slices if known is not None else 0
        yield from (_resource(shape.profile, slices, whole, strategy) for slices in shape.compute or (whole,))


def _shown(node: Node, renamed: bool) -> Counter[str]:
    """What allocatable has; ``renamed``: a shared resource may have another name (``.shared``)."""
    shown: Counter[str] = Counter()
    for name, count in node.allocatable.items():
        if _ours(name) and count:
            shown[name.removesuffix(".shared") if renamed else name] += count
    return shown


def _resource(profile: str, slices: int, whole: int, strategy: str) -> str:
    """``whole``: as many compute slices as the profile has."""
    if strategy == "single":
        return _WHOLE
    part = "" if slices == whole else f"{slices}c."
    return f"nvidia.com/mig-{part}{profile.replace('+', '.')}"


def _shared(counts: Mapping[str, int], word: Word, labels: Mapping[str, str]) -> dict[str, int]:
    """Times the replicas."""
    if word.sharing is not None:
        return {name: count * word.sharing.resources.get(name, 1) for name, count in counts.items()}
    return {name: count * (_discovered(name, labels) if word.discovery else 1) for name, count in counts.items()}


def _discovered(name: str, labels: Mapping[str, str]) -> int:
    replicas = labels.get(f"{name}.replicas", "1")
    return int(replicas) if replicas.isdigit() and replicas != "0" else 1


def _ours(name: str) -> bool:
    return name == _WHOLE or name.startswith("nvidia.com/mig-")


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "no GPU resource"
