"""What NVML says of the driver as a whole, beside the GPUs. Runs on the reading thread."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pynvml

from agent.adapters.nvml import calls


def driver_version() -> str:
    """As the driver writes it (580.95.05)."""
    try:
        return calls.text(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError as error:
        calls.fail("reading the driver's version", error)


def minor_numbers() -> Mapping[str, int]:
    """By UUID of the GPU, the number in the names of its device nodes; a GPU that does not tell is not in it."""
    found: dict[str, int] = {}
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            device = pynvml.nvmlDeviceGetHandleByIndex(index)
            minor = calls.unless_lost(partial(pynvml.nvmlDeviceGetMinorNumber, device), None)
            if minor is not None:
                found[calls.text(pynvml.nvmlDeviceGetUUID(device))] = int(minor)
    except pynvml.NVMLError as error:
        calls.fail("reading the device numbers of GPUs", error)
    return found
