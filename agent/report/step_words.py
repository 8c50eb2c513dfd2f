"""Each step of a plan as people read it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

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
    Turn,
)


def in_words(step: Step, indices: Mapping[str, int]) -> str:
    """``indices``: of the node's GPUs by UUID."""
    match step:
        case Begin():
            return "cordon the node and write down how it was found"
        case Recordon():
            return "cordon the node again: somebody uncordoned it"
        case Turn():
            return "write down where the change goes from here"
        case Evict(pod):
            return f"evict {pod}"
        case Pause():
            return "stop the GPU clients"
        case SetMode(gpu, enabled):
            return f"switch MIG {'on' if enabled else 'off'} on {_name(gpu, indices)}"
        case AnnounceReboot():
            return "say that the machine is about to reboot"
        case Reboot():
            return "reboot the machine"
        case Destroy(gpu, placement, profile):
            return f"destroy {profile}@{placement} on {_name(gpu, indices)}"
        case Trim(gpu, placement, profile, parts):
            return f"remove {'+'.join(f'{part.size}c' for part in parts)} of {profile}@{placement} on {_name(gpu, indices)}"
        case Create(gpu, placement, shape):
            return f"create {shape}@{placement} on {_name(gpu, indices)}"
        case Prepare():
            return "stop the host's services that use the GPUs"
        case Refresh():
            return "make device nodes follow, start the host's services again"
        case Resume():
            return "start the GPU clients again"
        case RestartClient(pod):
            return f"start {pod} anew"
        case End(state=state):
            return "give the node back" if state == "success" else "give the node back as it was"
        case _:
            assert_never(step)


def _name(gpu: str, indices: Mapping[str, int]) -> str:
    return f"GPU {indices[gpu]}" if gpu in indices else gpu
