"""``python -m hack.cli_files`` writes the man page and the completions of bash and zsh, which the wheel brings to ``share``.

They are made from the parser of the command line, with the words of settings from where they are documented. A test keeps the
committed files equal to what this makes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from agent.cli import command_line
from agent.observe.paper import models
from hack.reference.commands import Command, commands, is_setting
from hack.reference.settings import Documented, documented

ABOUT = {"project_name": "warmslice", "version": version("warmslice"), "manual_title": "WarmSlice", "date": " "}
SHARE = Path(__file__).resolve().parent.parent / "agent" / "data" / "share"


def files() -> dict[Path, str]:
    """Each file's text by where it stands; the wheel has the same below ``share``."""
    return {
        SHARE / "man" / "man1" / "warmslice.1": man_page(),
        SHARE / "bash-completion" / "completions" / "warmslice": completion("bash"),
        SHARE / "zsh" / "site-functions" / "_warmslice": completion("zsh"),
    }


def completion(shell: str) -> str:
    """What the shell reads."""
    parser = command_line()
    _describe_briefly(parser)
    for sub, _ in commands(parser):
        for action in sub._actions:
            _complete(action)
    return str(shtab.complete(parser, shell=shell))


def _describe_briefly(parser: argparse.ArgumentParser) -> None:
    """A menu has a line for each command: what the help says of it, not what its own help begins with."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                action.choices[choice.dest].description = choice.help
                _describe_briefly(action.choices[choice.dest])


def _complete(action: argparse.Action) -> None:
    """What the shell finds by itself, or we know."""
    words = _words()
    if is_setting(action):
        action.help = _sentence(words[action.dest.removeprefix("setting_")].text).replace("%", "%%")
    if action.option_strings == ["--gpu"]:
        action.choices = models()
    elif action.dest.endswith("directory"):
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    elif action.dest.endswith(("file", "kubeconfig", "socket")) or action.metavar == "FILE":
        action.complete = shtab.FILE  # type: ignore[attr-defined]


def _words() -> dict[str, Documented]:
    return {one.name: one for one in documented()}


def _sentence(text: str) -> str:
    """The first one, as the help of an option is written."""
    first = text.split(". ")[0].rstrip(".")
    return first if first[1].isupper() else first[0].lower() + first[1:]


def man_page() -> str:
    """All commands with their own options, then the settings once. It has no date, so that it changes only with what it says."""
    parser = command_line()
    _name_the_commands(parser)
    for sub, command in commands(parser):
        _own_options_only(sub, command)
    page = Manpage(
        parser, _data={**ABOUT, "description": (parser.description or "").rstrip(".")}, format="single-commands-section"
    )
    page.add_section("settings", "=", "\n".join(_settings()))
    return str(page)


def _name_the_commands(parser: argparse.ArgumentParser) -> None:
    for group in parser._action_groups:
        if group.title == "positional arguments":
            group.title = "commands"


def _own_options_only(parser: argparse.ArgumentParser, command: Command) -> None:
    """argparse lays a long usage out otherwise with each version of Python, so it is given whole."""
    parser.usage = command.usage
    for action in parser._actions:
        if is_setting(action):
            action.help = argparse.SUPPRESS


def _settings() -> Iterator[str]:
    yield (
        "Each may stand in /etc/warmslice/settings.yaml, as WARMSLICE_<NAME> in the environment, or as a flag of the commands "
        "that say SETTING; later ones win."
    )
    for one in documented():
        yield ".TP"
        yield rf"\fB{_roff(one.flag)}\fR"
        yield _roff(" ".join([one.text, *([f"Default: {one.default}."] if one.default else [])]))


def _roff(text: str) -> str:
    """A line that begins with a dot or an apostrophe would be a request."""
    escaped = text.replace("\\", "\\\\").replace("-", r"\-")
    return rf"\&{escaped}" if escaped[:1] in (".", "'") else escaped


if __name__ == "__main__":
    for file, text in files().items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
        print(f"written: {file}")
