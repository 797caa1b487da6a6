"""A headless Chromium, as a person's browser: pages that are opened here may not say a word on their console."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

WIDTHS = (1280, 390)
QUIET = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's own; skips where there is none (Debian's package is `chromium`)."""
    path = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
    )
    if not path:
        pytest.skip("there is no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*QUIET])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visited(browser: Browser, address: str, width: int = 1280) -> Iterator[Page]:
    """The page. In the end it must have complained of nothing, and be no wider than its window."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    problems: list[str] = []
    page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: problems.append(str(error)))
    try:
        page.goto(address)
        yield page
        assert not problems
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    finally:
        page.close()
