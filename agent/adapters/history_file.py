"""The file in which the agent's history outlives it: replaced whole, so that a kill leaves the old one or the new one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from agent.adapters.files import write_durably
from agent.model.errors import BadInputError
from agent.model.history import MOST_BYTES, History

NAME = "history.json"
"""In the state directory."""


@dataclass(frozen=True, slots=True)
class HistoryFile:
    """One file, of which one process is the writer."""

    path: Path

    def read(self) -> History | None:
        """What was written last; None where nothing was yet. BadInputError for what cannot be read, or is somebody else's."""
        try:
            with self.path.open("rb") as stream:
                text = stream.read(MOST_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadInputError(f"history {self.path} cannot be read: {error.strerror}") from error
        if len(text) > MOST_BYTES:
            raise BadInputError(
                f"history {self.path} is larger than {MOST_BYTES} bytes: it is no history of this agent's"
            )
        try:
            return History.from_json(text)
        except BadInputError as error:
            raise BadInputError(f"history {self.path} cannot be read: {error}") from error

    def write(self, text: bytes) -> None:
        """Replace it. OSError; then the last one is still there."""
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        for draft in self.path.parent.glob(f".{self.path.name}.*.draft"):  # left by a kill
            draft.unlink(missing_ok=True)
        write_durably(self.path, text)

    def put_aside(self) -> Path:
        """Give it another name, so that a person can look at it; the new name. OSError."""
        aside = self.path.with_name(f"{self.path.name}.unreadable")
        os.replace(self.path, aside)
        return aside
