"""How far a pull has come, on a terminal and in a log."""

from __future__ import annotations

import io
import os
from dataclasses import replace

from agent.commands.progress import Bars, Lines, shown_on
from agent.model.cache import FetchProgress
from agent.model.catalog import CatalogModel

BEGUN = FetchProgress(CatalogModel("org--m", "org/m"), 0.0)
GB = 1_000_000_000


def test_a_log_has_a_line_for_every_tenth() -> None:
    said: list[str] = []
    with shown_on(io.StringIO(), said.append) as shown:
        assert isinstance(shown, Lines)
        for done in range(101):
            shown.follow(replace(BEGUN, size_bytes=2 * GB, fetched_bytes=done * 2 * GB // 100))
    assert len(said) == 11
    assert (said[0], said[-1]) == ("org--m: 0 of 2000 MB (0%)", "org--m: 2000 of 2000 MB (100%)")


def _all_that_was_written(master: int) -> bytes:
    """In as many pieces as the kernel likes; EIO is how the end of a terminal shows."""
    seen = b""
    while True:
        try:
            seen += os.read(master, 100_000)
        except OSError:
            return seen


def test_a_terminal_has_a_bar_with_size_and_share() -> None:
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal, shown_on(terminal, print) as shown:
        assert isinstance(shown, Bars)
        shown.follow(BEGUN)
        for tenth in (2, 10):
            shown.follow(replace(BEGUN, size_bytes=2 * GB, fetched_bytes=tenth * GB // 5))
    seen = _all_that_was_written(master).decode()
    os.close(master)
    assert "org--m:  20%" in seen
    assert "org--m: 100%" in seen
    assert "2.00G/2.00G" in seen
