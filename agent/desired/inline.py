"""Inline layouts: a whole geometry in one label value, such as ``4x1g.10gb_1x3g.40gb``.

Items are ``<n>x<profile>`` joined by ``_``. Attributes are written with a dot, as resource names have them
(``1x1g.10gb.me``), since a label value has no ``+``; a split of the compute is ``2x1c.2g.20gb``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from agent.model.errors import BadInputError
from agent.model.mig import Gpu, Profile, Shape

_ITEM = re.compile(r"(?P<count>\d{1,2})x(?P<profile>[0-9a-z.+-]+)")
_PROFILE = re.compile(r"(?:(?P<compute>\d{1,3})c\.)?(?P<base>\d+g\.\d+gb)(?P<attributes>(?:[.+][a-z]+|-[a-z]+)*)")


MOST = 99
"""Nobody asks one GPU for more of one profile than that; who does has mistyped."""


@dataclass(frozen=True, slots=True)
class Ask:
    """``count`` instances (or, with ``compute``, compute instances of that many slices) of one profile.

    ``profile`` is in canonical form: attributes with ``+`` as the driver writes them.
    """

    profile: str
    count: int
    compute: int | None = None


def looks_inline(value: str) -> bool:
    """A value that begins with a digit is meant as an inline layout, not as a name."""
    return value[:1].isdigit()


def parse_inline(value: str) -> tuple[Ask, ...]:
    """The items of an inline layout. BadInputError names the item that is wrong."""
    return tuple(_parse_item(item, value) for item in value.split("_"))


def _parse_item(item: str, value: str) -> Ask:
    match = _ITEM.fullmatch(item)
    if match is None or int(match["count"]) == 0:
        raise BadInputError(
            f"layout {value!r}: {item!r} is not <count>x<profile> such as 4x1g.10gb "
            f"(items are joined by '_'; a count is 1 to {MOST})"
        )
    return parse_profile(match["profile"], int(match["count"]), f"layout {value!r}")


def parse_profile(text: str, count: int, where: str) -> Ask:
    """One profile as people write it: ``1g.10gb``, ``1g.10gb+me``, ``1g.10gb.me``, ``1c.2g.20gb``, ``2g.24gb-me``."""
    match = _PROFILE.fullmatch(text)
    if match is None:
        raise BadInputError(f"{where}: {text!r} is not a MIG profile such as 1g.10gb, 1g.10gb.me or 1c.2g.20gb")
    attributes = match["attributes"]
    if not attributes.startswith("-"):
        attributes = "+" + attributes[1:].replace("+", ".") if attributes else ""
    compute = match["compute"]
    return Ask(match["base"] + attributes, count, int(compute) if compute is not None else None)


def shapes_of(gpu: Gpu, asks: Iterable[Ask], where: str) -> tuple[Shape, ...]:
    """The instances that the items mean on this GPU, largest first.

    Compute instances of one profile are packed into as few GPU instances as hold them. BadInputError where the GPU has no
    such profile or no such split.
    """
    whole: list[Shape] = []
    parts: dict[str, list[int]] = {}
    for ask in asks:
        profile = _profile_of(gpu, ask, where)
        if ask.compute is None or ask.compute == profile.slices:
            whole += [Shape(profile.name)] * ask.count
        elif ask.compute in profile.compute:
            parts.setdefault(profile.name, []).extend([ask.compute] * ask.count)
        else:
            offered = ", ".join(f"{width}c" for width in profile.compute)
            raise BadInputError(
                f"{where}: {profile.name} on {gpu.name} has no {ask.compute}c compute instance, only {offered}"
            )
    for name, sizes in parts.items():
        profile_named = gpu.profile(name)
        whole += _packed(name, sizes, profile_named.slices if profile_named else 0)
    return tuple(sorted(whole, key=lambda shape: _order(gpu, shape)))


def _profile_of(gpu: Gpu, ask: Ask, where: str) -> Profile:
    profile = gpu.profile(ask.profile)
    if profile is None:
        offered = ", ".join(p.name for p in gpu.profiles) or "none"
        raise BadInputError(f"{where}: {gpu.name} (GPU {gpu.index}) has no profile {ask.profile}; it has {offered}")
    return profile


def _packed(profile: str, sizes: list[int], capacity: int) -> list[Shape]:
    """First fit, largest first: exact for the few slices that a GPU instance has."""
    bins: list[list[int]] = []
    for size in sorted(sizes, reverse=True):
        room = next((b for b in bins if sum(b) + size <= capacity), None)
        if room is None:
            bins.append([size])
        else:
            room.append(size)
    return [Shape(profile, tuple(b)) for b in bins]


def _order(gpu: Gpu, shape: Shape) -> tuple[int, int, Shape]:
    profile = gpu.profile(shape.profile)
    return (-profile.size, -profile.slices, shape) if profile is not None else (0, 0, shape)
