"""Writes the reference pages where they stand."""

from __future__ import annotations

from hack.reference import pages

for file, text in pages().items():
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    print(f"written: {file}")
