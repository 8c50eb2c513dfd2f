"""Every step of a plan in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from agent.model.mig import Gpu
from agent.model.steps import (
    AnnounceReboot,
    Begin,
    Create,
    Destroy,
    End,
    Evict,
    Pause,
    Prepare,
    Reboot,
    Recordon,
    Refresh,
    RestartClient,
    Resume,
    SetMode,
    Step,
    Trim,
    Trimming,
    Turn,
)


def step_words(step: Step, gpus: Iterable[Gpu]) -> str:
    """What the step does, as a person would say it; ``gpus`` lend their indices."""
    named = {gpu.uuid: f"GPU {gpu.index}" for gpu in gpus}
    match step:
        case Begin():
            return "begin: cordon the node, and write down how it was found"
        case Recordon():
            return "cordon the node again: somebody uncordoned it"
        case Turn(operation):
            return "turn back to what was before" if operation.failure else "turn to the newer wish"
        case Evict(pod):
            return f"ask {pod} to move"
        case Pause():
            return "pause the clients of the GPUs"
        case SetMode(gpu, enabled):
            return f"{named.get(gpu, gpu)}: switch MIG {'on' if enabled else 'off'}"
        case Destroy(gpu, placement, profile):
            return f"{named.get(gpu, gpu)}: remove {profile}@{placement}"
        case Trim(gpu, placement, profile, parts):
            return f"{named.get(gpu, gpu)}: remove {Trimming(placement, profile, parts)}"
        case Create(gpu, placement, shape):
            return f"{named.get(gpu, gpu)}: make {shape}@{placement}"
        case AnnounceReboot():
            return "write down that the machine is to reboot"
        case Reboot():
            return "reboot the machine (reboot_command)"
        case Prepare():
            return "run before_commands"
        case Refresh():
            return "run refresh_commands"
        case Resume(_, plugin_config):
            return "let the clients go on" + (f" with the configuration {plugin_config}" if plugin_config else "")
        case RestartClient(pod):
            return f"start {pod} anew"
        case End(_, state):
            return "end: give the node back as it was found" + ("" if state == "success" else ", and say what failed")
        case _:
            assert_never(step)
