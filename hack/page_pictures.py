"""``./hack/screenshots`` draws the status page in its states into ``docs/screenshots``: a real agent's, in a real browser."""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import Browser, Page, expect

from tests.e2e.browser import PHONE, NoChromiumError, headless, opened
from tests.e2e.page_scenes import Stage, stage

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "screenshots"
_MOST_BYTES = 120_000
_COLOURS = 160
_MARGIN = 16


async def main() -> None:
    """All of them, on one node."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="warmslice-pictures-") as folder:
        async with headless() as browser, stage(Path(folder)) as node:
            url = await node.address()
            async with opened(browser, url) as watched:
                await _states(node, browser, url, watched.page)


async def _states(node: Stage, browser: Browser, url: str, page: Page) -> None:
    await node.idle()
    await node.fetch(4e6)
    half = "() => [...document.querySelectorAll('[role=progressbar]')].some(b => b.ariaValueNow > 30 && b.ariaValueNow < 90)"
    await page.wait_for_function(half)
    await _draw(page, "fetching", of="models")
    await node.until_ready()
    await expect(page.locator("#models")).to_contain_text("2 of 3 ready", timeout=20_000)
    await expect(page.locator("#models")).to_contain_text("acme/private-70b: check", timeout=20_000)
    await _draw(page, "idle")
    for name, options in (("dark", {"color_scheme": "dark"}), ("phone", {"viewport": PHONE})):
        await _again(browser, url, name, options)

    await node.changing()
    await expect(page.locator("#change .steps .done")).to_have_count(2, timeout=20_000)
    await _draw(page, "changing", to="gpus")
    await node.changed()
    await node.blocked()
    await expect(page.locator("#status")).to_contain_text("research/train-0", timeout=20_000)
    await _draw(page, "blocked", to="gpus")
    await node.unblocked()
    await node.refused()
    await expect(page.locator("#status")).to_contain_text("no-placement", timeout=20_000)
    await _draw(page, "refused", to="gpus")
    await node.lost()
    await expect(page.locator(".gpu.down")).to_be_visible(timeout=20_000)
    await expect(page.locator("#status")).to_contain_text("gpu-unknown", timeout=20_000)
    await _draw(page, "lost", to="gpus")


async def _again(browser: Browser, url: str, name: str, options: dict[str, Any]) -> None:
    async with opened(browser, url, **options) as watched:
        await expect(watched.page.locator("#live")).to_have_text("live")
        await _draw(watched.page, name, to="gpus" if name == "phone" else "")


async def _draw(page: Page, name: str, to: str = "", of: str = "") -> None:
    """The whole page, or from its top to the end of a part, or one part; as few colours as do not show."""
    await asyncio.sleep(1.0)  # bars move to where they belong
    clip = None
    if to or of:
        box = await page.locator(f"#{to or of}").bounding_box()
        assert box is not None
        view = await page.evaluate("[document.documentElement.clientWidth, scrollY]")
        top = box["y"] + view[1] - _MARGIN if of else 0.0
        left = box["x"] - _MARGIN if of else 0.0
        width = box["width"] + 2 * _MARGIN if of else float(view[0])
        clip = {"x": left, "y": top, "width": width, "height": box["y"] + view[1] + box["height"] + _MARGIN - top}
    shot = await page.screenshot(full_page=True, clip=clip)  # type: ignore[arg-type]
    small = (
        Image.open(io.BytesIO(shot))
        .convert("RGB")
        .quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    )
    file = PICTURES / f"{name}.png"
    small.save(file, optimize=True)
    size = file.stat().st_size
    print(f"{file.relative_to(PICTURES.parent.parent)}: {small.width} x {small.height}, {size / 1000:.0f} kB")
    if size > _MOST_BYTES:
        sys.exit(f"{file} has {size} bytes; at most {_MOST_BYTES} go into the repository")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except NoChromiumError as error:
        sys.exit(str(error))
