"""How far a fetch has come: a bar on a terminal, elsewhere a line for every tenth."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Never, Self, TextIO

from tqdm import tqdm

from agent.model.cache import FetchProgress


class Lines:
    """For logs and pipes."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def follow(self, progress: FetchProgress) -> None:
        """Say it, where another tenth is there."""
        share = progress.fetched_bytes / progress.size_bytes if progress.size_bytes else 0.0
        name, tenth = progress.model.name, int(share * 10)
        if self._told.get(name, -1) < tenth:
            self._told[name] = tenth
            done, size = progress.fetched_bytes / 1e6, progress.size_bytes / 1e6
            self._say(f"{name}: {done:.0f} of {size:.0f} MB ({share:.0%})")


class Bars:
    """One for each model, with rate and time left, on ``terminal``."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._bars: dict[str, tqdm[Never]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for bar in self._bars.values():
            bar.close()

    def follow(self, progress: FetchProgress) -> None:
        """Move the model's bar."""
        if not progress.size_bytes:
            return  # not listed yet
        name = progress.model.name
        if name not in self._bars:
            # What was there before does not count in the rate.
            self._bars[name] = tqdm(
                desc=name,
                total=progress.size_bytes,
                initial=progress.fetched_bytes,
                unit="B",
                unit_scale=True,
                file=self._terminal,
            )
        bar = self._bars[name]
        bar.update(progress.fetched_bytes - bar.n)


def shown_on(terminal: TextIO, say: Callable[[str], None]) -> Bars | Lines:
    """What suits it."""
    return Bars(terminal) if terminal.isatty() else Lines(say)
