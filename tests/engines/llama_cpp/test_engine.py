"""The engine llama_cpp on random GGUF models: laws by enumeration through both adapters, samplers, states, options.

`tests/engines/stepped/test_backends.py` runs on it too."""

from __future__ import annotations

import gc
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langchain_power_sampling import PowerSamplingLLM as LangChainLLM
from llamaindex_power_sampling import PowerSamplingLLM as LlamaIndexLLM
from power_sampling import ConfigurationError, ModelError, ModelNotFoundError, PowerSampler
from power_sampling.config import GenerationConfig
from power_sampling.samplers import NumpyRng, Sampler, sampler_for
from power_sampling.testing import power_law, run_draws
from power_sampling.types import Chain, Draw, Floats, Law, Termination, Tokens
from tests.support.gguf import (
    EXACT,
    NEEDS_LLAMA_CPP,
    engine_of,
    jamba_engine,
    lfm2_engine,
    llama_engine,
    mamba_engine,
    write_jamba,
    write_lfm2,
    write_llama,
)
from tests.support.law import assert_law
from tests.support.together import drive_together, every_completion

pytestmark = NEEDS_LLAMA_CPP

FIVE = ["<|end|>", "b", "c", "d", "a"]
EOS = Termination(frozenset({0}))
LAW, HORIZON, PROMPT = Law(2.0, 1.0, 0.5), 3, (1, 3, 2)
ENGINE = {"name": "llama_cpp", "kv_memory": 4, **EXACT}
MH = {"name": "metropolis_hastings", "block_size": HORIZON, "num_steps": 12}
SAMPLERS: dict[str, dict[str, Any]] = {
    "metropolis_hastings": {**MH, "prefetch": 0},
    "prefetch": {**MH, "prefetch": 4},
    "sequential_monte_carlo": {"name": "sequential_monte_carlo", "num_particles": 24, "block_size": 1},
    "particle_gibbs": {"name": "particle_gibbs", "num_particles": 8, "num_steps": 4},
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("gguf") / "five.gguf", FIVE, seed=3)


def sampler(options: Any, horizon: int, seed: int) -> Sampler:
    config = GenerationConfig(sampler=options, alpha=2.0, max_new_tokens=horizon)
    return sampler_for(config, horizon, NumpyRng(seed), lambda: False)


def scores(lm: Any, prompt: Tokens) -> Any:
    return lambda tokens: np.asarray(lm.score(prompt, tokens, 1.0))


@pytest.mark.parametrize("make", [llama_engine, mamba_engine, jamba_engine, lfm2_engine])
def test_a_score_is_that_of_draws_decoded_together_and_from_cuts(make: Any) -> None:
    lm = make()
    handle = lm.open(PROMPT, EOS)
    whole = run_draws(lm, handle, [Draw(Chain.empty(), 0, 9, LAW, seed) for seed in range(6)])
    for chain in (Chain.empty().spliced(0, c) for c in whole):
        for cut in range(1, len(chain.tokens)):
            (c,) = run_draws(lm, handle, [Draw(chain, cut, 4, LAW, seed=cut)])
            given = (*PROMPT, *chain.tokens[:cut])
            assert np.abs(scores(lm, given)(c.tokens) - c.logp).max() < 1e-4


LAWS = [*((name, write_llama) for name in SAMPLERS), ("prefetch", write_jamba), ("particle_gibbs", write_lfm2)]


@pytest.mark.parametrize(("name", "write"), LAWS)
def test_the_law_by_enumeration(name: str, write: Callable[..., Path], tmp_path: Path) -> None:
    """200 answers over 85 completions, 5 standard errors: a right engine fails with probability below 5e-5. Those with
    finite particles have an allowance of 0.02 for their number."""
    lm, n = engine_of(write(tmp_path / "five.gguf", FIVE, seed=3), vocab_size=5, max_rows=128), 200
    chains = every_completion(scores(lm, PROMPT), 5, HORIZON)
    target = dict(zip((x.tokens for x in chains), power_law(chains, 2.0), strict=True))
    samplers = [sampler(SAMPLERS[name], HORIZON, seed) for seed in range(n)]
    counts = Counter(a.chain.tokens for a in drive_together(lm, lm.open(PROMPT, EOS), samplers))
    allowance = 0.0 if name in ("metropolis_hastings", "prefetch") else 0.02
    for tokens, p in target.items():
        assert abs(counts[tokens] / n - p) < 5 * np.sqrt(p * (1 - p) / n) + 1 / n + allowance, tokens


def test_the_law_of_best_of_n(file: Path) -> None:
    """The likeliest of n plain draws is x with probability F(x)^n - F(x-)^n, F being the probability of a draw no
    likelier. 400 answers, as above."""
    lm, n = engine_of(file, vocab_size=5, max_rows=128), 200
    chains = sorted(every_completion(scores(lm, PROMPT), 5, HORIZON), key=lambda x: x.logp.sum())
    upto = np.cumsum([math.exp(x.logp.sum()) for x in chains])
    target = np.diff(upto**4, prepend=0.0)
    counts = Counter(
        a.chain.tokens
        for a in drive_together(
            lm,
            lm.open(PROMPT, EOS),
            [sampler({"name": "best_of_n", "num_completions": 4}, HORIZON, seed) for seed in range(n)],
        )
    )
    for x, p in zip(chains, target, strict=True):
        assert abs(counts[x.tokens] / n - p) < 5 * np.sqrt(p * (1 - p) / n) + 1 / n, x.tokens


@pytest.mark.parametrize("adapter", [LangChainLLM, LlamaIndexLLM])
def test_the_law_through_both_adapters(adapter: Any, file: Path) -> None:
    llm = adapter(
        model=str(file), engine=ENGINE, sampler=SAMPLERS["metropolis_hastings"], alpha=2.0, max_new_tokens=HORIZON
    )
    loaded = PowerSampler.from_pretrained(str(file), engine=ENGINE)._model.load()  # the adapter's, for it is shared
    codec, lm, prompt = loaded.codec, loaded.engine, loaded.codec.encode("ab")
    law: dict[str, float] = defaultdict(float)
    chains = every_completion(scores(lm, prompt), 5, HORIZON)
    for chain, p in zip(chains, power_law(chains, 2.0), strict=True):
        law[codec.decode(chain.tokens)] += float(p)
    one_by_one = adapter is LlamaIndexLLM
    texts = [llm.complete("ab").text for _ in range(120)] if one_by_one else llm.batch(["ab"] * 200)
    assert_law(texts, dict(law))


def test_prefetch_is_invisible(file: Path) -> None:
    answers = []
    for name in ("metropolis_hastings", "prefetch"):
        lm, run = engine_of(file, vocab_size=5), [sampler(SAMPLERS[name], 8, seed) for seed in range(8)]
        answers.append(sorted(a.chain.tokens for a in drive_together(lm, lm.open(PROMPT, EOS), run)))
    assert answers[0] == answers[1]


def test_sequences_are_free_again_with_their_last_owner(file: Path) -> None:
    lm = engine_of(file, vocab_size=5, prompt_memory=2**16)
    pool: Any = lm.backend._sequences  # type: ignore[attr-defined]
    before = len(pool._free)
    for round_ in range(3):
        handle = lm.open((*PROMPT, round_), EOS)
        found = run_draws(lm, handle, [Draw(Chain.empty(), 0, 6, LAW, seed) for seed in range(20)])
        chains = [Chain.empty().spliced(0, c) for c in found]
        run_draws(lm, handle, [Draw(x, len(x.tokens) - 1, 4, LAW, 1) for x in chains if len(x.tokens) > 1])
    del handle, found, chains
    lm.reset()
    lm._prefill.prefixes.clear()
    gc.collect()
    pool.collect()
    assert len(pool._free) == before


def test_text_side(file: Path) -> None:
    sampler = PowerSampler.from_pretrained(str(file), engine=ENGINE, max_new_tokens=4, seed=1)
    loaded = sampler._model.load()
    assert loaded.codec.eos_ids == {0} and loaded.codec.vocab_size == 5 and loaded.codec.has_chat_template
    assert loaded.codec.encode("abc") == (4, 1, 2)
    assert sampler.config.engine is not None and sampler.config.engine.name == "llama_cpp"


CONSTRAINED = [{"choices": ["bad", "cab"]}, {"regex": "[bc]{2}a"}, {"stop": ["a"]}, {"top_k": 2}, {"top_logprobs": 2}]


@pytest.mark.parametrize("fields", CONSTRAINED, ids=str)
def test_what_is_asked_for_is_kept(fields: dict[str, Any], file: Path) -> None:
    sampler = PowerSampler.from_pretrained(str(file), engine=ENGINE, max_new_tokens=6, seed=1, sampler=MH)
    answer = sampler.with_settings(**fields).complete("ab")
    if "choices" in fields:
        assert answer.text in fields["choices"]
    if "stop" in fields:
        assert "a" not in answer.text
    if "top_logprobs" in fields:
        assert answer.top_logprobs is not None and len(answer.top_logprobs) == len(answer.tokens)


def test_many_rows_wait_for_few_cells(file: Path) -> None:
    """Memory for some 60 tokens: rows wait, and have the tokens that they have with room for all."""
    wide = engine_of(file, vocab_size=5)
    draws = [Draw(Chain.empty(), 0, 12, LAW, seed) for seed in range(40)]
    expected = run_draws(wide, wide.open(PROMPT, EOS), draws)
    lm = engine_of(file, vocab_size=5, kv_memory=12 * wide._budget.needed(1, 15))
    assert [c.tokens for c in run_draws(lm, lm.open(PROMPT, EOS), draws)] == [c.tokens for c in expected]


WRONG = [
    ({"model": "no.gguf"}, ModelNotFoundError, "no GGUF file"),
    ({"model": "some/folder"}, ConfigurationError, "runs GGUF files"),
    ({"dtype": "float16"}, ConfigurationError, "is no option of the engine 'llama_cpp'"),
    ({"engine": {**ENGINE, "model_kwargs": {"n_gpu": 1}}}, ConfigurationError, "llama.cpp has no 'n_gpu'"),
    ({"engine": {**ENGINE, "lora": "no.gguf"}}, ModelError, "lora"),
    ({"engine": {**ENGINE, "type_k": "q9"}}, ConfigurationError, "type_k"),
    ({"revision": "main"}, ConfigurationError, "no repository"),
]


@pytest.mark.parametrize(("fields", "error", "said"), WRONG, ids=lambda x: str(x)[:40])
def test_bad_settings_are_told(fields: dict[str, Any], error: type[Exception], said: str, file: Path) -> None:
    with pytest.raises(error, match=said):
        PowerSampler.from_pretrained(**{"model": str(file), "engine": ENGINE, **fields}).complete("ab")


def test_a_broken_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(ModelError, match=r"llama\.cpp cannot load"):
        PowerSampler.from_pretrained(str(tmp_path / "broken.gguf"), engine=ENGINE).complete("a")


def test_the_engine_is_chosen_for_a_gguf_file(file: Path) -> None:
    def name(**fields: Any) -> str:
        return PowerSampler.from_pretrained(str(file), **fields)._model.config.engine_options().name

    assert name() == "llama_cpp" and name(max_rows=4) == "llama_cpp"
    assert name(dtype="float32") == name(engine="torch") == "torch"
    assert PowerSampler.from_pretrained("embedded")._model.config.engine_options().name == "torch"


def every_logp(lm: Any) -> Floats:
    return np.array([float(lm.score(PROMPT, (token,), 1.0)[0]) for token in range(lm.vocab_size)])


def test_p_is_normalised_over_tokens_that_can_be_drawn(file: Path) -> None:
    lm = engine_of(file, vocab_size=4)
    assert lm.vocab_size == 4
    assert np.exp(every_logp(lm)).sum() == pytest.approx(1, abs=1e-6)
