"""Write the dashboards where they stand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hack.dashboards.fleet import FLEET
from hack.dashboards.node import NODE
from hack.dashboards.panels import model_of

FOLDER = Path(__file__).resolve().parents[2] / "manifests" / "observability" / "dashboards"


def files() -> dict[str, str]:
    """By name."""
    return {
        name: json.dumps(model_of(dashboard), indent=1, ensure_ascii=False) + "\n"
        for name, dashboard in (("fleet.json", FLEET), ("node.json", NODE))
    }


def main() -> int:
    """Exit code 0."""
    for name, text in files().items():
        (FOLDER / name).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
