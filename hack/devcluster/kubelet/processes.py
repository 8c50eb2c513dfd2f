"""The processes of pods that hold GPU devices: real ones, which the simulated GPUs see on the pods' slices."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

_children: set[tuple[asyncio.AbstractEventLoop, asyncio.subprocess.Process]] = set()
"""Of all kubelets of this process, also of those that were restarted and know of them by their record alone."""


class StartError(Exception):
    """A container could not be started: its device is not there, most likely."""


@dataclass(frozen=True, slots=True)
class Simgpu:
    """The control program of the simulated GPUs and the state file it works on."""

    program: Path
    state: Path

    async def attach(self, device: str, pid: int, memory_mib: int) -> None:
        """Raises StartError where there is no such device."""
        await self._run("proc", "attach", "--device", device, "--pid", str(pid), "--memory-mib", str(memory_mib))

    async def detach(self, pid: int) -> None:
        with contextlib.suppress(StartError):
            await self._run("proc", "detach", "--pid", str(pid))

    async def boot_id(self) -> str:
        """Of the simulated machine; changes with its reboots."""
        return await self._run("boot-id")

    async def _run(self, *arguments: str) -> str:
        environment = {**os.environ, "SIMGPU_STATE": str(self.state)}
        process = await asyncio.create_subprocess_exec(
            self.program, *arguments, env=environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        text = output.decode(errors="replace").strip()
        if process.returncode != 0:
            raise StartError(text or f"simgpu ended with {process.returncode}")
        return text


@dataclass(slots=True)
class PodProcesses:
    """One process per pod, which reads a lifeline, so that none outlives the cluster. ``record`` lets a restarted
    kubelet find them again; ``name`` is what NVML says of them. ``proc`` is a /proc of these processes alone, in which each is in
    the cgroup of its pod, as on a node whose kubelet makes them."""

    record: Path
    lifeline: Path
    simgpu: Simgpu | None
    proc: Path
    name: str = "serve"
    _pids: dict[str, int] = field(default_factory=dict)
    _children: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    def restore(self) -> None:
        if self.record.exists():
            saved: dict[str, int] = json.loads(self.record.read_text())
            self._pids = {uid: pid for uid, pid in saved.items() if self._is_ours(pid)}

    def running(self) -> Collection[str]:
        return list(self._pids)

    def pid_of(self, pod_uid: str) -> int | None:
        return self._pids.get(pod_uid)

    async def start(self, pod_uid: str, devices: Sequence[str], memory_mib: int) -> None:
        """Raises StartError and leaves nothing behind. A pod that runs already is left alone."""
        if self.simgpu is None or pod_uid in self._pids:
            return
        # Opened here: a child that opened it after it was closed would wait for ever for somebody who writes.
        reader = os.open(self.lifeline, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.set_blocking(reader, True)
            child = await asyncio.create_subprocess_exec(
                self.name, "-c", "read _", self.lifeline,
                executable="/bin/sh", stdin=reader, start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(reader)
        self._pids[pod_uid], self._children[pod_uid] = child.pid, child
        _children.add((asyncio.get_running_loop(), child))
        self._save()
        self._show(pod_uid, child.pid)
        try:
            for device in devices:
                await self.simgpu.attach(device.partition("::")[0], child.pid, memory_mib)
        except StartError:
            await self.stop(pod_uid)
            raise

    async def stop(self, pod_uid: str) -> None:
        pid = self._pids.pop(pod_uid, None)
        if pid is None:
            return
        if self._is_ours(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child = self._children.pop(pod_uid, None)
        if child is not None:
            await child.wait()
            _children.discard((asyncio.get_running_loop(), child))
        if self.simgpu is not None:
            await self.simgpu.detach(pid)
        shutil.rmtree(self.proc / str(pid), ignore_errors=True)
        self._save()

    @staticmethod
    async def ended() -> None:
        """Of every pod in this process, once their lifeline is closed: a loop that closes before would lose them."""
        loop = asyncio.get_running_loop()
        for one in [one for one in _children if one[0] is loop]:
            await one[1].wait()
            _children.discard(one)

    def _show(self, pod_uid: str, pid: int) -> None:
        folder = self.proc / str(pid)
        folder.mkdir(parents=True, exist_ok=True)
        pod = f"kubepods-besteffort-pod{pod_uid.replace('-', '_')}.slice"
        path = f"/kubepods.slice/kubepods-besteffort.slice/{pod}/cri-containerd-{pid:064x}.scope"
        (folder / "cgroup").write_text(f"0::{path}\n")

    def _is_ours(self, pid: int) -> bool:
        """Whether the pid is still the process we started: pids are used again."""
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
        return str(self.lifeline).encode() in command

    def _save(self) -> None:
        draft = self.record.with_suffix(".new")
        draft.write_text(json.dumps(self._pids))
        os.replace(draft, self.record)
