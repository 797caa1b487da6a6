"""The baselines: best of N, and the majority's answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from power_sampling import Completion, Diagnostics, InputError, PowerSampler, vote
from power_sampling.config import BestOfN, GenerationConfig
from power_sampling.samplers import NumpyRng, best_of_n, sampler_for
from power_sampling.testing import TableLM, drive, run_draws
from power_sampling.types import Law
from tests.exact import EOS, PROMPT, World
from tests.test_constraints import legal
from tests.tiny import tiny_model, tiny_tokenizer


def test_the_best_has_the_law_of_the_maximum() -> None:
    """Of 3 completions from q: P(best = x) = (sum of q up to x)^3 - (the same below x)^3, in the order of log p. 800
    runs within 5 standard errors: a right sampler fails with probability below 2e-5."""
    world = World(3, 3, 2, Law(2.0, 1.0, 0.5))
    order = np.argsort([x.logp.sum() for x in world.chains])
    q = np.exp([(2 * x.logp - x.log_weight).sum() for x in world.chains])[order]
    exact = np.diff(np.cumsum(q) ** 3, prepend=0.0)
    counts, n, handle = np.zeros(len(q)), 800, world.lm.open(PROMPT, EOS)
    for seed in range(n):
        sampler = best_of_n(BestOfN(num_completions=3), world.law, 3, NumpyRng(seed))
        answer = drive(sampler, lambda r: run_draws(world.lm, handle, r.draws))
        assert answer.exactness == "approximate"
        counts[world.index[answer.chain.tokens]] += 1
    assert (np.abs(counts[order] / n - exact) < 5 * np.sqrt(exact * (1 - exact) / n) + 1e-9).all()


def test_the_best_is_legal_where_any_is() -> None:
    lm = TableLM(3, seed=5)
    handle = lm.open((1,), legal(["1", "2222222"], 4))
    config = GenerationConfig(sampler=BestOfN(num_completions=12), max_new_tokens=4, alpha=1.0)
    for seed in range(20):
        sampler = sampler_for(config, 4, NumpyRng(seed), lambda: False, is_constrained=True)
        assert drive(sampler, lambda r: run_draws(lm, handle, r.draws)).chain.end in ("eos", "length")


def completion(text: str, logp: float) -> Completion:
    numbers: dict[str, Any] = dict.fromkeys(Diagnostics.__dataclass_fields__)
    return Completion(
        text=text,
        tokens=(),
        logp=logp,
        token_logp=(),
        token_text=(),
        finish_reason="stop",
        stop=None,
        prompt_tokens=1,
        seed=0,
        diagnostics=Diagnostics(**numbers),
    )


def test_the_majority_wins_and_its_likeliest_completion_is_returned() -> None:
    drawn = [completion(*each) for each in [("a: 1", -1), ("b: 2", -5), ("c: 2 ", -3), ("none", -0.1), ("none", -0.2)]]
    answer_of = lambda c: c.text.split(":")[1].strip() if ":" in c.text else None  # noqa: E731 - a def would be longer than what it says
    assert vote(drawn, key=answer_of).text == "c: 2 "
    assert vote(drawn).text == "none"
    assert vote(drawn[:2], key=answer_of).text == "a: 1"  # a tie: the likelier
    assert vote(drawn[3:], key=answer_of).text == "none"  # nobody answers
    with pytest.raises(InputError, match="no completions"):
        vote([])


def test_both_through_the_whole_engine() -> None:
    runtime = PowerSampler.from_model(tiny_model(), tiny_tokenizer(), max_new_tokens=6, alpha=2.0, seed=0)
    drawn = runtime.generate(["a"], n=5, sampler="ancestral", choices=["x", "y"], temperature=20.0)
    winner = vote(drawn)
    assert sum(c.text == winner.text for c in drawn) >= 3
    best = runtime.complete("a", sampler={"name": "best_of_n", "num_completions": 3, "proposal_temperature": 1.0})
    assert best.diagnostics.sampler == "best_of_n" and best.diagnostics.exactness == "approximate"
    assert best.diagnostics.tokens_decoded >= len(best.tokens)


@pytest.mark.parametrize(
    "sampler",
    [
        {"name": "particle_gibbs", "num_particles": 3, "num_steps": 2, "block_size": 2},
        {"name": "parallel_tempering", "num_rungs": 3, "num_steps": 2, "num_tuning_steps": 1},
        {"name": "parallel_tempering", "num_rungs": 2, "num_steps": 2, "cut": "entropy"},
        {"name": "metropolis_hastings", "prefetch": 3, "cut": "entropy", "num_steps": 4},
        {"name": "sequential_monte_carlo", "num_runs": 2, "resampling": "chopthin", "block_size": 2},
        {"name": "lookahead", "block_size": 3, "num_candidates": 3, "num_rollouts": 2},
    ],
    ids=lambda s: s["name"],
)
@pytest.mark.parametrize("choices", [None, ["ab", "ba", "c"]], ids=["free", "constrained"])
def test_every_new_sampler_runs_through_the_whole_engine(sampler: dict[str, Any], choices: list[str] | None) -> None:
    """In one batch with others, streamed, at alpha 1 and above; what is stored is what the model says."""
    runtime = PowerSampler.from_model(tiny_model(), tiny_tokenizer(), sampler=sampler, max_new_tokens=8, alpha=2.0)
    drawn = runtime.generate(["a", "bc"], n=2, seed=3, choices=choices, temperature=3.0)
    engine = runtime._model.load().engine
    for prompt, c in zip(["a", "a", "bc", "bc"], drawn, strict=True):
        assert choices is None or c.text in choices
        scored = engine.score(runtime.encode(prompt), c.tokens, 3.0)
        assert c.token_logp == pytest.approx(scored.tolist(), abs=1e-4)
        if sampler["name"] == "parallel_tempering":
            assert c.diagnostics.curve is not None and len(c.diagnostics.curve) == sampler["num_rungs"]
    *_, last = runtime.stream("a", seed=3, choices=choices, temperature=3.0)
    assert last.completion is not None and last.completion.tokens == drawn[0].tokens
    assert runtime.complete("a", alpha=1.0, choices=choices).diagnostics.exactness in (
        "exact",
        "asymptotic",
        "approximate",
    )
