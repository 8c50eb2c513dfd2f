"""How a page is read: what runs, what it has to print, and what is let through."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import Command, blocks, commands, looks_like

PAGE = """
# Title

```console
$ first "a b"
one
two ...
$ second \\
    --option
$ third   # exit code 2
refused
```

<!-- needs: cluster -->
```sh
kubectl get nodes
```

1. In a list:

    ```yaml
    a: 1
    ```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    file = tmp_path / "page.md"
    file.write_text(PAGE, "utf-8")
    return file


def test_a_block_runs_unless_its_mark_says_otherwise(page: Path) -> None:
    found = blocks(page)
    assert [(block.language, block.line, block.runs_here) for block in found] == [
        ("console", 4, True),
        ("sh", 15, False),
        ("yaml", 21, False),
    ]
    assert found[1].mark("needs") == "cluster"
    assert found[2].text == "a: 1\n"


def test_a_console_block_is_commands_with_what_they_print(page: Path) -> None:
    assert commands(blocks(page)[0]) == [
        Command('first "a b"', "one\ntwo ..."),
        Command("second \\\n    --option"),
        Command("third", "refused", 2),
    ]


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("one\ntwo", "one\ntwo\n", True),
        ("one\ntwo", "one\ntwo\nthree\n", False),
        ("one", "onerous", False),
        ("took ... s", "took 1.25 s", True),
        ("took ... s", "took 1.25 min", False),
        ("one\n...\nfour", "one\ntwo\nthree\nfour\n", True),
        ("one\n...", "one\ntwo\nthree\n", True),
        ("one\n...\nfour", "one\ntwo\nthree\n", False),
        ("a.b", "axb", False),
    ],
)
def test_what_is_shown_is_compared_with_what_is_printed(shown: str, printed: str, same: bool) -> None:
    assert looks_like(shown, printed) == same


def test_a_fence_that_is_never_closed_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("```sh\nls\n", "utf-8")
    with pytest.raises(ValueError, match=r"page.md:1: the fence is never closed"):
        blocks(tmp_path / "page.md")
