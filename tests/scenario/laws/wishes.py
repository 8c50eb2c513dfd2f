"""Wishes: the labels that ask, and what they mean on each GPU by docs/layouts.md, worked out without the agent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

from agent.model import labels
from agent.model.mig import Gpu, GpuInstance, Shape, Slot
from tests.scenario.laws import oracle
from tests.scenario.laws.hardware import layouts, splits
from tests.scenario.laws.oracle import Asked


@dataclass(frozen=True)
class Wish:
    """``labels`` as an administrator sets them; ``asked`` by GPU UUID. ``nonsense``: no hardware has that."""

    labels: Mapping[str, str]
    asked: Mapping[str, Asked] = field(default_factory=dict)
    nonsense: bool = False

    def feasible(self, gpus: Iterable[Gpu]) -> bool:
        """Whether empty GPUs of these kinds could have it."""
        known = {gpu.uuid: gpu for gpu in gpus}
        return not self.nonsense and all(oracle.can_be(known[uuid], asked) for uuid, asked in self.asked.items())


_SORTS = (*["inline"] * 10, *["generated"] * 2, *["one GPU"] * 4, "nonsense", "nothing")
_NONSENSE = ("9y1g", "nobody-knows", "0x1g.10gb")
_NOWHERE = ("1x3g.999gb", "1x9c.1g.10gb", "99x1g.10gb")


@st.composite
def wishes(draw: st.DrawFn, gpus: tuple[Gpu, ...], stays: frozenset[str]) -> Wish:
    """A wish of this node, mostly one that can be had around the devices in ``stays``."""
    capable = [gpu for gpu in gpus if gpu.mig_enabled is not None]
    sort = draw(st.sampled_from(_SORTS))
    if sort == "nothing":
        return Wish(draw(st.sampled_from(({}, {labels.CONFIG: ""}))))
    if sort == "nonsense":
        text = draw(st.sampled_from((*_NONSENSE, *_NOWHERE)))
        nowhere = Asked(True, (Shape("of no GPU"),))
        return Wish({labels.CONFIG: text}, {gpu.uuid: nowhere for gpu in capable}, nonsense=text in _NONSENSE)
    alike = len({tuple(p.name for p in gpu.profiles) for gpu in capable}) == 1
    if sort == "inline" and alike:
        text, asked = draw(_asks(draw(st.sampled_from(capable)), stays))
        wish = Wish({labels.CONFIG: text}, dict.fromkeys((gpu.uuid for gpu in capable), asked))
    elif sort == "generated":
        wish = draw(_generated(capable))
    else:
        wish = Wish({})
    also_one = draw(st.integers(0, 3)) == 3
    if wish.labels and not also_one:
        return wish
    named = draw(st.lists(st.sampled_from(capable), min_size=1, max_size=2, unique=True))
    for gpu in named:
        text, asked = draw(_asks(gpu, stays))
        which = gpu.short if draw(st.booleans()) else str(gpu.index)
        key = f"{labels.GPU_LAYOUT_PREFIX}{which}{labels.GPU_LAYOUT_SUFFIX}"
        wish = replace(wish, labels={**wish.labels, key: text}, asked={**wish.asked, gpu.uuid: asked})
    return wish


@st.composite
def _generated(draw: st.DrawFn, capable: list[Gpu]) -> Wish:
    name = draw(
        st.sampled_from(("disabled", "all-disabled", "enabled", "all-enabled", "all-balanced", "all-1", "all-2"))
    )
    if name == "all-balanced":
        return Wish({labels.CONFIG: name}, {gpu.uuid: Asked(True, _balanced(gpu)) for gpu in capable})
    if name in ("all-1", "all-2"):
        profile = draw(st.sampled_from(capable[0].profiles)).name
        asked = {gpu.uuid: Asked(True, (Shape(profile),) * max(1, oracle.most(gpu, profile))) for gpu in capable}
        return Wish({labels.CONFIG: f"all-{_dotted(profile)}"}, asked)
    mig = name.endswith("enabled")
    return Wish({labels.CONFIG: name}, {gpu.uuid: Asked(mig) for gpu in capable})


def _balanced(gpu: Gpu) -> tuple[Shape, ...]:
    """2x1g + 1x2g + 1x3g on a GPU that has 7g, else 2x1g + 1x2g; of several profiles the one with the least memory."""
    plain = [profile for profile in gpu.profiles if not {"+", "-"} & set(profile.name)]
    least = {p.slices: p.name for p in sorted(plain, key=lambda p: int(p.name[3:-2]), reverse=True)}
    widths = (1, 1, 2, 3) if max(least, default=0) >= 7 else (1, 1, 2)
    return tuple(Shape(least.get(width, "it has none")) for width in widths)


@st.composite
def _asks(draw: st.DrawFn, gpu: Gpu, stays: frozenset[str]) -> tuple[str, Asked]:
    """What is asked of one GPU and how that is written: near what there is, with what stays in it, or quite another thing."""
    sort = draw(st.sampled_from(("near", "near", "near", "far", "near", "near", "off", "too much")))
    if sort == "off":
        return draw(st.sampled_from(("disabled", "all-disabled"))), Asked(False)
    kept: list[GpuInstance] = []
    for instance in gpu.instances:
        held = any(compute.uuid in stays for compute in instance.compute)
        if instance.shape is not None and draw(st.integers(0, 9)) >= (1 if held else 6):
            kept.append(instance)
    begin = tuple(Slot(i.placement, Shape(i.profile)) for i in kept) if sort != "far" else ()
    shapes = [i.shape for i in kept if i.shape is not None] if begin else []
    shapes += [draw(splits(gpu, slot.shape.profile)) for slot in draw(layouts(gpu, begin)) if slot not in begin]
    if sort == "too much":
        scarce = [profile for profile in gpu.profiles if profile.media.startswith("me")]
        shapes += [Shape(draw(st.sampled_from((*gpu.profiles, *scarce * 3))).name)] * draw(st.integers(1, 3))
    shapes = list(_packed(gpu, shapes))
    if not shapes:
        return draw(st.sampled_from(("enabled", "all-enabled"))), Asked(True)
    return draw(_written(gpu, shapes)), Asked(True, tuple(shapes))


def _packed(gpu: Gpu, shapes: list[Shape]) -> Iterable[Shape]:
    """Compute instances of a profile are packed into few GPU instances, so of each profile one split is asked for."""
    split: set[str] = set()
    for shape in shapes:
        profile = oracle.profile_of(gpu, shape.profile)
        assert profile is not None
        if shape.compute and (shape.compute == (profile.slices,) or shape.profile in split):
            yield Shape(shape.profile)
        else:
            split |= {shape.profile} if shape.compute else set()
            yield shape


@st.composite
def _written(draw: st.DrawFn, gpu: Gpu, shapes: list[Shape]) -> str:
    names: dict[str, str] = {}
    for name in {shape.profile for shape in shapes}:
        profile = oracle.profile_of(gpu, name)
        assert profile is not None
        names[name] = _dotted(draw(st.sampled_from((profile.name, *profile.also))))
    items: Counter[str] = Counter()
    for shape in shapes:
        if not shape.compute:
            items[names[shape.profile]] += 1
        for width in shape.compute:
            items[f"{width}c.{names[shape.profile]}"] += 1
    return "_".join(f"{count}x{name}" for name, count in draw(st.permutations(sorted(items.items()))))


def _dotted(name: str) -> str:
    """A label value has no plus."""
    return name.replace("+", ".")
