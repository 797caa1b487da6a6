"""The engine over servers that are well: its laws, its numbers, what it cannot do."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from power_sampling import ConfigurationError, EngineError, PowerSampler
from power_sampling.engines.protocol import LanguageModel, Peeks, Ranks, StepsOnHost
from power_sampling.testing import TableLM, check_language_model, completions, power_law
from power_sampling.types import Law, Termination
from tests.support.law import ALPHA, HORIZON, TABLE, assert_law, exact_law
from tests.support.tiny import tiny_tokenizer
from tests.support.vllm_server import ScriptedServer, sampler_of, scripted

EOS = Termination(frozenset({3}))
TWO = {"name": "sequential_monte_carlo", "num_particles": 2}


def test_the_laws_of_an_engine(server: ScriptedServer) -> None:
    engine = sampler_of(server)._model.load().engine
    for protocol in (LanguageModel, Peeks, Ranks, StepsOnHost):
        assert isinstance(engine, protocol)
    check_language_model(engine, (0, 1), num_draws=30, horizon=2)


def texts(model: PowerSampler, n: int) -> list[str]:
    return [done.text for done in model.complete("a", n=n)]


@pytest.mark.slow
def test_the_law_is_p_to_the_alpha(server: ScriptedServer) -> None:
    model = sampler_of(server, sampler={"name": "rejection", "num_parallel": 4})
    assert_law(texts(model, 60), exact_law(ALPHA))
    assert_law(texts(model.with_settings(sampler="ancestral"), 60), exact_law(1.0))


@pytest.mark.slow
def test_the_law_on_the_likeliest_tokens_is_the_one_it_is_labelled_with(server: ScriptedServer) -> None:
    alpha = 1.1
    model = sampler_of(server, sampler={"name": "rejection", "num_parallel": 2}, support_size=2, alpha=alpha)
    law: Counter[str] = Counter()
    chains = completions(TABLE, (0,), EOS, HORIZON, Law(alpha, 1.0, 1 / alpha))

    def is_drawn(tokens: tuple[int, ...]) -> bool:
        contexts = [TABLE.logits((0, *tokens[:t])) for t in range(len(tokens))]
        return all(logits[t] >= np.sort(logits)[-2] for logits, t in zip(contexts, tokens, strict=True))

    kept = [chain for chain in chains if is_drawn(chain.tokens)]
    for chain, probability in zip(kept, power_law(kept, alpha), strict=True):
        law["".join("abc"[token] for token in chain.tokens if token < 3)] += float(probability)
    done = model.complete("a", n=60)
    assert_law([each.text for each in done], law)
    assert len(law) < len(exact_law(alpha))
    plain = model.complete("a", n=60, sampler="ancestral")  # of all tokens: it needs no normaliser
    assert_law([each.text for each in plain], exact_law(1.0))
    assert plain[0].diagnostics.support is None
    diagnostics = done[0].diagnostics
    assert (diagnostics.support, diagnostics.exactness, diagnostics.error_bound) == ("top 2", "exact", 0.0)
    inside = [np.exp(TABLE.logits((0, *done[0].tokens[:t]))) for t in range(len(done[0].tokens))]
    mass = np.prod([np.sort(p)[-2:].sum() / p.sum() for p in inside])
    assert diagnostics.mass_left_out == pytest.approx(1 - mass, abs=1e-6)


def test_full_support_says_its_bound_and_is_approximate_beyond(server: ScriptedServer) -> None:
    model = sampler_of(server, support="full", support_size=2, sampler=TWO, seed=1)
    found = model.complete("a").diagnostics
    assert found.support is None and found.error_bound is not None and found.error_bound > 1e-3
    assert found.exactness == "approximate"
    cold = model.complete("a", alpha=60.0, sampler={"name": "metropolis_hastings", "num_steps": 2}).diagnostics
    assert cold.exactness == "asymptotic" and cold.error_bound < 1e-6


@pytest.mark.parametrize(
    "sampler",
    [
        "metropolis_hastings",
        *(pytest.param(s, marks=pytest.mark.slow) for s in ("sequential_monte_carlo", "particle_gibbs", "best_of_n")),
    ],
)
def test_every_sampler_answers_and_streams(server: ScriptedServer, sampler: str) -> None:
    model = sampler_of(server, sampler=sampler, max_new_tokens=6, stop=["bc"], top_logprobs=2)
    chunks = list(model.stream("ab"))
    done = chunks[-1].completion
    assert done is not None and "bc" not in done.text
    assert "".join(chunk.text for chunk in chunks) == done.text
    scores = TABLE.score((0, 1), done.tokens, 1.0)
    assert done.token_logp == pytest.approx(scores.tolist(), abs=1e-9)
    for t, ranked in enumerate(done.top_logprobs):
        logp = np.sort(TABLE.logits((0, 1, *done.tokens[:t])))[::-1]
        assert [each.logp for each in ranked] == pytest.approx((logp - np.logaddexp.reduce(logp))[:2].tolist())


@pytest.mark.slow
def test_a_ladder_of_powers_and_another_temperature_where_all_is_listed(server: ScriptedServer) -> None:
    model = sampler_of(server, sampler="parallel_tempering", temperature=1.3)
    assert model.complete("a").diagnostics.exactness == "asymptotic"


def test_greedy_is_greedy(server: ScriptedServer) -> None:
    found = sampler_of(server, temperature=0.0).complete("a")
    best = [int(TABLE.logits((0, *found.tokens[:t])).argmax()) for t in range(len(found.tokens))]
    assert list(found.tokens) == best


def test_a_draw_from_a_cut_sends_what_is_kept_and_a_seed_of_its_own(server: ScriptedServer) -> None:
    sampler_of(server, sampler={"name": "metropolis_hastings", "num_steps": 12, "block_size": 3}, seed=1).complete("ab")
    contexts: dict[int, Any] = {}  # what was dropped may be drawn again
    assert all(contexts.setdefault(draw["seed"], draw["prompt"]) == draw["prompt"] for draw in server.draws)
    assert len(contexts) >= 6
    assert any(len(draw["prompt"]) > 2 for draw in server.draws)
    for draw in server.draws:
        assert draw["prompt"][:2] == [0, 1] and len(draw["prompt"]) + draw["max_tokens"] <= 2 + 3
        told = {name: draw[name] for name in ("top_p", "min_p", "repetition_penalty", "ignore_eos", "stop_token_ids")}
        assert told == {
            "top_p": 1.0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "ignore_eos": True,
            "stop_token_ids": [3],
        }


def test_prefetch_and_floors_change_nothing_where_servers_draw_the_same_from_a_seed(server: ScriptedServer) -> None:
    sampler = {"name": "metropolis_hastings", "num_steps": 6, "block_size": 3}
    ways = [{"prefetch": 0, "early_rejection": False}, {"prefetch": 0}, {"prefetch": 6}]
    found = [sampler_of(server, sampler=sampler | way, max_new_tokens=6, seed=9).complete("a") for way in ways]
    assert len({each.tokens for each in found}) == 1


def test_what_servers_used_is_told(server: ScriptedServer) -> None:
    found = sampler_of(server, sampler="ancestral").complete("ab").diagnostics
    assert (found.tokens_prefilled, found.tokens_reused) == (1, 1)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"sampler": {"name": "metropolis_hastings", "cut": "entropy"}}, "cut='uniform'"),
        ({"choices": ["a", "b"]}, "choices: this engine"),
        ({"json_schema": {"type": "object"}}, "json_schema: this engine"),
        ({"top_p": 0.5}, "top_p: this engine"),
        ({"temperature": 0.7}, "temperature=0.7: this engine is told p at temperature 1 alone"),
        ({"alpha": 400.0}, "Lower alpha to 100"),
    ],
    ids=str,
)
def test_what_it_cannot_do_is_refused_before_anything_is_asked(
    server: ScriptedServer, fields: dict[str, Any], match: str
) -> None:
    model = sampler_of(server, support_size=2)
    model._model.load()
    server.calls.clear()
    with pytest.raises(ConfigurationError, match=match):
        model.complete("a", **fields)
    assert not server.calls


def test_a_limit_of_the_server_is_an_error_and_no_short_answer(server: ScriptedServer) -> None:
    model = sampler_of(server, max_new_tokens=6)
    model._model.load()
    server.max_tokens = 2
    with pytest.raises(EngineError, match="by a limit of its own"):
        model.complete("c", sampler="ancestral", n=8, seed=1)


def test_an_abandoned_request_closes_its_connections(server: ScriptedServer) -> None:
    model = sampler_of(server, max_new_tokens=60, sampler="best_of_n", bad_words=[])
    model._model.load()
    server.delay = 0.02

    async def run() -> None:
        task = asyncio.create_task(model.acomplete("a"))
        while not server.open:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(200):
            if not server.open:
                return
            await asyncio.sleep(0.02)

    asyncio.run(run())
    assert server.open == 0


def test_draws_under_way_are_bounded(server: ScriptedServer) -> None:
    model = sampler_of(server, sampler={"name": "best_of_n", "num_completions": 24}, max_requests=4)
    assert model.complete("a").tokens
    assert 1 <= server.most_open <= 4


def test_a_wide_vocabulary_is_drawn_from_its_likeliest(tmp_path: Path) -> None:
    """What the server does not list is not needed."""
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    with scripted(tmp_path, TableLM(len(tokenizer), 7)) as (server,):
        server.tokenizer = tokenizer
        found = sampler_of(server, sampler=TWO, seed=1).complete("a").diagnostics
        assert found.support == "top 64" and 0.1 < (found.mass_left_out or 0) < 0.9
