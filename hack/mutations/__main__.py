"""``python -m hack.mutations simgpu``: takes each rule away in a copy of the tree and demands that its test fails.

Exit status 0 when every mutation is noticed, 1 otherwise. The tests must pass on the untouched copy first: a test that is
red anyway would notice nothing.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from enum import Enum, auto
from pathlib import Path

from hack.mutations import ROOT, Mutation, mutations, parts

COPIED = ("agent", "hack", "tests", "manifests", "docs", "pyproject.toml", "README.md", "CONTRIBUTING.md")
TIMEOUT_SECONDS = 180


class Outcome(Enum):
    PASSED = auto()
    FAILED = auto()
    UNDECIDED = auto()


def copy_tree(target: Path) -> None:
    """Sources as copies; the environment and the downloaded tools, which no mutation touches, as links."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, target / name)
    (target / ".venv").symlink_to((ROOT / ".venv").resolve())
    (target / "build").mkdir()
    if (ROOT / "build" / "tools").exists():
        (target / "build" / "tools").symlink_to(ROOT / "build" / "tools")


def run_tests(tree: Path, *tests: str) -> Outcome:
    """A hang counts as failed. A test that could not be set up (the mutated file does not compile) proves nothing."""
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Outcome.FAILED
    if done.returncode == 0:
        return Outcome.PASSED
    if done.returncode == 1 and re.search(r"^FAILED ", done.stdout, re.MULTILINE):
        return Outcome.FAILED
    print(done.stdout + done.stderr)
    return Outcome.UNDECIDED


def is_noticed(tree: Path, mutation: Mutation) -> bool:
    """The file is put back whatever happens."""
    target = tree / mutation.file
    original = target.read_text()
    mutation.apply(tree)
    try:
        return run_tests(tree, mutation.test) is Outcome.FAILED
    finally:
        target.write_text(original)


def check(tree: Path, listed: list[Mutation]) -> int:
    """How many mutations go unnoticed."""
    if run_tests(tree, *sorted({mutation.test for mutation in listed})) is not Outcome.PASSED:
        print("the tests do not pass before anything is taken away")
        return len(listed)
    unnoticed = 0
    for mutation in listed:
        noticed = is_noticed(tree, mutation)
        unnoticed += not noticed
        print(f"{'noticed  ' if noticed else 'UNNOTICED'}  {mutation.rule}", flush=True)
    return unnoticed


def main() -> int:
    parser = argparse.ArgumentParser(description="Take rules away and see their tests fail.")
    parser.add_argument("part", choices=parts())
    parser.add_argument("--only", default="", help="rules that contain these words")
    arguments = parser.parse_args()
    listed = [mutation for mutation in mutations(arguments.part) if arguments.only in mutation.rule]
    with tempfile.TemporaryDirectory(prefix="warmslice-mutations-") as directory:
        tree = Path(directory)
        copy_tree(tree)
        unnoticed = check(tree, listed)
    print(f"{len(listed) - unnoticed} of {len(listed)} noticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
