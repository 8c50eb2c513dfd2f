"""Processes on GPUs, each with the pod that it runs in. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from agent.model.mig import Gpu, GpuProcess
from agent.model.node import Origin, Pod

OriginOf = Callable[[int], Origin | None]
"""By process id."""


def with_origins(gpus: Iterable[Gpu], pods: Iterable[Pod], origin_of: OriginOf) -> tuple[Gpu, ...]:
    """The GPUs, and of each process whose it is."""
    uids = {pod.cgroup_uid: pod.ref.uid for pod in pods}
    return tuple(replace(gpu, processes=tuple(_with_origin(p, uids, origin_of) for p in gpu.processes)) for gpu in gpus)


def _with_origin(process: GpuProcess, uids: dict[str, str], origin_of: OriginOf) -> GpuProcess:
    origin = origin_of(process.pid)
    if origin is None:
        return process
    if not origin.pods:
        return replace(process, pod="", user=origin.user, command=origin.command or process.command)
    # A node may itself run in a pod of another cluster, and a pod may run containers of its own.
    return replace(process, pod=next((uids[uid] for uid in origin.pods if uid in uids), origin.pods[0]))
