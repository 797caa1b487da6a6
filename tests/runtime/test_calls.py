"""What the ways of asking share: several completions per prompt, and progress."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from power_sampling import ConfigurationError, PowerSampler
from tests.support.tiny import tiny_model, tiny_tokenizer

MH = {"name": "metropolis_hastings", "num_steps": 2, "block_size": 4}
TURN = [{"role": "user", "content": "hi"}]
OTHER = [{"role": "user", "content": "you"}]


@pytest.fixture(scope="module")
def sampler() -> PowerSampler:
    return PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), sampler=MH, max_new_tokens=8, seed=3)


def ask(method: Any, *args: Any, **kwargs: Any) -> Any:
    """The answer of a method or of its async twin."""
    answer = method(*args, **kwargs)
    return asyncio.run(answer) if inspect.isawaitable(answer) else answer


# ------------------------------------------------------------ n


@pytest.mark.parametrize("name", ["complete", "acomplete", "chat", "achat"])
def test_n_gives_so_many_completions_of_each_prompt(sampler: PowerSampler, name: str) -> None:
    method, (one, other) = getattr(sampler, name), ("ab", "c") if "complete" in name else (TURN, OTHER)
    single = [[ask(method, prompt, seed=3 + i).tokens for i in range(3)] for prompt in (one, other)]
    several = ask(method, one, n=3)
    assert [completion.tokens for completion in several] == single[0]
    assert [completion.seed for completion in several] == [3, 4, 5]
    assert [completion.tokens for completion in ask(method, [one, other], n=3)] == single[0] + single[1]
    assert [completion.tokens for completion in ask(method, one, n=1)] == single[0][:1]
    assert [completion.tokens for completion in ask(method, [one], n=None)] == single[0][:1]
    assert ask(method, one, n=None).tokens == single[0][0]


@pytest.mark.parametrize("name", ["complete", "acomplete", "chat", "achat", "generate", "agenerate"])
@pytest.mark.parametrize("n", [0, -1, "2", 1.5])
def test_n_is_a_number_of_completions(sampler: PowerSampler, name: str, n: Any) -> None:
    prompt: Any = TURN if "chat" in name else ["ab"]
    for show_progress in (False, True):
        with pytest.raises(ConfigurationError, match="n: expected a whole number"):
            ask(getattr(sampler, name), prompt, n=n, show_progress=show_progress)


# ------------------------------------------------------------ progress


@pytest.mark.parametrize("name", ["complete", "acomplete", "chat", "achat", "generate", "agenerate"])
def test_every_way_of_waiting_shows_progress(
    sampler: PowerSampler, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts: Any = [TURN, OTHER] if "chat" in name else ["ab", "c"]
    plain = ask(getattr(sampler, name), prompts)
    assert "%" not in capsys.readouterr().err
    shown = ask(getattr(sampler, name), prompts, show_progress=True)
    assert [completion.tokens for completion in shown] == [completion.tokens for completion in plain]
    assert "100%" in capsys.readouterr().err


def test_progress_of_a_call_that_fails_ends_without_a_full_bar(
    sampler: PowerSampler, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigurationError):
        asyncio.run(sampler.acomplete("ab", show_progress=True, alpha=0.5))
    told = capsys.readouterr().err
    assert "0%" in told and "100%" not in told
