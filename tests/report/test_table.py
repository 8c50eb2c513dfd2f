"""README's table of metrics says what the code has."""

from __future__ import annotations

from agent.report import families
from hack.metrics_table import README, table, written


def test_the_table_in_the_readme_is_the_one_of_the_code() -> None:
    """``python -m hack.metrics_table`` writes it."""
    readme = README.read_text("utf-8")
    assert written(readme) == readme


def test_every_metric_has_a_row_of_its_own() -> None:
    rows = table().splitlines()[2:]
    assert len({row.split("|")[1] for row in rows}) == len(rows) == len(families.ALL)
    assert all(row.count("|") == 5 for row in rows)
