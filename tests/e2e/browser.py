"""Headless Chromium, where there is one, and what it complains of while it shows a page."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import Browser, Page, async_playwright

WIDE = {"width": 1100, "height": 800}
PHONE = {"width": 390, "height": 844}
_NAMES = ("chromium", "chromium-browser", "google-chrome")


class NoChromiumError(Exception):
    """There is none on PATH."""


@asynccontextmanager
async def headless() -> AsyncIterator[Browser]:
    """The installed browser; NoChromiumError without one."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        raise NoChromiumError("no chromium on PATH (./hack/test installs Debian's package where it may)")
    # As root, in a container, it cannot make the namespaces of its sandbox; what it shows is our own.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            await browser.close()


@dataclass(slots=True)
class Watched:
    """A page, and everything that should not be: errors, complaints of the console (violations of the policy are among them), and
    requests to anybody but the agent."""

    page: Page
    troubles: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@asynccontextmanager
async def opened(browser: Browser, url: str, **options: Any) -> AsyncIterator[Watched]:
    """The page at that address, in a context of its own."""
    context = await browser.new_context(**{"viewport": WIDE, **options})
    page = await context.new_page()
    watched = Watched(page)
    page.on("console", lambda said: watched.troubles.append(f"{said.type}: {said.text}"))
    page.on("pageerror", lambda error: watched.troubles.append(str(error)))
    page.on("requestfailed", lambda request: watched.troubles.append(f"failed: {request.url} {request.failure}"))
    page.on("request", lambda request: watched.requests.append(request.url))
    try:
        await page.goto(url)
        yield watched
    finally:
        await context.close()


def strangers(watched: Watched, url: str) -> list[str]:
    """Requests to others than who served the page."""
    home = urlsplit(url).netloc
    return [one for one in watched.requests if not one.startswith("data:") and urlsplit(one).netloc != home]
