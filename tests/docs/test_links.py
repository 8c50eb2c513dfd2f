"""Every link of README, CONTRIBUTING and docs/ leads somewhere, in a checkout as on the site."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, pages

_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]+`", flags=re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", flags=re.MULTILINE)
READ = [*pages(), ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]


def links(text: str) -> list[str]:
    """Targets outside of code."""
    return [found["target"] for found in _LINK.finditer(_CODE.sub("", text))]


@cache
def anchors(file: Path) -> frozenset[str]:
    """What may stand behind the #: ids, and headings where a repository's page and the site make the same of them."""
    text = file.read_text("utf-8")
    headings = _HEADING.findall(re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL))
    same = {_on_the_site(one) for one in headings} & {_in_a_repository(one) for one in headings}
    twice = {one for one in same if [_on_the_site(heading) for heading in headings].count(one) > 1}
    return frozenset(re.findall(r'<a id="([^"]+)">', text)) | (same - twice)


def _on_the_site(heading: str) -> str:
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def _in_a_repository(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def complaint(file: Path, target: str) -> str:
    """Why that link leads nowhere; empty where it leads somewhere."""
    if target.startswith("https://"):
        return ""
    name, _, anchor = target.partition("#")
    at = (file.parent / name).resolve() if name else file
    if not at.exists():
        return f"{target}: there is no {name}"
    if file.is_relative_to(ROOT / "docs") and not at.is_relative_to(ROOT / "docs"):
        return f"{target} leads out of docs/, where the site has nothing"
    return f"{target}: {at.name} has no {anchor}" if anchor and anchor not in anchors(at) else ""


@pytest.mark.parametrize("file", READ, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_link_leads_somewhere(file: Path) -> None:
    assert [found for target in links(file.read_text("utf-8")) if (found := complaint(file, target))] == []


def test_there_are_links_to_follow() -> None:
    assert sum(len(links(file.read_text("utf-8"))) for file in READ) > 100


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("https://example.com/", ""),
        ("layouts.md#sharing", ""),
        ("runbooks.md#runbook-drift", ""),
        ("layouts.md#no-such-section", "layouts.md#no-such-section: layouts.md has no no-such-section"),
        ("none.md", "none.md: there is no none.md"),
        ("../SECURITY.md", "../SECURITY.md leads out of docs/, where the site has nothing"),
    ],
)
def test_a_link_that_leads_nowhere_is_named(target: str, said: str) -> None:
    assert complaint(ROOT / "docs" / "index.md", target) == said
