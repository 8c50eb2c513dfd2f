"""The reference pages of ``docs/reference``, made from what the code says of itself: ``python -m hack.reference`` writes them.

A test keeps the committed pages equal to what this makes.
"""

from __future__ import annotations

from pathlib import Path

from hack.reference import commands, labels, metrics, settings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reference"


def pages() -> dict[Path, str]:
    """Each page's text by its file."""
    made = {"settings": settings.page(), "labels": labels.page(), "metrics": metrics.page(), "cli": commands.page()}
    return {FOLDER / f"{name}.md": text for name, text in made.items()}
