"""The page of docs that a run of the benchmarks becomes."""

from __future__ import annotations

from collections.abc import Iterator

from hack.bench.report import Report, Run, Table

_HEAD = """\
# Benchmarks

Generated from one run: `./hack/bench/run --json FILE`, then `python -m hack.bench --page FILE`. {form} of {day},
at commit `{commit}`, on {machine}.
Servers, clients, simulated GPUs and the agent share that machine: ratios to the peer in the same run say more than figures.

To repeat it on your machine, in a fresh clone (a quarter of an hour; `--full` takes some hours):

<!-- needs: minutes -->
```sh
./hack/bench/run
```

Each benchmark says at its head what it measures and how (`python -m hack.bench.NAME --help`), prints its limits where it has any,
and ends with exit code 1 where one is passed. The soak of ten minutes is apart: `python -m hack.bench.soak`.
"""


def page(report: Report) -> str:
    """Markdown."""
    about = report.machine
    machine = (
        f"{about['processors']} processors ({about['processor']}), {about['memory_gb']} GB, Python {about['python']}"
    )
    form = "The full form" if report.full else "The short form"
    text = _HEAD.format(form=form, day=report.day, commit=report.commit, machine=machine)
    return text + "".join(_section(run) for run in report.runs)


def _section(run: Run) -> str:
    parts = [f"\n## {run.title}\n", f"`{run.command}` took {run.seconds:.0f} s.\n"]
    parts += [_table(table) for table in run.tables]
    if run.said:
        parts.append("\n".join(f"* {_text(line)}" for line in run.said) + "\n")
    if run.exit_code:
        parts.append("**Not within its limits in this run.**\n")
    return "\n".join(parts)


def _table(table: Table) -> str:
    return "\n".join(_rows(table)) + "\n"


def _rows(table: Table) -> Iterator[str]:
    yield f"| {' | '.join(map(_text, table.columns))} |"
    yield f"|---|{'--:|' * (len(table.columns) - 1)}"
    for row in table.rows:
        yield f"| {' | '.join(map(_text, row))} |"


def _text(cell: str) -> str:
    for letter in "*_<`[":
        cell = cell.replace(letter, "\\" + letter)
    return cell
