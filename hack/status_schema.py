"""The JSON schema of ``/api/v1/status``, from the nouns in the code: ``python -m hack.status_schema`` writes it into docs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from agent.model.overview import Overview

FILE = Path(__file__).resolve().parent.parent / "docs" / "status.schema.json"


def schema() -> dict[str, Any]:
    """JSON Schema 2020-12. Everything that the agent knows of is always there; a reader should not mind more."""
    found = msgspec.json.schema(Overview)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "How a node stands", **found}


def text() -> str:
    """As it stands in the file."""
    return json.dumps(schema(), indent=1) + "\n"


def main() -> int:
    """Exit code 0."""
    FILE.write_text(text(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
