"""Looks at this host for `warmslice doctor --here`: driver, device nodes, kubelet, directories and files. Changes nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from agent.adapters.kubelet import KubeletIfAny
from agent.adapters.nvml import Hardware
from agent.adapters.nvml.driver import driver_version, minor_numbers
from agent.model.errors import AgentError, RetryError
from agent.model.host_view import Capability, Complaint
from agent.model.mig import Gpu

_MINOR = re.compile(r"^DeviceFileMinor:\s*(\d+)", re.MULTILINE)
_FIRST_PID_NAMESPACE = "pid:[4026531836]"
"""The kernel's own number for the namespace that it starts with (``PROC_PID_INIT_INO``)."""


async def look_at_driver() -> tuple[str, str, tuple[Gpu, ...], Mapping[str, int]]:
    """(why NVML cannot be opened, the driver's version, the GPUs, their device numbers)."""
    hardware = Hardware()
    try:
        gpus = await hardware.read()
        version = await hardware.on_reader("the driver", driver_version)
        return "", version, gpus, await hardware.on_reader("the driver", minor_numbers)
    except AgentError as error:
        return str(error), "", (), {}
    finally:
        with suppress(AgentError):
            await hardware.release()


async def look_at_kubelet(socket: str) -> str | None:
    """What keeps PodResources from answering; "" where it does, None where there is no kubelet."""
    if not socket or not Path(socket).parent.is_dir():
        return None
    try:
        await KubeletIfAny(socket).owners()
    except RetryError as error:
        return str(error)
    return ""


def capabilities(
    gpus: Iterable[Gpu], minors: Mapping[str, int], proc: Path, devices: Path
) -> tuple[Capability, ...] | None:
    """Of every slice; None where the driver's list of them is not to be seen from here."""
    listed = proc / "driver" / "nvidia" / "capabilities"
    if not listed.is_dir():
        return None
    return tuple(_capabilities(gpus, minors, listed, devices / "nvidia-caps"))


def _capabilities(gpus: Iterable[Gpu], minors: Mapping[str, int], listed: Path, nodes: Path) -> Iterator[Capability]:
    for gpu in gpus:
        if gpu.uuid not in minors:
            continue
        for instance in gpu.instances:
            folder = listed / f"gpu{minors[gpu.uuid]}" / "mig" / f"gi{instance.id}"
            words = f"GPU {gpu.index}, {instance.profile}@{instance.placement}"
            yield _capability(words, folder / "access", nodes)
            for compute in instance.compute:
                yield _capability(
                    f"{words}, compute instance {compute.id}", folder / f"ci{compute.id}" / "access", nodes
                )


def _capability(words: str, access: Path, nodes: Path) -> Capability:
    try:
        match = _MINOR.search(access.read_text("ascii", "replace"))
    except OSError:
        match = None
    if match is None:
        return Capability(words, "", str(access), False)
    node = nodes / f"nvidia-cap{match[1]}"
    return Capability(words, str(node), str(access), node.exists())


def devices_of_host(proc: Path, directory: str) -> Path:
    """The host's own, where its first process is to be seen: a container has a copy, as it was when the container was made."""
    of_host = proc / "1" / "root" / directory.lstrip("/")
    return of_host if sees_host_pids(proc) and os.path.isdir(of_host) else Path(directory)


def sees_host_pids(proc: Path) -> bool | None:
    """Whether this process is in the machine's own namespace of process ids; None where the kernel does not say."""
    try:
        return os.readlink(proc / "self" / "ns" / "pid") == _FIRST_PID_NAMESPACE
    except OSError:
        return None


def is_root() -> bool:
    """Of this namespace of users, at least."""
    return os.geteuid() == 0


def missing(files: Iterable[str]) -> tuple[str, ...]:
    """Those that are not there."""
    return tuple(file for file in files if not Path(file).exists())


def unreadable(named: Mapping[str, str | None], needed: Iterable[str]) -> Iterator[Complaint]:
    """Files, by the setting that names each, that are there and cannot be read, or that are ``needed`` and not there."""
    for setting, path in named.items():
        if not path:
            continue
        try:
            with Path(path).open("rb") as stream:
                stream.read(1)
        except FileNotFoundError:
            if setting in needed:
                yield Complaint(setting, path, "there is no such file")
        except OSError as error:
            yield Complaint(setting, path, error.strerror or str(error))
