"""What GPUs can still become beside what is held: on paper, or in a world that was looked at."""

from __future__ import annotations

from collections import Counter

from agent.desired.held import held_slots
from agent.desired.inline import parse_inline, shapes_of
from agent.model.errors import BadInputError
from agent.model.mig import Gpu, GpuWish, Layout, Part, Shape
from agent.model.reach import Geometry, GpuReach, Reach
from agent.model.snapshot import Snapshot
from agent.observe.paper import gpu_on_paper
from agent.plan.drain import in_use, unlisted
from agent.plan.geometry import maximal_geometries, media_allowed
from agent.plan.placement import Tenants, solve
from agent.report.answer import holders_by_instance, memory_slices


def reach_on_paper(model: str, holding: str) -> Reach:
    """A GPU of that model with these slices held and nothing else on it."""
    empty = gpu_on_paper(model)
    try:
        held = held_slots(empty, holding, media_allowed)
        gpu = gpu_on_paper(model, held)
    except BadInputError as error:
        raise BadInputError(f"--holding: {error}") from error
    return Reach((_reach(gpu, held, {}),))


def reach_of(seen: Snapshot) -> Reach:
    """Every GPU of the world that can be cut; one that cannot be read says so."""
    capable = [gpu for gpu in seen.gpus if gpu.mig_enabled is not None or gpu.unknown]
    return Reach(
        tuple(_reach(gpu, in_use(gpu, seen), holders_by_instance(gpu, seen)) for gpu in capable),
        starting=tuple(str(pod.ref) for pod in unlisted(seen)),
    )


def _reach(gpu: Gpu, held: Layout, holders: dict[str, tuple[str, ...]]) -> GpuReach:
    on = bool(gpu.mig_enabled) and not gpu.unknown
    return GpuReach(
        gpu.index,
        gpu.uuid,
        gpu.name,
        memory_slices(gpu),
        on,
        held=tuple(map(str, held)),
        holders={str(slot): holders[str(slot)] for slot in held if str(slot) in holders},
        geometries=tuple(_geometry(gpu, held, shapes) for shapes in maximal_geometries(gpu, held)) if on else (),
        unknown=gpu.unknown,
    )


def _geometry(gpu: Gpu, held: Layout, shapes: tuple[Shape, ...]) -> Geometry:
    places = {slot.placement for slot in held}
    stays = frozenset(Part(i.placement, c.start) for i in gpu.instances if i.placement in places for c in i.compute)
    change = solve(gpu, GpuWish(True, shapes), Tenants(fixed=stays))
    made = () if change is None else tuple(sorted((*change.keep, *change.finish, *change.create)))
    value = label_value(shapes)
    asks_for = shapes_of(gpu, parse_inline(value), value)
    return Geometry(value if sorted(asks_for) == sorted(shapes) else "", tuple(map(str, made)))


def label_value(shapes: tuple[Shape, ...]) -> str:
    """The inline layout of these instances."""
    counts: Counter[str] = Counter()
    for shape in shapes:
        profile = shape.profile.replace("+", ".")
        counts.update([profile] if not shape.compute else [f"{width}c.{profile}" for width in shape.compute])
    return "_".join(f"{count}x{name}" for name, count in counts.items())
