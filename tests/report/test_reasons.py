"""Every reason that a status can give is explained in docs/, so that whoever reads one at night finds it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "agent/plan/partition.py",
    "agent/plan/midway.py",
    "agent/plan/way.py",
    "agent/plan/reboot.py",
    "agent/plan/applied.py",
    "agent/reconcile/partition.py",
    "agent/reconcile/evictions.py",
    "agent/reconcile/fleet.py",
    "agent/desired/resolve.py",
    "agent/desired/sharing.py",
    "agent/report/status.py",
)
SAID = re.compile(
    r"""(?:Waiting\(|_RefusedError\(|Refusal\(|_end\([^"]*"failed",|_end\([^"]*"success",|_status\("pending",|reason=)"""
    r"""\s*"([a-z]+(?:-[a-z]+)*)\""""
)
FAILING = re.compile(r'"([a-z]+-failing)"')
GIVEN_UP = re.compile(r"""(?:\.failed\(|_fail\().*"([a-z]+(?:-[a-z]+)+)"\)""")


def _reasons() -> set[str]:
    texts = [(ROOT / source).read_text("utf-8") for source in SOURCES]
    return {reason for text in texts for pattern in (SAID, FAILING, GIVEN_UP) for reason in pattern.findall(text)}


def _section(page: str, title: str) -> str:
    _, found, rest = (ROOT / "docs" / page).read_text("utf-8").partition(f"\n## {title}\n")
    assert found, f"{page} has no section {title!r}"
    return rest.partition("\n## ")[0]


def test_every_reason_is_explained() -> None:
    reasons = _reasons() - {"back-off", "conflict"}  # never written: the last word stays
    assert len(reasons) > 20
    table = _section("operations.md", "States and reasons")
    assert {reason for reason in reasons if f"`{reason}`" not in table} == set()


OF_MODELS = re.compile(
    r"""(?:Fetch(?:Ended|Fault)Error\(|Failed\(FailureKind\.[A-Z]+,|FailureKind\.REFUSED if [^"]*,)\s*"([a-z]+(?:-[a-z]+)*)\""""
)


def test_every_reason_of_a_model_is_explained() -> None:
    texts = [path.read_text("utf-8") for path in sorted((ROOT / "agent").rglob("*.py"))]
    reasons = {reason for text in texts for reason in OF_MODELS.findall(text)}
    assert len(reasons) > 20
    table = _section("cache.md", "Why a model is not ready")
    assert {reason for reason in reasons if f"`{reason}`" not in table} == set()


def test_every_reason_of_the_start_up_gate_is_explained() -> None:
    reasons = set(re.findall(r'Lack\("([a-z]+)"', (ROOT / "agent/plan/gate.py").read_text("utf-8")))
    assert len(reasons) == 4
    table = _section("starting.md", "The start-up taint")
    assert {reason for reason in reasons if f"| `{reason}` |" not in table} == set()
