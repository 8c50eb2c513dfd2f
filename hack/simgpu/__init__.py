"""A node's GPUs without GPUs: ``libnvidia-ml.so.1`` for the real pynvml, ``simgpu`` to steer it, ``nvidia-smi``.

In a subprocess, ``environment`` makes the loader find the library; in this process ``load_into_this_process`` does.
"""

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

from hack.simgpu.toolchain import DEFAULT_OUT, Paths, build

__all__ = ["DEFAULT_OUT", "Paths", "build", "environment", "load_into_this_process"]


def environment(paths: Paths, state: Path, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """``base`` (default: this process's environment) with the simulated library, programs and node in front."""
    variables = dict(os.environ if base is None else base)
    variables["SIMGPU_STATE"] = str(state)
    variables["LD_LIBRARY_PATH"] = _in_front(paths.directory, variables.get("LD_LIBRARY_PATH"))
    variables["PATH"] = _in_front(paths.directory, variables.get("PATH"))
    return variables


def load_into_this_process(paths: Paths) -> None:
    """Makes pynvml use the library without LD_LIBRARY_PATH; call before the first ``nvmlInit``.

    The loader answers a request for a name with a library of that soname that is already there. Which node it shows is
    read from SIMGPU_STATE at every ``nvmlInit`` that opens a session. RuntimeError when another NVML is loaded already:
    what is meant for a simulated GPU must never reach a real one.
    """
    if others := _loaded_nvml() - {str(paths.library)}:
        raise RuntimeError(f"this process already uses {', '.join(sorted(others))}")
    ctypes.CDLL(str(paths.library), ctypes.RTLD_GLOBAL)


def _loaded_nvml() -> set[str]:
    """Paths, without the mark of a file that a later build has replaced."""
    mappings = Path("/proc/self/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5].removesuffix(" (deleted)") for line in mappings if "/libnvidia-ml.so" in line}


def _in_front(directory: Path, existing: str | None) -> str:
    return f"{directory}{os.pathsep}{existing}" if existing else str(directory)
