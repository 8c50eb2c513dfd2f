"""Man page and shell completion are what their generator makes of the command line of now, and bash can use them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from agent.cli import command_line
from hack import cli_files
from hack.cli_files import SHARE
from hack.reference.commands import commands
from tests.docs.blocks import ROOT


@pytest.mark.parametrize(("file", "text"), cli_files.files().items(), ids=lambda one: getattr(one, "name", ""))
def test_man_page_and_completions_are_what_the_code_says(file: Path, text: str) -> None:
    """Otherwise: python -m hack.cli_files"""
    assert file.read_text("utf-8") == text


def test_every_command_stands_in_the_man_page_and_every_setting_once() -> None:
    names = [command.name for _, command in commands(command_line())]
    assert {"warmslice run", "warmslice cache gc"} <= set(names)
    page = (SHARE / "man" / "man1" / "warmslice.1").read_text("utf-8")
    assert [name for name in names if rf"\fB{name}\fR" not in page] == []
    assert page.count(r"\-\-drain\-seconds") == 1


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("warmslice pl", "plan"),
        ("warmslice cache d", "doctor"),
        ("warmslice plan --gpu H100-80GB-S", "H100-80GB-SXM"),
        ("warmslice run --drain", "--drain-seconds"),
        ("warmslice check pyp", "pyproject.toml"),
    ],
)
def test_bash_completes(typed: str, offered: str) -> None:
    file = SHARE / "bash-completion" / "completions" / "warmslice"
    last = len(typed.split()) - 1
    script = f'. {file}; COMP_WORDS=({typed}); COMP_CWORD={last}; _shtab_warmslice; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.split() == [offered], done.stderr
