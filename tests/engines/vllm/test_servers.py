"""Several servers: draws are spread, those that fail are set aside and come back, and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from power_sampling import EngineError, NoServerError
from power_sampling.engines.vllm import servers as servers_module
from tests.support.law import TABLE
from tests.support.vllm_server import ScriptedServer, sampler_of

LONG: dict[str, Any] = {"sampler": "ancestral", "max_new_tokens": 24, "alpha": 1.0}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers_module, "FIRST_LOOK", 0.05)
    monkeypatch.setattr(servers_module, "PATIENCE", 0.3)


@contextmanager
def failing(server: ScriptedServer, failure: str, after: int = 0) -> Iterator[None]:
    server.failure, server.fails_after = failure, after
    try:
        yield
    finally:
        server.failure, server.fails_after = "", None


def test_draws_of_one_prompt_stay_together_and_prompts_are_spread(pair: list[ScriptedServer]) -> None:
    model = sampler_of(*pair, sampler={"name": "best_of_n", "num_completions": 4})
    for server in pair:
        server.delay = 0.2  # all four are under way together
    model.generate(["a", "b", "ab", "ba"])
    at = [{tuple(draw["prompt"]) for draw in server.draws} for server in pair]
    assert not at[0] & at[1]
    assert [len(prompts) for prompts in at] == [2, 2]


@pytest.mark.parametrize("failure", ["broken", "error", "status", "hang"])
def test_a_draw_goes_on_elsewhere_behind_what_has_come(
    pair: list[ScriptedServer], failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers_module, "PATIENCE", 10.0)  # the other one answers in the end, on a busy machine too
    model = sampler_of(*pair, server_timeout=1.0 if failure == "hang" else 30.0, **LONG)
    first, second = pair
    with failing(first, failure, after=2):
        found = model.complete("c", n=6, stop=["cccc"])
    assert all(each.token_logp for each in found)
    for each in found:
        scores = TABLE.score((2,), each.tokens, 1.0).tolist()
        assert each.token_logp == pytest.approx(scores, abs=1e-9)
    moved = [draw for draw in second.draws if len(draw["prompt"]) > 1]
    seeds = {draw["seed"] for draw in first.draws}
    if failure in ("broken", "error"):
        assert moved and all(len(draw["prompt"]) + draw["max_tokens"] == 25 for draw in moved)
        assert not seeds & {draw["seed"] for draw in moved}, "the noise of the first tokens would be drawn again"


def test_a_stream_is_never_taken_back(pair: list[ScriptedServer]) -> None:
    model = sampler_of(*pair, **LONG)
    model._model.load()
    for server in pair:
        server.delay = 0.02
    with failing(pair[0], "broken", after=3):
        *chunks, last = model.stream("c", seed=4)
    assert last.completion is not None
    assert "".join(chunk.text for chunk in [*chunks, last]) == last.completion.text


def test_a_server_that_comes_back_is_used_again(pair: list[ScriptedServer]) -> None:
    model = sampler_of(*pair, **LONG)
    with failing(pair[0], "status"):
        model.complete("a", n=4)
    states = model._model.load().engine.client.servers.every  # type: ignore[attr-defined]
    deadline = time.monotonic() + 10
    while not all(server.is_up for server in states) and time.monotonic() < deadline:
        time.sleep(0.02)
    pair[0].calls.clear()
    model.generate(["a", "b"], n=4)
    assert pair[0].draws


def test_when_none_is_left_the_error_says_why_of_each(pair: list[ScriptedServer], monkeypatch: Any) -> None:
    model = sampler_of(*pair, **LONG)
    model._model.load()
    monkeypatch.setattr(servers_module, "FIRST_LOOK", 30.0)
    with (
        failing(pair[0], "status"),
        failing(pair[1], "error"),
        pytest.raises(NoServerError, match=rf"{pair[0].url}: HTTP 503: EngineCore died; {pair[1].url}: EngineCore"),
    ):
        model.complete("a")


def test_a_server_that_answers_and_fails_again_and_again_is_not_asked_for_ever(server: ScriptedServer) -> None:
    model = sampler_of(server, **LONG)
    model._model.load()
    server.calls.clear()
    with failing(server, "status"), pytest.raises(NoServerError):
        model.complete("a")
    assert len(server.draws) <= 6


def test_what_a_server_refuses_is_the_requests_own(server: ScriptedServer, folder: Path) -> None:
    model = sampler_of(server, **LONG)
    model._model.load()
    server.max_logprobs = 1  # as if it had been started anew
    server.calls.clear()
    with pytest.raises(EngineError, match=r"HTTP 400.*greater than max allowed: 1"):
        model.complete("a")
    assert len(server.draws) == 1
    server.max_logprobs = 65
    assert model.complete("a").tokens
