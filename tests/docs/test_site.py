"""The site is made without a warning, and asks nobody else for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.docs.blocks import ROOT


def test_the_site_is_made_and_stands_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")

    made = sorted((tmp_path / "site").rglob("*.html"))
    assert len(made) > 12
    for page in made:
        text = page.read_text("utf-8")
        loaded = re.findall(
            r'<(?:script|img|iframe)[^>]+src="?([^" >]+)|<link[^>]+stylesheet"? [^>]*href="?([^" >]+)', text
        )
        assert [one for pair in loaded for one in pair if one.startswith(("http:", "https:", "//"))] == [], page.name
        assert "fonts.googleapis" not in text
