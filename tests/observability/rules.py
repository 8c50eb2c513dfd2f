"""The rules as they are shipped, as Prometheus and promtool read them."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.report.tools import promtool

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "manifests" / "observability" / "rules" / "rules.yaml"

Rule = dict[str, Any]


@cache
def groups() -> tuple[dict[str, Any], ...]:
    """Of the PrometheusRule."""
    return tuple(yaml.safe_load(MANIFEST.read_text("utf-8"))["spec"]["groups"])


def alerts() -> dict[str, Rule]:
    """By name."""
    return {rule["alert"]: rule for group in groups() for rule in group["rules"] if "alert" in rule}


def records() -> list[str]:
    """Names of what is recorded, in order."""
    return [rule["record"] for group in groups() for rule in group["rules"] if "record" in rule]


def write_rules(file: Path, beginning: str = "", interval: str | None = None) -> list[str]:
    """A rule file of the groups whose names begin so; with ``interval`` each is evaluated as often. Their names: what one records
    another reads, and in promtool, unlike in time, the order of groups is any that is not said."""
    chosen = [group for group in groups() if group["name"].startswith(beginning)]
    found = [{**group, "interval": interval} if interval else group for group in chosen]
    file.write_text(yaml.safe_dump({"groups": found}, sort_keys=False), "utf-8")
    return [group["name"] for group in found]


def promtool_says(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What promtool said, well or badly."""
    return subprocess.run([promtool(), *arguments], capture_output=True, text=True, timeout=120, check=False)
