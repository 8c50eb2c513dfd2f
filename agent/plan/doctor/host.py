"""What is wrong with a host, from what was seen of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from agent.model.doctor import Code, Finding, Gap
from agent.model.host_view import HostView

_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_LAYERS = frozenset({"overlay", "aufs"})
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "lustre", "beegfs", "gpfs", "9p"})
_LEAST_DRIVER: tuple[tuple[str, int], ...] = (
    (r"\bA100\b", 450),
    (r"\bA30\b", 460),
    (r"\bH100\b", 525),
    (r"\bH20\b", 535),
    (r"\bH200\b", 550),
    (r"\bG?B200\b", 570),
    (r"\bRTX PRO [456]000\b", 575),
    (r"\bB300\b", 580),
    (r"\bGB300\b", 595),
)
"""The first branch of the driver with MIG for these GPUs, by their names: NVIDIA's MIG user guide (r620)."""
_PARTITION, _CACHE = "partition", "cache"


def examine_host(view: HostView, node: str) -> tuple[Finding, ...]:
    """All of it, in no order."""
    return tuple(_all(view, node))


def gaps_of(view: HostView) -> tuple[Gap, ...]:
    """What could not be looked at here."""
    found = []
    if view.capabilities is None and any(gpu.instances for gpu in view.gpus):
        found.append(
            Gap("device nodes of slices", "the driver does not show its capabilities below /proc/driver/nvidia here")
        )
    if _PARTITION in view.roles and view.kubelet is None:
        found.append(Gap("PodResources", "no kubelet runs here: the folder of its socket is not there", refused=False))
    return tuple(found)


def _all(view: HostView, node: str) -> Iterator[Finding]:
    if _PARTITION in view.roles:
        yield from _driver(view, node)
        yield from _process(view, node)
    if _CACHE in view.roles:
        yield from _cache(view, node)
    yield from _files(view, node)


def _driver(view: HostView, node: str) -> Iterator[Finding]:
    if view.nvml_error:
        yield Finding(
            Code.NVML_MISSING,
            "libnvidia-ml.so.1",
            view.nvml_error,
            "install NVIDIA's driver on the node; in a container run it with runtimeClassName: nvidia, and with "
            "NVIDIA_VISIBLE_DEVICES=all and NVIDIA_DRIVER_CAPABILITIES=utility in its environment",
            node,
        )
    for gpu in view.gpus:
        least = next((number for names, number in _LEAST_DRIVER if re.search(names, gpu.name)), 0)
        major = view.driver.partition(".")[0]
        if major.isdigit() and int(major) < least:
            yield Finding(
                Code.DRIVER_TOO_OLD,
                f"GPU {gpu.index}",
                f"it is {gpu.name}, and the driver is {view.driver}: MIG needs {least} or later there",
                f"install a driver of branch {least} or later (GPU Operator: driver.version)",
                node,
            )
        if gpu.unknown:
            yield Finding(
                Code.GPU_UNKNOWN,
                f"GPU {gpu.index}",
                f"it cannot be read: {gpu.unknown}",
                f"look for its Xid in `dmesg`, then `nvidia-smi --gpu-reset -i {gpu.index}` with nobody on it, or reboot",
                node,
            )
    lost = [one for one in view.capabilities or () if not one.there]
    if lost:
        what = lost[0].device_node or f"the driver's file {lost[0].access_file}"
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        yield Finding(
            Code.CAPABILITY_NODE_MISSING,
            lost[0].slice,
            f"the slice exists, and {what} does not{more}",
            "`nvidia-smi -L` as root on the host makes them; set refresh_commands to "
            '[["nsenter", "--target", "1", "--mount", "--", "nvidia-smi", "-L"]] so that each change does',
            node,
        )


def _process(view: HostView, node: str) -> Iterator[Finding]:
    if not view.root:
        yield Finding(
            Code.NOT_ROOT,
            "this process",
            "it does not run as root, and the driver lets only root change MIG",
            "runAsUser: 0 and privileged: true in securityContext of the container partition, as manifests/base has it",
            node,
        )
    if view.host_pids is False:
        yield Finding(
            Code.NO_HOST_PIDS,
            "this process",
            "it does not see the host's process ids, by which NVML tells who is on a slice: a process there counts as in the way",
            "hostPID: true in spec.template.spec of the DaemonSet, as manifests/base has it",
            node,
        )
    if view.kubelet:
        yield Finding(
            Code.POD_RESOURCES_SILENT,
            "PodResources",
            view.kubelet,
            "mount the kubelet's directory pod-resources (not the socket) into the container, and set pod_resources_socket where "
            "the kubelet has another root directory",
            node,
        )
    cache, state = PurePosixPath(view.cache.path), PurePosixPath(view.state_directory)
    if state.is_relative_to(cache):
        yield Finding(
            Code.STATE_IN_CACHE,
            view.state_directory,
            f"state_directory is inside cache_directory, {view.cache.path}: whoever writes models could replace what root reads",
            "set state_directory to a directory of its own, such as /var/lib/warmslice-state",
            node,
        )


def _cache(view: HostView, node: str) -> Iterator[Finding]:
    cache = view.cache
    if not cache.there or not cache.writable:
        why = "cannot be written to by this user" if cache.there else "is not there"
        fix = (
            f"`mkdir -p {cache.path}`"
            if not cache.there
            else "mount it writable, and let its owner be the user of the container cache"
        )
        yield Finding(Code.CACHE_NOT_WRITABLE, cache.path, f"cache_directory, {cache.path}, {why}", fix, node)
    where = _no_disk(cache.kind)
    if where:
        yield Finding(
            Code.CACHE_ON_NO_DISK,
            cache.path,
            f"cache_directory, {cache.path}, is on {cache.kind}, {where}",
            "mount a local disk there (the DaemonSet's hostPath volume cache), or set cache_directory to where one is",
            node,
        )
    reserve = int(cache.total_bytes * view.reserve_ratio)
    if cache.total_bytes and cache.free_bytes < reserve:
        yield Finding(
            Code.CACHE_DISK_FULL,
            cache.path,
            f"its file system has {_gb(cache.free_bytes)} free of {_gb(cache.total_bytes)}, and cache_reserve_ratio leaves "
            f"{_gb(reserve)} to others: nothing more is fetched",
            "`warmslice cache gc --dry-run --free 20GB` says what could go; a larger disk, or a smaller cache_reserve_ratio (the "
            "kubelet evicts pods below 10 to 15 %)",
            node,
        )
    if view.missing_pressure:
        yield Finding(
            Code.NO_PRESSURE_FILES,
            view.missing_pressure[0],
            f"the kernel does not tell how long tasks wait ({', '.join(view.missing_pressure)}): reading yields to nobody",
            "boot with psi=1, or set scrub_days: 0 and no page_cache where that disturbs",
            node,
        )


def _no_disk(kind: str) -> str:
    if kind in _IN_MEMORY:
        return "which is memory: a reboot loses the models"
    if kind in _LAYERS:
        return "the layer of a container: it goes with the container"
    if kind in _NETWORK or kind.startswith("fuse."):
        return "a network file system: weights do not come from a local disk"
    return ""


def _files(view: HostView, node: str) -> Iterator[Finding]:
    for one in view.unreadable:
        yield Finding(
            Code.FILE_UNREADABLE,
            one.path,
            f"setting {one.setting} is {one.path}: {one.why}",
            f"`ls -lL {one.path}`: mount it, or let this user read it",
            node,
        )
    for code, sentence, check in (
        (Code.LAYOUTS_UNREADABLE, view.layouts_error, "layouts"),
        (Code.CATALOG_UNREADABLE, view.catalog_error, "catalog"),
    ):
        if sentence:
            fix = f"`warmslice check {check}.yaml` says every mistake with its place"
            yield Finding(code, f"{check}_file", sentence, fix, node)
    if view.token_fault:
        fix = "put the token into a file of that name in hub_tokens_directory"
        yield Finding(Code.TOKEN_MISSING, "hub_tokens_directory", view.token_fault, fix, node)


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
