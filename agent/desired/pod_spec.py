"""Reads pod specifications that strangers wrote: whatever is not what it should be counts as left out. Pure; nothing raises."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Object = Mapping[str, Any]

_COUNT = re.compile(r"[1-9][0-9]{0,8}")
_GPU_DOMAIN = "nvidia.com/"


def mapping(value: object) -> Object:
    """The same; an empty one where it is none."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: object) -> tuple[Object, ...]:
    """Those of a list."""
    return tuple(one for one in value if isinstance(one, Mapping)) if isinstance(value, list) else ()


def text_of(value: object) -> str:
    """The same; empty where it is none."""
    return value if isinstance(value, str) else ""


def count_of(written: str) -> int | None:
    """A whole number above none, as a person would write it."""
    return int(written) if _COUNT.fullmatch(written) else None


def gpu_resources(container: Object) -> dict[str, int]:
    """How many of each nvidia.com resource it asks for: its limits, for a request of such a resource can be nothing else."""
    resources = mapping(container.get("resources"))
    found: dict[str, int] = {}
    for section in ("requests", "limits"):
        for name, quantity in mapping(resources.get(section)).items():
            number = count_of(str(quantity)) if isinstance(quantity, int | str) else None
            if number and str(name).startswith(_GPU_DOMAIN):
                found[str(name)] = number
    return found
