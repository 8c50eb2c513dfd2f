"""Which GPUs hang together over NVSwitch. Runs on the reading thread, with the session open; it blocks."""

from __future__ import annotations

from typing import Any

import pynvml

from agent.adapters.nvml import calls


def joined_with(uuid: str) -> tuple[str, ...]:
    """UUIDs of the other GPUs that NVSwitches join this one with; none where the board has no NVSwitch.

    NVLink is off in MIG mode (NVIDIA MIG User Guide), and then a link may not say what is at its other end. A board carries
    GPUs of one model, so if one of them says so, all of that model are on it.
    """
    found: dict[str, tuple[str, bool]] = {}
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            known = _seen(index)
            if known is not None:
                found[known[0]] = known[1:]
    except pynvml.NVMLError as error:
        calls.fail("looking for NVSwitches", error)
    model = found.get(uuid, ("", False))[0]
    board = {other: on_switch for other, (name, on_switch) in found.items() if name == model}
    return tuple(sorted(board.keys() - {uuid})) if any(board.values()) else ()


def _seen(index: int) -> tuple[str, str, bool] | None:
    """(UUID, model, whether a link of it ends in an NVSwitch); None for a GPU that is lost: it takes part in no reset."""
    try:
        device = pynvml.nvmlDeviceGetHandleByIndex(index)
        return (
            calls.text(pynvml.nvmlDeviceGetUUID(device)),
            calls.text(pynvml.nvmlDeviceGetName(device)),
            any(_ends_in_switch(device, link) for link in range(pynvml.NVML_NVLINK_MAX_LINKS)),
        )
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_GPU_IS_LOST:
            return None
        raise


def _ends_in_switch(device: Any, link: int) -> bool:
    try:
        kind: int = pynvml.nvmlDeviceGetNvLinkRemoteDeviceType(device, link)
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_GPU_IS_LOST:
            raise
        return False
    return kind == int(pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH)
