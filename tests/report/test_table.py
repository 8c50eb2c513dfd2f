"""The reference's table of metrics says what the code has."""

from __future__ import annotations

from agent.report import families
from hack.reference.metrics import rows


def test_every_metric_has_a_row_of_its_own() -> None:
    names = [row[0] for row in rows()]
    assert len(set(names)) == len(names) == len(families.ALL)
    assert all(len(row) == 4 and row[3].endswith(".") for row in rows())
