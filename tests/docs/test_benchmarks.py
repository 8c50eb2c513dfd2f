"""The page of benchmarks is what the last run said, and a run is told as it was printed."""

from __future__ import annotations

from pathlib import Path

from hack.bench.__main__ import BENCHES, PAGE, ROOT
from hack.bench.page import page
from hack.bench.report import Report, Table, parsed

LAST = PAGE.with_suffix(".json")


def test_the_page_is_made_of_the_last_run() -> None:
    report = Report.from_json(LAST.read_text("utf-8"))
    assert PAGE.read_text("utf-8") == page(report)
    assert [run.name for run in report.runs] == [bench.name for bench in BENCHES]
    assert all(run.tables for run in report.runs)


def test_every_benchmark_is_run_or_said_to_be_apart() -> None:
    """Modules that have a command of their own, and are not parts of others."""
    folder = ROOT / "hack" / "bench"
    commands = {file.stem for file in folder.glob("*.py") if _is_a_command(file)}
    apart = {"soak", "__main__", "fleet_agents", "soaked", "static_server"}
    assert commands - apart == {bench.name for bench in BENCHES}


def _is_a_command(file: Path) -> bool:
    return 'if __name__ == "__main__":' in file.read_text("utf-8")


def test_lines_of_cells_are_tables_and_all_else_is_said() -> None:
    lines = ["what | a | b", "x | 1 | 2", "", "so much | n", "of all | 3", "limit: 3; 0.5 of that", "y | 1"]
    tables, said = parsed(lines)
    assert tables == (
        Table(("what", "a", "b"), (("x", "1", "2"),)),
        Table(("so much", "n"), (("of all", "3"),)),
        Table(("y", "1"), ()),
    )
    assert said == ("limit: 3; 0.5 of that",)


def test_an_empty_cell_is_a_cell() -> None:
    tables, _ = parsed(["a | b | c", "x |  | 1", "all | 2 |"])
    assert tables[0].rows == (("x", "", "1"), ("all", "2", ""))
