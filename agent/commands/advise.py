"""`warmslice advise`: how the slices of this node could be used better, by what the agent remembers of their use."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from math import isfinite
from pathlib import Path

from agent.adapters import clock
from agent.adapters.history_file import NAME, HistoryFile
from agent.adapters.nvml import Hardware
from agent.model.advice import Advised
from agent.model.errors import AgentError, BadInputError
from agent.model.history import DAY_SECONDS, WINDOW_DAYS, History
from agent.model.mig import Gpu
from agent.reconcile.advise import advised
from agent.settings import Settings


async def advise(settings: Settings, file: str | None, here: bool, min_days: float) -> Advised:
    """By the history of this node's agent, or the one in ``file``. The GPUs are asked of NVML, with ``file`` only ``here``; where
    it cannot tell they are as the history saw them last. RetryError where they have to be ``here`` and are not."""
    if not (isfinite(min_days) and 0 <= min_days <= WINDOW_DAYS):
        raise BadInputError(
            f"--min-days is {min_days:g}; it must be from 0 to {WINDOW_DAYS}, the days that are remembered"
        )
    path = Path(file) if file is not None else Path(settings.state_directory) / NAME
    history = HistoryFile(path).read()
    if history is None and file is not None:
        raise BadInputError(f"--history: there is no file {file}; the agent writes it as {NAME} in its state_directory")
    remembered = history or History()
    least_seconds = min_days * DAY_SECONDS
    gpus, why = await _gpus_here(here) if here or file is None else ((), "")
    if gpus:
        answer = advised(remembered, gpus, None, clock.now(), least_seconds)
    else:
        answer = advised(remembered, remembered.gpus, remembered.gpus_seen, clock.now(), least_seconds)
    missing = (
        f"no history at {path} yet: the agent's partition role writes it every few minutes" if history is None else ""
    )
    unknown = [words for words in (answer.unknown, missing, why) if words]
    return replace(answer, unknown="; ".join(unknown))


async def _gpus_here(needed: bool) -> tuple[tuple[Gpu, ...], str]:
    """The GPUs, and why there are none."""
    hardware = Hardware()
    try:
        gpus = await hardware.read()
    except AgentError as error:
        if needed:
            raise
        return (), f"NVML does not tell the GPUs of now: {error}"
    finally:
        # A driver that does not answer has been told of already.
        with suppress(AgentError):
            await hardware.release()
    return gpus, "" if gpus else "NVML shows no GPU here"
