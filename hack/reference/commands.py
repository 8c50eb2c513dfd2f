"""The command line, from its parser. Laid out here, since argparse's own layout depends on the version of Python."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.cli import command_line
from hack.reference.words import code, made_by, table

ABOUT = (
    "Exit code 0: done, 1: refused or not so, 2: bad input; what else a command may answer stands with it.",
    "The wheel brings a man page and completions of bash and zsh, in `share/` below the place that it is installed to "
    "(`man/man1/`, `bash-completion/completions/`, `zsh/site-functions/`).",
)
_SETTING = "setting_"


@dataclass(frozen=True, slots=True)
class Command:
    """One command, such as ``warmslice cache gc``; ``settings`` are the names of those it takes as flags."""

    name: str
    text: str
    arguments: tuple[argparse.Action, ...]
    settings: tuple[str, ...]

    @property
    def usage(self) -> str:
        """What may follow the name."""
        return " ".join([self.name, *map(_shown, self.arguments), *(["[SETTING ...]"] if self.settings else [])])


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.ArgumentParser, Command]]:
    """Each parser that ends in a command, with what it says."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from commands(sub)
            return
    yield parser, _command(parser)


def _command(parser: argparse.ArgumentParser) -> Command:
    told = [action for action in parser._actions if action.dest != "help"]
    return Command(
        parser.prog,
        parser.description or "",
        tuple(action for action in told if not is_setting(action)),
        tuple(action.dest.removeprefix(_SETTING) for action in told if is_setting(action)),
    )


def is_setting(action: argparse.Action) -> bool:
    """Whether it is a setting's flag."""
    return action.dest.startswith(_SETTING)


def _shown(action: argparse.Action) -> str:
    needed = action.required if action.option_strings else action.nargs is None
    return typed(action) if needed else f"[{typed(action)}]"


def typed(action: argparse.Action) -> str:
    """An option with what is given to it."""
    return " ".join([*action.option_strings[-1:], *_values(action)])


def _values(action: argparse.Action) -> Iterator[str]:
    if action.nargs == 0:
        return
    value = (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else str(action.metavar or action.dest).upper()
    )
    if action.nargs in ("*", "+"):
        yield f"{value} ..."
    else:
        yield f"[{value}]" if action.nargs == "?" and action.option_strings else value


def page() -> str:
    """A section for each command."""
    return "\n".join([*made_by("The command line", *ABOUT), *_sections()]).rstrip() + "\n"


def _sections() -> Iterator[str]:
    for _, command in commands(command_line()):
        yield from (f"## {command.name}", "", _ended(command.text), "", "```text", command.usage, "```", "")
        if command.arguments:
            yield from (*table(("argument", "what it says"), _rows(command.arguments)), "")
        if command.settings:
            yield from (f"Settings: {_settings(command.settings)}.", "")


def _rows(actions: Sequence[argparse.Action]) -> Iterator[Sequence[str]]:
    for action in actions:
        yield code(typed(action)), action.help or ""


def _settings(names: Sequence[str]) -> str:
    if "log_level" in names:
        return "[all of them](settings.md), as flags"
    return ", ".join(f"[`--{name.replace('_', '-')}`](settings.md#{name})" for name in names)


def _ended(text: str) -> str:
    return text.replace("<", "&lt;")
