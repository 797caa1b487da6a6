"""The page at `/` in a headless Chromium: two answers, the moves between, what is sent, and code that runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page

from power_sampling import PowerSampler
from power_sampling.server import app
from power_sampling.types import Moved
from tests.support.browser import WIDTHS, chromium, visited
from tests.support.server import listening, spoken
from tests.support.tiny import tiny_model, tiny_tokenizer

BAD = "<img src=x onerror=alert(1)>'\"$(id)\u2028"
NAME = "<i>M</i>"


@pytest.fixture(scope="module")
def sampler() -> PowerSampler:
    return PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), alpha=1.3, seed=1)


@pytest.fixture(scope="module")
def url(sampler: PowerSampler) -> Iterator[str]:
    with listening(app(sampler, name=NAME)) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def set_up(page: Page, **controls: Any) -> None:
    for name, value in controls.items():
        page.locator(f"#{name}").fill(str(value))


def asked(page: Page) -> list[Any]:
    """Asks, waits for the end, and returns the bodies that were sent."""
    sent: list[Any] = []
    page.on("request", lambda r: sent.append(json.loads(r.post_data or "null")) if r.method == "POST" else None)
    page.get_by_role("button", name="Ask").click()
    page.locator("#state", has_text="Done.").wait_for(timeout=30_000)
    return sent


@pytest.mark.parametrize("width", WIDTHS)
def test_two_answers_and_the_moves_between(
    url: str, sampler: PowerSampler, browser: Browser, width: int, sizes: dict[str, Any]
) -> None:
    with visited(browser, url, width) as page:
        set_up(page, prompt="hello", tokens=12, seed=3, **sizes)
        plain, power = asked(page)
        assert plain["sampler"] == "plain" and plain["messages"] == power["messages"]
        options = {"name": "metropolis_hastings", "num_steps": sizes["steps"]}
        assert (power["sampler"], power["alpha"], power["trace"]) == (options, sizes["alpha"], True)
        question: Any = plain["messages"]
        chunks = list(
            sampler.stream(question, with_frames=True, sampler=options, alpha=sizes["alpha"], seed=3, max_new_tokens=12)
        )
        expected = chunks[-1].completion
        frames = [frame for chunk in chunks for frame in chunk.frames]
        assert expected is not None and page.text_content("#power") == expected.text
        drawn = sampler.chat(question, sampler="ancestral", seed=3, max_new_tokens=12)
        assert page.text_content("#plain") == drawn.text
        assert f"1 of {len(frames)}" not in page.inner_text("#trace"), "the newest step is shown"
        moves = [i for i, frame in enumerate(frames) if isinstance(frame.event.step, Moved)]
        for at in moves[:4]:
            page.get_by_role("slider", name="Step", exact=True).fill(str(at))
            step, frame = frames[at].event.step, frames[at]
            mark = "del" if step.accepted is None else "ins"  # type: ignore[attr-defined]
            changed = frame.texts[0][frame.marks[0] :]
            assert page.locator(f"#trace {mark}").first.text_content() == changed or not changed
        assert f"decoded\n{expected.diagnostics.tokens_decoded}" in page.inner_text("#power-facts")


@pytest.fixture
def sizes() -> dict[str, Any]:
    return {"alpha": 1.25, "steps": 3}


@pytest.mark.parametrize("width", WIDTHS)
def test_controls_change_the_request(url: str, browser: Browser, width: int) -> None:
    with visited(browser, url, width) as page:
        assert page.locator("#steps").is_visible() and not page.locator("#particles").is_visible()
        page.locator("#sampler").select_option("sequential_monte_carlo")
        assert page.locator("#particles").is_visible() and not page.locator("#steps").is_visible()
        alpha = page.get_by_role("slider", name="alpha")
        alpha.focus()
        page.keyboard.press("ArrowLeft")
        assert page.inner_text("#alpha-shown") == "3.75"
        set_up(page, prompt="hello", tokens=20, particles=5)
        page.get_by_label("Complete the text").check()
        _, power = asked(page)
        assert power["prompt"] == "hello" and "messages" not in power
        assert power["sampler"] == {"name": "sequential_monte_carlo", "num_particles": 5} and power["alpha"] == 3.75
        assert page.get_by_role("img", name="Genealogy of 5 particles").count() == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_everything_has_a_name_and_is_reached_by_keys(url: str, browser: Browser, width: int) -> None:
    with visited(browser, url, width) as page:
        unnamed = page.evaluate(
            """[...document.querySelectorAll("input, select, textarea, button, progress, section")].filter(e =>
                !e.ariaLabel && !e.getAttribute("aria-labelledby") && !e.labels?.length && !e.textContent.trim()
            ).map(e => e.outerHTML)"""
        )
        assert not unnamed
        page.locator("#prompt").focus()
        reached = set()
        for _ in range(40):
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
            page.keyboard.press("Tab")
        assert {"prompt", "sampler", "alpha", "steps", "tokens", "seed", "key", "raw", "ask", "Copy as curl"} <= reached
        page.locator("#prompt").fill("hello")
        set_up(page, tokens=3, steps=1)
        page.locator("#prompt").press("Control+Enter")
        page.locator("#state", has_text="Done.").wait_for()
        colours = []
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert colours == ["rgb(255, 255, 255)", "rgb(13, 17, 23)"]


def test_what_is_said_is_text(browser: Browser) -> None:
    with listening(app(spoken(lambda _: [BAD]), name=NAME)) as url, visited(browser, url) as page:
        set_up(page, prompt=BAD, steps=1)
        asked(page)
        assert page.text_content("#plain") == page.text_content("#power") == BAD
        assert page.inner_text("h1") == NAME and page.locator("img[src], h1 i").count() == 0
        for kind in ("curl", "LangChain", "LlamaIndex"):
            page.get_by_role("button", name=f"Copy as {kind}").click()
            assert page.locator("#copied").inner_text()


def copied(page: Page, kind: str) -> str:
    page.locator(f"[data-code={kind}]").click()
    return page.text_content("#code") or ""


def test_its_curl_asks_the_same_and_no_code_holds_a_key(browser: Browser) -> None:
    with listening(app(spoken(lambda _: [BAD]), name=NAME, api_keys=["sesame"])) as url, visited(browser, url) as page:
        set_up(page, prompt=BAD, steps=1, key="sesame")
        _, power = asked(page)
        for kind in ("curl", "langchain", "llamaindex"):
            assert "sesame" not in copied(page, kind) and "YOUR_KEY" in copied(page, kind)
        sent = re.search(r"-d '(.*)'$", copied(page, "curl"), flags=re.DOTALL)
        assert sent
        body = json.loads(sent[1].replace("'\\''", "'"))
        assert body.items() == {k: v for k, v in power.items() if not k.startswith("stream") and k != "trace"}.items()
        answer = httpx.post(
            f"{url}/v1/chat/completions", json=body, headers={"Authorization": "Bearer sesame"}, timeout=30
        )
        assert answer.json()["choices"][0]["message"]["content"] == BAD


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["langchain", "llamaindex"])
def test_its_code_for_the_frameworks_runs(browser: Browser, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with listening(app(spoken(lambda _: [BAD]), name=NAME)) as url, visited(browser, url) as page:
        set_up(page, prompt=BAD, steps=1)
        exec(copied(page, kind), {})
        assert BAD in capsys.readouterr().out


def test_faults_are_told_and_a_stop_stops(browser: Browser) -> None:
    moves: Any = {"name": "metropolis_hastings", "num_steps": 3}
    slow = PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), sampler=moves)
    with listening(app(slow, name=NAME, api_keys=["sesame"])) as url:
        page = browser.new_page()  # which may complain of the 401
        page.goto(url)
        page.get_by_role("button", name="Ask").click()
        page.locator("#state", has_text="A key is needed").wait_for()
        set_up(page, key="sesame", tokens=80, steps=32)
        page.get_by_role("button", name="Ask").click()
        page.locator("#trace", has_text="1 of").wait_for()
        page.get_by_role("button", name="Stop").click()
        page.locator("#state", has_text="Stopped.").wait_for()
        page.close()


def test_the_page_is_static_open_and_strict(url: str) -> None:
    with listening(app(spoken(lambda _: ["x"]), name=NAME, api_keys=["sesame"])) as locked:
        answer = httpx.get(locked)
    assert answer.status_code == 200 and answer.text == httpx.get(url).text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "connect-src 'self'" in policy
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(""", answer.text)


def test_a_trace_comes_as_comments_and_with_streams_only(url: str) -> None:
    body: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 6, "n": 2}
    body |= {"sampler": {"name": "metropolis_hastings", "num_steps": 2}, "stream": True, "seed": 5}
    answers = {}
    for trace in (True, False):
        lines = httpx.post(f"{url}/v1/chat/completions", json={**body, "trace": trace}, timeout=30).text.split("\n")
        answers[trace] = "".join(
            choice["delta"].get("content", "")
            for line in lines
            if line.startswith("data: {")
            for choice in json.loads(line[6:])["choices"]
        )
        told = [json.loads(line.removeprefix(": trace ")) for line in lines if line.startswith(": trace ")]
        assert {one["choice"] for one in told} == ({0, 1} if trace else set())
        assert all(one["frame"]["kind"] in ("extended", "moved") for one in told)
    assert answers[True] == answers[False]
    refused = httpx.post(f"{url}/v1/chat/completions", json={**body, "trace": True, "stream": False})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "trace"
