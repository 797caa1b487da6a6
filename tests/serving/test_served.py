"""The seam holds for an engine that serves whole continuations: the same samplers, the same laws, nothing silently
left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from power_sampling import ConfigurationError, PowerSampler
from power_sampling.config import GenerationConfig
from power_sampling.engines.protocol import LanguageModel, Peeks, StepsOnHost
from power_sampling.samplers import NumpyRng, sampler_for
from power_sampling.serving.worker import Request, Worker
from power_sampling.testing import TableLM, check_language_model, completions, power_law
from power_sampling.text.rules import Rules
from power_sampling.types import Law, Termination
from tests.support.constraints import table_rules
from tests.support.exact import EOS, PROMPT, STOP, label
from tests.support.served import ServedLM
from tests.support.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def served(vocab_size: int = 3, seed: int = 5) -> ServedLM:
    return ServedLM(TableLM(vocab_size, seed, rules=table_rules), table_rules)


def runtime(**fields: Any) -> PowerSampler:
    rules = Rules(lambda ids: str(TOKENIZER.decode(list(ids), skip_special_tokens=True)))
    engine = ServedLM(TableLM(len(TOKENIZER), 1, spread=3.0), rules)
    return PowerSampler.from_model(engine, TOKENIZER, max_new_tokens=12, alpha=2.0, **fields)


def test_it_is_an_engine_and_nothing_more() -> None:
    engine = served()
    assert isinstance(engine, LanguageModel)
    assert not isinstance(engine, Peeks) and not isinstance(engine, StepsOnHost)


def test_the_laws_of_an_engine_with_a_generator_of_its_own() -> None:
    check_language_model(served(6), PROMPT, num_draws=200, horizon=5)


def test_another_law_behind_a_cut_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = ServedLM._drawn

    def too_hot(self: ServedLM, prompt: Any, draw: Any) -> Any:
        law = draw.law._replace(proposal_temperature=3.0) if draw.cut else draw.law
        c = drawn(self, prompt, draw._replace(law=law))
        logp, logq = c.logp, self.score((*prompt.tokens, *draw.chain.tokens[: draw.cut]), c.tokens, 0.5)
        return c._replace(log_weight=draw.law.alpha * logp - logq)

    monkeypatch.setattr(ServedLM, "_drawn", too_hot)
    with pytest.raises(AssertionError, match="was drawn"):
        check_language_model(served(6), PROMPT, num_draws=400, horizon=5)


SAMPLERS: list[Any] = [
    {"name": "metropolis_hastings", "num_steps": 24, "block_size": 4},
    {"name": "metropolis_hastings", "num_steps": 12, "block_size": 4, "num_proposals": 3},
    {"name": "sequential_monte_carlo", "num_particles": 48, "block_size": 1},
    {"name": "particle_gibbs", "num_particles": 6, "num_steps": 6},
]


@pytest.mark.parametrize("termination", [pytest.param(EOS, marks=pytest.mark.slow), STOP], ids=label)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: f"{s['name']}-{s.get('num_proposals', 1)}")
def test_the_law_through_the_worker_is_the_power_law(sampler: dict[str, Any], termination: Termination) -> None:
    """250 answers over some 20 completions, each frequency within 5 standard errors of the target and an allowance for
    chains and particles that are finite: a right engine fails with probability below 2e-5."""
    engine, horizon, alpha, n = served(), 4, 2.0, 250
    config = GenerationConfig(sampler=sampler, alpha=alpha, max_new_tokens=horizon)
    worker = Worker(engine)
    jobs = worker.submit_all(
        [
            Request(
                prompt=PROMPT,
                termination=termination,
                make_sampler=lambda over, seed=seed: sampler_for(config, horizon, NumpyRng(seed), over),
            )
            for seed in range(n)
        ]
    )
    outcomes = [job.future.result(120) for job in jobs]
    worker.close()
    chains = completions(engine.table, PROMPT, termination, horizon, Law(alpha, 1.0, 1 / alpha))
    target = power_law(chains, alpha)
    counts = np.zeros(len(chains))
    index = {x.tokens: i for i, x in enumerate(chains)}
    for outcome in outcomes:
        counts[index[outcome.answer.chain.tokens]] += 1
    assert (np.abs(counts / n - target) < 5 * np.sqrt(target * (1 - target) / n) + 1 / n + 0.02).all()
    assert sum(outcome.tokens_decoded for outcome in outcomes) == engine.drawn
    assert all(outcome.serial_steps > 0 for outcome in outcomes)


@pytest.mark.parametrize("sampler", ["ancestral", "metropolis_hastings", "sequential_monte_carlo", "best_of_n"])
def test_the_whole_path_answers_and_streams(sampler: str) -> None:
    model = runtime(sampler=sampler, stop=["a"])
    done = model.complete("Once")
    assert done.tokens and done.diagnostics.sampler == sampler
    chunks = list(model.stream("Once"))
    assert chunks[-1].completion is not None
    assert "".join(chunk.text for chunk in chunks) == chunks[-1].completion.text


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"sampler": {"name": "metropolis_hastings", "cut": "entropy"}}, r"cut='uniform'"),
        ({"sampler": "parallel_tempering"}, "parallel_tempering"),
        ({"choices": ["yes", "no"]}, "choices"),
        ({"top_p": 0.5, "logit_bias": {1: 1.0}}, "top_p and logit_bias: this engine"),
        ({"json_schema": {"type": "object"}}, "json_schema"),
    ],
    ids=str,
)
def test_what_it_cannot_do_is_refused_before_anything_is_asked_of_it(fields: dict[str, Any], match: str) -> None:
    model = runtime()
    with pytest.raises(ConfigurationError, match=match):
        model.complete("Once", **fields)
    assert model.complete("Once").tokens
