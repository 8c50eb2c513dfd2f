"""The door to programs on the host: the configured hooks, and nvidia-smi for the one act that NVML has no call for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Sequence

from agent.model.errors import HardwareError, InUseError, RebootError, RefusedError, RetryError

log = logging.getLogger("warmslice.command")

_LAST_BYTES = 500


async def run(command: list[str], seconds: float) -> tuple[int, str]:
    """(exit code, last output) of a command; RetryError when it cannot start or outlives its time.

    Then all that it started is killed with it. What a command that ended in time has left in the background lives on: a reboot
    may be meant to come a moment later.
    """
    # No pipe: whoever holds it open would hold us.
    output = os.memfd_create("output")
    try:
        code = await _ended(command, output, seconds)
        os.lseek(output, max(0, os.fstat(output).st_size - _LAST_BYTES), os.SEEK_SET)
        return code, os.read(output, _LAST_BYTES).decode(errors="replace").strip()
    finally:
        os.close(output)


async def _ended(command: list[str], output: int, seconds: float) -> int:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise RetryError(f"{command[0]} cannot be started: {error}") from error
    try:
        async with asyncio.timeout(seconds):
            return await process.wait()
    except TimeoutError as error:
        raise RetryError(f"{command[0]} did not end within {seconds:.0f} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def reset_gpus(uuids: Sequence[str], seconds: float = 120.0) -> None:
    """`nvidia-smi --gpu-reset` for these GPUs in one command. The caller has closed its own NVML session: any client makes it
    refuse.

    Exit codes as in nvidia-smi's man page: 3 not available, 4 no permission, 6 not found, 9 no driver, 15 GPU lost.
    """
    listed = ",".join(uuids)
    code, output = await run(["nvidia-smi", "--gpu-reset", "-i", listed], seconds)
    what = f"nvidia-smi --gpu-reset -i {listed}: exit code {code}: {output}"
    match code:
        case 0:
            return
        case 3:
            raise RebootError(what)
        case 4:
            raise RefusedError(what)
        case 6 | 9 | 15:
            raise HardwareError(what)
        case _:
            raise InUseError(what)


async def reboot(command: list[str], seconds: float) -> None:
    """Run the command that reboots this machine; RefusedError when it fails, or has not ended in time."""
    try:
        code, output = await run(command, seconds)
    except RetryError as error:
        raise RefusedError(f"reboot_command: {error}") from error
    if code:
        raise RefusedError(f"reboot_command {' '.join(command)}: exit code {code}: {output}")


async def run_all(commands: list[list[str]], seconds: float) -> None:
    """Run commands one after the other, each with that time; the first that fails is a RetryError."""
    for command in commands:
        code, output = await run(command, seconds)
        if code:
            raise RetryError(f"{' '.join(command)}: exit code {code}: {output}")
        log.info("command.done", extra={"command": command[0]})
