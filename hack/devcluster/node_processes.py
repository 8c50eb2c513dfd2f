"""The kubelets of a development cluster, each a process of its own that is started again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_RESTART_S = 0.5
_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class KubeletProcess:
    """``options`` are those of ``python -m hack.devcluster.kubelet`` besides the ones given here."""

    kubeconfig: Path
    node: str
    run_dir: Path
    lifeline: Path
    options: Sequence[str]

    async def supervise(self) -> None:
        """Until cancelled; the kubelet is gone when this returns."""
        while True:
            process = await self._start()
            try:
                code = await process.wait()
                log.warning("kubelet.ended", extra={"node": self.node, "code": code})
            finally:
                await _stop(process)
            await asyncio.sleep(_RESTART_S)

    async def _start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "hack.devcluster.kubelet",
            "--kubeconfig", str(self.kubeconfig),
            "--node", self.node,
            "--run-dir", str(self.run_dir),
            "--lifeline", str(self.lifeline),
            "--parent-pid", str(os.getpid()),
            *self.options,
        )  # fmt: skip


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
