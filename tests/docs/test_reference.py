"""The reference pages are what their generator makes of the code of now, and so is what docs/faq.md says of a GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.observe.paper import gpu_on_paper
from agent.settings import Settings
from hack import reference
from hack.reference.settings import documented
from tests.docs.blocks import ROOT


@pytest.mark.parametrize(("file", "text"), reference.pages().items(), ids=lambda one: getattr(one, "name", ""))
def test_the_reference_is_what_the_code_says(file: Path, text: str) -> None:
    """Otherwise: python -m hack.reference"""
    assert file.read_text("utf-8") == text


def test_every_setting_has_its_words() -> None:
    assert [one.name for one in documented()] == list(Settings.__struct_fields__)
    assert all(one.text.endswith(".") and one.kind for one in documented())


def test_what_a_layout_leaves_of_a_gpu_is_as_the_driver_reports_it() -> None:
    """The table in docs/faq.md, against the table of models."""
    profiles = {profile.name: profile for profile in gpu_on_paper("H100-80GB-SXM").profiles}
    page = (ROOT / "docs" / "faq.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\S+)` \| (\d+) of (\d+) \| ([\d.]+) GiB \|$", page, re.MULTILINE)
    assert len(rows) == 4
    for layout, used, all_of_them, memory in rows:
        parts = [(int(count), profiles[name]) for count, _, name in (one.partition("x") for one in layout.split("_"))]
        assert int(used) == sum(count * profile.multiprocessors for count, profile in parts)
        assert int(all_of_them) == profiles["7g.80gb"].multiprocessors
        assert float(memory) == pytest.approx(
            sum(count * profile.memory_mib for count, profile in parts) / 1024, abs=0.06
        )
