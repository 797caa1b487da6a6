"""Traces as a record, on the terminal and as a page that a browser plays."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from rich.console import Console

from power_sampling import PowerSampler
from power_sampling.cli.tracing import MOST_SHOWN, FramePrinter, sentence
from power_sampling.tracing import Trace, html, traced
from power_sampling.types import Moved, Weighed
from tests.support.browser import WIDTHS, chromium, visited
from tests.support.server import spoken
from tests.support.tiny import tiny_model, tiny_tokenizer

DOCS = Path(__file__).parents[2] / "docs" / "tracing.md"
BAD = "</script><img src=x onerror=alert(1)> <!--"
ASKED: Any = [{"role": "user", "content": BAD}]
MH: dict[str, Any] = {"name": "metropolis_hastings", "num_steps": 4, "block_size": 5}
ONCE: dict[str, Any] = {"name": "metropolis_hastings", "num_steps": 1, "block_size": 60}
SMC: dict[str, Any] = {"name": "sequential_monte_carlo", "num_particles": 12, "block_size": 3, "ess_threshold": 1}


@pytest.fixture(scope="module")
def model() -> PowerSampler:
    return PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=10, alpha=1.3, seed=1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def page_of(trace: Trace, folder: Path) -> str:
    path = folder / "trace.html"
    path.write_text(html(trace), encoding="utf-8")
    return path.as_uri()


def test_the_answer_is_the_one_without_a_trace(model: PowerSampler) -> None:
    for sampler in (MH, SMC):
        trace = traced(model, "hello", sampler=sampler)
        assert trace.completion.tokens == model.complete("hello", sampler=sampler).tokens
        told = json.loads(json.dumps(trace.to_dict(), allow_nan=False))
        assert (told["text"], told["prompt"], len(told["frames"])) == (
            trace.completion.text,
            "hello",
            len(trace.frames),
        )
    (frame,) = traced(model, [{"role": "user", "content": "hi"}], sampler="ancestral").frames
    assert frame.to_dict()["kind"] == "extended"


def test_the_page_stands_alone_and_runs_nothing_that_a_model_says() -> None:
    trace = traced(spoken(lambda _: [BAD], max_new_tokens=60), ASKED, sampler=ONCE)
    page = html(trace)
    assert BAD not in page and "<img" not in page and not re.search(r"@import|url\(|https?://(?!www\.w3\.org)", page)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    assert data and json.loads(data[1])[0]["chains"][0]["new"] == BAD == trace.completion.text
    assert "unsafe" not in page and "default-src &#39;none&#39;" in page


def test_a_browser_plays_the_moves(model: PowerSampler, browser: Browser, tmp_path: Path) -> None:
    trace = traced(model, "hello", sampler=MH)
    steps = [frame.event.step for frame in trace.frames]
    moves = [i for i, step in enumerate(steps) if isinstance(step, Moved)]
    accepted = next(i for i in moves if steps[i].accepted is not None)  # type: ignore[attr-defined]
    rejected = next(i for i in moves if steps[i].accepted is None)  # type: ignore[attr-defined]
    with visited(browser, page_of(trace, tmp_path), WIDTHS[0]) as page:
        slider, says = page.get_by_role("slider", name="Step"), page.get_by_role("status")
        assert says.inner_text().startswith("Continued from token 0")
        for at, word, mark in ((accepted, "accepted", "ins"), (rejected, "rejected", "del")):
            slider.fill(str(at))
            assert word in says.inner_text() and f"{at + 1} of {len(steps)}" in page.inner_text("#trace")
            frame = trace.frames[at]
            assert page.locator(f"#trace {mark}").first.text_content() == frame.texts[0][frame.marks[0] :]
        slider.focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        assert f"2 of {len(steps)}" in page.inner_text("#trace")
        page.get_by_role("button", name="Last step").click()
        tried = page.locator("#trace dl").inner_text().split()
        count = sum(steps[i].accepted is not None for i in moves)  # type: ignore[attr-defined]
        assert " ".join(tried[tried.index("accepted") :][:4]) == f"accepted {count} of {len(moves)}"
        page.get_by_role("button", name="Play").click()
        page.get_by_role("button", name="Pause").click()
        assert page.get_by_role("img", name="log p against steps").count() == 1


def test_a_browser_shows_particles_and_their_genealogy(model: PowerSampler, browser: Browser, tmp_path: Path) -> None:
    trace = traced(model, "hello", sampler=SMC)
    blocks = [frame for frame in trace.frames if isinstance(frame.event.step, Weighed)]
    assert len(blocks) > 2 and blocks[0].event.step.ancestors is not None  # type: ignore[attr-defined]
    survivors = set(range(SMC["num_particles"]))
    for block in reversed(blocks[:-1]):
        ancestors = block.event.step.ancestors  # type: ignore[attr-defined]
        survivors = {i if ancestors is None else ancestors[i] for i in survivors}
    with visited(browser, page_of(trace, tmp_path), WIDTHS[1]) as page:
        page.get_by_role("slider", name="Step").fill(str(len(blocks) - 1))
        particles = page.get_by_role("list", name="Chains of this step").get_by_role("listitem")
        assert particles.count() == SMC["num_particles"]
        assert [t.strip() for t in particles.locator(".text").all_text_contents()] == [
            t.strip() for t in blocks[-1].texts
        ]
        genealogy = page.get_by_role("img", name="Genealogy")
        assert genealogy.locator("circle").count() == SMC["num_particles"] * len(blocks)
        assert f": {len(survivors)} of the first generation" in (genealogy.get_attribute("aria-label") or "")


def test_a_browser_shows_what_a_model_says_as_text(browser: Browser, tmp_path: Path) -> None:
    trace = traced(spoken(lambda _: [BAD], max_new_tokens=60), ASKED, sampler=ONCE)
    with visited(browser, page_of(trace, tmp_path)) as page:
        assert page.locator("#trace .text").first.text_content() == page.text_content("#answer") == BAD
        assert page.locator("img[src]").count() == 0


def test_the_terminal_has_a_line_for_every_step(model: PowerSampler) -> None:
    for sampler in (MH, SMC, "particle_gibbs", "best_of_n", {"name": "parallel_tempering", "num_steps": 2}):
        out = io.StringIO()
        printer = FramePrinter(Console(file=out, width=200, color_system=None))
        trace = traced(model, "hello", sampler=sampler, show=printer.show)
        heads = [line for line in out.getvalue().splitlines() if line.startswith("step ")]
        assert heads == [f"step {i}  {sentence(frame)}" for i, frame in enumerate(trace.frames, 1)]
    assert "accepted" in out.getvalue() and "swapped" in out.getvalue()


def test_the_terminal_is_not_steered_and_not_flooded(model: PowerSampler) -> None:
    out = io.StringIO()
    hostile, printer = "\x1b[2Jgone\nnext", FramePrinter(Console(file=out, width=200))
    traced(spoken(lambda _: [hostile], max_new_tokens=60), ASKED, sampler=ONCE, show=printer.show)
    assert "\x1b[2J" not in out.getvalue() and "\\x1b[2Jgone⏎next" in out.getvalue()
    out = io.StringIO()
    many = {"name": "best_of_n", "num_completions": 40}
    traced(model, "hello", sampler=many, show=FramePrinter(Console(file=out, width=200)).show)
    assert "more" in out.getvalue() and len(out.getvalue().splitlines()) == MOST_SHOWN + 2


@pytest.mark.slow
def test_what_the_documents_print_runs(embedded: PowerSampler, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    found: dict[str, Any] = {}
    exec(code, found)
    assert capsys.readouterr().out.count("Moved(") and found["page"].startswith("<!doctype html>")
