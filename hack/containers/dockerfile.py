"""A Dockerfile as data, as far as ours goes."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from dockerfile_parse import DockerfileParser

_KNOWN = ("CMD", "COPY", "ENTRYPOINT", "ENV", "LABEL", "RUN", "USER", "WORKDIR")


@dataclass(frozen=True, slots=True)
class Instruction:
    """``word`` in capitals; ``value`` with continued lines joined."""

    word: str
    value: str

    def words(self) -> list[str]:
        """Of the exec form or a list; of the shell form, one command for a shell."""
        return list(json.loads(self.value)) if self.value.startswith("[") else ["/bin/sh", "-c", self.value]

    def pairs(self) -> dict[str, str]:
        """Of ENV."""
        return dict(pair.split("=", 1) for pair in shlex.split(self.value))


@dataclass(frozen=True, slots=True)
class Stage:
    """``base``: another stage, or an image of a registry."""

    base: str
    name: str
    instructions: tuple[Instruction, ...]


def stages(dockerfile: Path) -> list[Stage]:
    """In their order; the last is what is built where nothing else is asked for. ValueError names what is not known here."""
    found: list[Stage] = []
    for one in DockerfileParser(path=str(dockerfile)).structure:
        word, value = one["instruction"], one["value"]
        if word == "COMMENT":
            continue
        if word == "FROM":
            base, _, name = value.partition(" AS ")
            found.append(Stage(base.strip(), name.strip(), ()))
            continue
        if word not in _KNOWN:
            raise ValueError(f"{dockerfile}: {word} is not known here")
        last = found[-1]
        found[-1] = Stage(last.base, last.name, (*last.instructions, Instruction(word, value)))
    return found
