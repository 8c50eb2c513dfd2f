"""The ledger of cold starts as a table, and what the cache saved. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model.cold_start import Ledger, Row, Weights, saved

_HEAD = ("MODEL", "WEIGHTS", "PODS", "READY IN", "IMAGE", "LOADING")


def starts_table(ledger: Ledger) -> Iterator[str]:
    """A row for each model and place of its weights, with mean times; then a sentence for each model of which both kinds are
    known."""
    rows = [_HEAD, *_rows(ledger)]
    if len(rows) == 1:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    for name, starts in ledger.models.items():
        told = saved(starts)
        if told is not None:
            each, together = told
            yield f"{name}: loading took {each:.1f} s less where the weights were ready, {together:.0f} s in all"


def _rows(ledger: Ledger) -> Iterator[tuple[str, ...]]:
    for name, starts in ledger.models.items():
        for weights in Weights:
            row = starts.rows.get(weights)
            if row is not None:
                yield (name, weights.value, str(row.pods), *_times(row))


def _times(row: Row) -> Iterator[str]:
    for mean in (row.mean_total, row.mean_image, row.mean_load):
        yield "?" if mean is None else f"{mean:.1f} s"
