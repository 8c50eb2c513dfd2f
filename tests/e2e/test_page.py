"""The status page as people see it: a real agent's, in a real browser, through the states of a node."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.e2e.browser import PHONE, NoChromiumError, headless, opened, strangers
from tests.e2e.page_scenes import CHAT, EMBEDDINGS, stage

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One for all."""
    try:
        async with headless() as running:
            yield running
    except NoChromiumError as error:
        if os.environ.get("CI") == "true" or os.environ.get("WARMSLICE_REQUIRE_TOOLS") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


async def says(page: Page, part: str, *words: str) -> None:
    """The part comes to say all of it, without being loaded anew."""
    for one in words:
        await expect(page.locator(f"#{part}")).to_contain_text(one, timeout=20_000)


async def progress(page: Page, model: str) -> int:
    bar = page.get_by_role("progressbar", name=f"how much of {model} is on disk")
    return int(await bar.get_attribute("aria-valuenow") or 0)


async def test_a_page_that_stays_open_follows_the_node_through_its_states(browser: Browser, tmp_path: Path) -> None:
    """Never loaded anew, with no complaint of the browser, and asking nobody but the agent."""
    async with stage(tmp_path) as node:
        url = await node.address()
        async with opened(browser, url) as watched:
            page = watched.page
            await says(page, "live", "live")
            await page.evaluate("window.never = 'loaded anew'")
            await says(page, "status", "the cache container does not answer, since")

            await node.fetch(3e6)
            await node.idle()
            await says(page, "status", "success", "day", "'day' applied")
            await says(
                page,
                "gpus",
                "3g.40gb",
                "chat/llama-8b-",
                "search/embed-",
                "room for 1g.20gb",
                "87 %",
                "29.7 of 39.5 GiB",
            )

            await says(page, "models", "fetching", "of 25.17 MB")
            seen = {await progress(page, EMBEDDINGS)}
            async with asyncio.timeout(20):
                while len([value for value in seen if 0 < value < 100]) < 2:
                    await asyncio.sleep(0.2)
                    seen.add(await progress(page, EMBEDDINGS))
            await node.until_ready()
            await says(page, "models", "2 of 3 ready", "the hub has no public acme/private-70b", "Next try")
            assert await progress(page, CHAT) == 100

            await node.changing()
            await says(
                page, "change", "Change under way", "GPU 1: remove 2g.20gb@0:2done", "doing", "GPU 1: make 7g.80gb@0:8"
            )
            await says(page, "gpus", "goes", "7g.80gbnew")
            await says(page, "status", "node is cordoned")
            await node.changed()
            await expect(page.locator("#change")).to_be_empty(timeout=20_000)

            await node.blocked()
            await says(page, "status", "blocked", "research/train-0", "no controller would start it again", "nobody")
            await says(page, "change", "Planned change")
            await node.unblocked()
            await node.refused()
            await says(page, "status", "failed", "no-placement", "do not fit together")

            await node.lost()
            await says(page, "gpus", "This GPU cannot be read.", "1 cannot be read")
            await says(page, "events", "ModelReady", "Blocked", "NoPlacement", "GpuUnknown")

            assert await page.evaluate("window.never") == "loaded anew"
            assert watched.troubles == []
            assert strangers(watched, url) == []
            assert await node.node.stop() == 0
            await says(page, "live", "not connected since")


async def test_the_page_is_right_without_script_on_a_phone_and_in_the_dark(browser: Browser, tmp_path: Path) -> None:
    async with stage(tmp_path) as node:
        url = await node.address()
        await node.fetch(None)
        await node.idle()
        await node.until_ready()
        async with opened(browser, url, java_script_enabled=False) as plain:
            await says(plain.page, "status", "success", "day")
            await says(plain.page, "gpus", "chat/llama-8b-")
            await says(plain.page, "live", "as of", "reloads every 5 s")
            loads = len(plain.requests)
            async with plain.page.expect_request(url + "/", timeout=30_000):
                pass  # by itself
            assert len(plain.requests) > loads
            assert [trouble for trouble in plain.troubles if "failed" not in trouble] == []
        async with opened(browser, url, viewport=PHONE) as phone:
            await says(phone.page, "gpus", "chat/llama-8b-")
            widths = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            shown, there = await phone.page.evaluate(widths)
            assert shown <= there
            assert await _cut_off(phone.page) == []
        paper = "getComputedStyle(document.body).backgroundColor"
        async with opened(browser, url) as light, opened(browser, url, color_scheme="dark") as dark:
            assert await light.page.evaluate(paper) != await dark.page.evaluate(paper)
            for watched in (light, dark):
                assert await _cut_off(watched.page) == []
                assert await _faint(watched.page) == []
                assert watched.troubles == []


async def _cut_off(page: Page) -> list[str]:
    """Numbers that stick out of the slice that they are of."""
    found: list[str] = await page.evaluate(
        """() => [...document.querySelectorAll(".gauge .value")]
            .filter(value => value.scrollWidth > value.clientWidth + 1 || value.getBoundingClientRect().right
                > value.closest(".card").getBoundingClientRect().right)
            .map(value => value.textContent)"""
    )
    return found


async def _faint(page: Page) -> list[str]:
    """Texts whose contrast with what is behind them is below the 4.5 that WCAG asks of small text."""
    found: list[str] = await page.evaluate(_CONTRAST)
    return found


_CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const faint = [];
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim()) continue;
    const [a, b] = [rgba(getComputedStyle(element).color), behind(element)].map(light).sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) faint.push(`${walker.currentNode.data} ${contrast.toFixed(2)}`);
  }
  return faint;
}"""
