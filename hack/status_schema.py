"""``python -m hack.status_schema`` writes ``agent/data/status.schema.json``: what ``/api/v1/status`` answers.

It is made from the classes in ``agent/model/overview.py``. A test keeps the committed file equal to what this makes.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from agent.model.overview import Overview

SCHEMA = Path(__file__).resolve().parent.parent / "agent" / "data" / "status.schema.json"


def schema() -> str:
    """The file's text."""
    made = msgspec.json.schema(Overview)
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "/api/v1/status of WarmSlice"}
    return json.dumps({**about, **made}, indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(schema(), "utf-8")
    print(f"written: {SCHEMA}")
