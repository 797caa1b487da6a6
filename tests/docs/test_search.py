"""The search of the site that `make docs` has built, on a server and in a folder that is opened."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.browser import chromium, visited
from tests.support.pages import ROOT

SITE = ROOT / "build" / "site"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SITE / "llms.txt").exists(), reason="`make docs` has not built the site"),
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(params=["served", "opened"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "opened":
        yield SITE.as_uri()
        return
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_word_finds_its_page_and_nothing_is_fetched_from_elsewhere(address: str) -> None:
    with chromium() as browser, visited(browser, f"{address}/index.html") as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.click(".md-search__input")
        page.get_by_text("Type to start searching").wait_for()  # it has read its index
        page.locator(".md-search__input").press_sequentially("metropolis")
        page.locator(".md-search-result__link[href*='samplers.html']").first.click()
        page.wait_for_url("**/samplers.html*")
        assert page.locator("h1").inner_text().startswith("Samplers")
        assert asked and all(url.startswith(address) for url in asked)
