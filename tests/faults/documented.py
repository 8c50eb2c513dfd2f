"""What each NVML function may return, as the comments of nvml.h say."""

from __future__ import annotations

import re
from functools import cache
from importlib import metadata

import pynvml

_DECLARED = re.compile(r"/\*\*((?:(?!\*/).)*)\*/\s*nvmlReturn_t\s+DECLDIR\s+(nvml\w+)\s*\(", re.DOTALL)
_CODE = re.compile(r"NVML_ERROR_\w+")

ALWAYS = frozenset({"NVML_ERROR_UNINITIALIZED", "NVML_ERROR_GPU_IS_LOST", "NVML_ERROR_UNKNOWN"})
"""What every call may end with, whatever its comment says: a driver that is unloaded, a GPU off the bus, anything else."""


@cache
def _comments() -> dict[str, frozenset[str]]:
    header = next(file for file in metadata.files("nvidia-nvml-dev") or () if file.name == "nvml.h")
    text = header.read_text("utf-8")
    return {name: frozenset(_CODE.findall(comment)) for comment, name in _DECLARED.findall(text)}


def codes_of(function: str) -> dict[str, int]:
    """Name (without ``NVML_ERROR_``) to number of what that function may fail with, in the order of the numbers.

    A later version of a function may be declared without a comment of its own; then that of an earlier one holds.
    """
    bare = re.sub(r"(_v\d+|V)$", "", function)
    known = next((_comments()[name] for name in (function, bare) if name in _comments()), frozenset())
    numbers = {name.removeprefix("NVML_ERROR_"): int(getattr(pynvml, name)) for name in known | ALWAYS}
    return dict(sorted(numbers.items(), key=lambda item: item[1]))
