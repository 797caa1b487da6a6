"""The torch engine on every kind of attention it promises: cached, forked and batched draws equal fresh passes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from power_sampling import UnsupportedModelError
from power_sampling.config import MetropolisHastings, SequentialMonteCarlo
from power_sampling.engines.stepped.prefill import PREFILL_CHUNK
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.engines.torch.kv import BatchCache
from power_sampling.samplers import Ancestral, NumpyRng
from power_sampling.testing import check_language_model, drive, power_law, run_draws
from power_sampling.types import Chain, Draw, Floats, Law, Termination, Tokens
from tests.support.tiny import ARCHITECTURES, tiny_model
from tests.support.together import drive_together, every_completion

OPEN = Termination(frozenset())
PROMPT: Tokens = (5, 3, 7, 7, 2, 9, 1)
LAW = Law(2.0, 1.0, 0.5)
ROUNDS_TO_FLOAT32 = ("gemma2", "bloom", "mixtral")  # their attention or routing takes its softmax in float32


def reference(model: Any, prompt: Tokens, tokens: Tokens, temperature: float = 1.0, vocab: int | None = None) -> Floats:
    """log p of given tokens by one full forward pass without any cache."""
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0, len(prompt) - 1 : -1, :vocab]
        logp = torch.log_softmax(logits.double() / temperature, -1)
        return logp.gather(-1, torch.tensor(tokens)[:, None])[:, 0].numpy()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_cached_forked_and_batched_draws_equal_a_full_forward_pass(name: str) -> None:
    tolerance = 1e-6 if name in ROUNDS_TO_FLOAT32 else 1e-9
    model = tiny_model(name, vocab_size=40)
    lm = TorchLM(model, max_rows=5)
    handles = {prompt: lm.open(prompt, OPEN) for prompt in (PROMPT, PROMPT[:1], PROMPT * 4)}
    rng = np.random.default_rng(0)
    chains = [(prompt, Chain.empty()) for prompt in handles for _ in range(3)]
    for generation in range(4):  # rows of all lengths enter and leave between each other's steps
        wanted = []
        for prompt, chain in chains:
            cut = int(rng.integers(len(chain.tokens) + 1))
            wanted.append((prompt, Draw(chain, cut, int(rng.integers(1, 24)), LAW, int(rng.integers(2**60)))))
        tickets = {lm.add(handles[prompt], draw): (prompt, draw) for prompt, draw in wanted}
        chains = []
        while tickets:
            for ticket, continuation in lm.step().finished:
                prompt, draw = tickets.pop(ticket)
                chain = draw.chain.spliced(draw.cut, continuation)
                assert np.abs(chain.logp - reference(model, prompt, chain.tokens)).max() < tolerance, generation
                logq = reference(model, prompt, chain.tokens, 0.5)
                assert np.abs(chain.log_weight - (2 * chain.logp - logq)).max() < 3 * tolerance
                chains.append((prompt, chain))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_the_laws_of_a_language_model_hold(name: str) -> None:
    check_language_model(TorchLM(tiny_model(name, vocab_size=12)), PROMPT, num_draws=200)


def test_a_prompt_is_prefilled_once_whatever_is_drawn_from_it() -> None:
    lm = TorchLM(tiny_model(vocab_size=40))
    prompt = PROMPT * 3
    for sampler in (
        MetropolisHastings(num_steps=3).run(LAW, 16, NumpyRng(0), lambda: False),
        SequentialMonteCarlo(block_size=4).run(LAW, 16, NumpyRng(0), lambda: False),
    ):
        before, handle = lm.cost, lm.open(prompt, OPEN)
        drive(sampler, lambda r, h=handle: run_draws(lm, h, r.draws))
        assert lm.cost.prefilled_tokens - before.prefilled_tokens == len(prompt) == handle.prefilled_tokens
        forward_calls = lm.cost.forward_calls - before.forward_calls
        assert forward_calls == 1 + lm.cost.serial_steps - before.serial_steps  # one prefill, then steps alone


def test_a_long_prompt_is_prefilled_in_chunks_beside_running_rows() -> None:
    model = tiny_model("mistral", vocab_size=40)
    model.config.max_position_embeddings = 4096
    lm = TorchLM(model)
    long = tuple(int(t) for t in np.random.default_rng(0).integers(40, size=2 * PREFILL_CHUNK + 50))
    short_ticket = lm.add(lm.open(PROMPT, OPEN), Draw(Chain.empty(), 0, 12, LAW, 1))
    long_ticket = lm.add(lm.open(long, OPEN), Draw(Chain.empty(), 0, 6, LAW, 2))
    assert [lm.step().decoded for _ in range(4)] == [[short_ticket]] * 3 + [[short_ticket, long_ticket]]
    results = {}
    while len(results) < 2:
        results.update(lm.step().finished)
    for ticket, prompt in ((short_ticket, PROMPT), (long_ticket, long)):
        assert np.abs(results[ticket].logp - reference(model, prompt, results[ticket].tokens)).max() < 1e-9
    tokens = results[long_ticket].tokens
    assert np.abs(lm.score(long, tokens, 1.0) - reference(model, long, tokens)).max() < 1e-9


def test_tokens_beyond_the_tokenizer_are_never_drawn_and_p_is_normalised_without_them() -> None:
    model = tiny_model("qwen2", vocab_size=64)
    lm = TorchLM(model, vocab_size=50)
    drawn = run_draws(lm, lm.open(PROMPT, OPEN), [Draw(Chain.empty(), 0, 12, LAW, s) for s in range(20)])
    assert max(max(c.tokens) for c in drawn) < 50
    for c in drawn:
        assert np.abs(c.logp - reference(model, PROMPT, c.tokens, vocab=50)).max() < 1e-9


def test_bfloat16_weights_are_scored_in_float32() -> None:
    model = tiny_model("llama", vocab_size=40, dtype=torch.bfloat16)
    lm = TorchLM(model)
    (c,) = run_draws(lm, lm.open(PROMPT, OPEN), [Draw(Chain.empty(), 0, 12, LAW, 3)])
    # the model's own rounding differs between a step and a full pass; the logarithms are not bfloat16
    assert np.abs(c.logp - reference(model, PROMPT, c.tokens)).max() < 0.3
    assert any(float(torch.tensor(x).bfloat16()) != x for x in c.logp)
    assert (c.log_weight <= 1e-5).all()


def test_greedy_rows_take_the_largest_logit_beside_sampled_ones() -> None:
    model = tiny_model(vocab_size=40)
    lm = TorchLM(model)
    greedy = Draw(Chain.empty(), 0, 10, Law(1.0, 1.0, 0.0), 0)
    c, other = run_draws(lm, lm.open(PROMPT, OPEN), [greedy, Draw(Chain.empty(), 0, 10, LAW, 0)])
    expected = model.generate(
        torch.tensor([PROMPT]), attention_mask=torch.ones(1, 7), max_new_tokens=10, do_sample=False, pad_token_id=0
    )
    assert list(c.tokens) == expected[0, len(PROMPT) :].tolist()
    assert np.abs(c.logp - reference(model, PROMPT, c.tokens)).max() < 1e-9
    assert np.abs(other.logp - reference(model, PROMPT, other.tokens)).max() < 1e-9


def test_finished_and_dropped_rows_are_not_decoded() -> None:
    lm = TorchLM(tiny_model(vocab_size=40), max_rows=3)
    handle = lm.open(PROMPT, OPEN)
    tickets = [lm.add(handle, Draw(Chain.empty(), 0, n, LAW, n)) for n in (2, 5, 9, 4)]
    assert [len(lm.step().decoded) for _ in range(2)] == [3, 3]  # the fourth took the place of the first
    assert len(lm.so_far(tickets[2]).tokens) == 3
    lm.drop(tickets[2])
    assert [len(lm.step().decoded) for _ in range(2)] == [2, 2]
    assert lm.step() == ([], [], [])
    # the first token of each comes from the prompt's logits
    assert lm.cost.row_steps == 1 + 4 + 2 + 3


@pytest.mark.parametrize(
    "kind", [pytest.param("metropolis_hastings", marks=pytest.mark.slow), "sequential_monte_carlo"]
)
def test_the_law_of_a_real_model_is_the_power_law(kind: str) -> None:
    """End to end on a random float64 Llama with 4 tokens, 1 of them EOS: frequencies within 5 standard errors.

    Over some 30 completions a right engine fails with probability below 2e-5. MH takes 30 steps, after which the start
    is forgotten; SMC has 32 particles and an allowance of 0.02 for their finite number.
    """
    model = tiny_model("llama", vocab_size=4, seed=3, layers=1)
    lm, horizon, ending, prompt = TorchLM(model, max_rows=400), 4, Termination(frozenset({0})), (1, 0, 2)
    chains = every_completion(lambda x: reference(model, prompt, x), 4, horizon)
    index, target = {x.tokens: i for i, x in enumerate(chains)}, power_law(chains, 2.0)
    n = 400
    samplers = []
    for seed in range(n):
        if kind == "metropolis_hastings":
            config = MetropolisHastings(num_steps=30, block_size=horizon)
            samplers.append(config.run(LAW, horizon, NumpyRng(seed), lambda: False))
        else:
            smc = SequentialMonteCarlo(num_particles=32, block_size=1)
            samplers.append(smc.run(LAW, horizon, NumpyRng(seed), lambda: False))
    counts = np.zeros(len(chains))
    for answer in drive_together(lm, lm.open(prompt, ending), samplers):
        counts[index[answer.chain.tokens]] += 1
    allowance = 0.0 if kind == "metropolis_hastings" else 0.02
    assert (np.abs(counts / n - target) < 5 * np.sqrt(target * (1 - target) / n) + 1 / n + allowance).all()
    assert lm.cost.prefilled_tokens == len(prompt)


def test_ancestral_draws_have_the_law_of_the_model() -> None:
    """2000 plain completions of a random Llama with 4 tokens: 5 standard errors; false alarm below 2e-5."""
    model, prompt, horizon, n = tiny_model("qwen2", vocab_size=4, seed=1, layers=1), (1, 2), 3, 2000
    lm = TorchLM(model, max_rows=500)
    chains = every_completion(lambda x: reference(model, prompt, x), 4, horizon)
    index, target = {x.tokens: i for i, x in enumerate(chains)}, power_law(chains, 1.0)
    law = Law(1.0, 1.0, 1.0)
    samplers = [Ancestral().run(law, horizon, NumpyRng(seed), lambda: False) for seed in range(n)]
    counts = np.zeros(len(chains))
    for answer in drive_together(lm, lm.open(prompt, Termination(frozenset({0}))), samplers):
        counts[index[answer.chain.tokens]] += 1
    assert (np.abs(counts / n - target) < 5 * np.sqrt(target * (1 - target) / n) + 1 / n).all()
    assert math.isclose(target.sum(), 1)


def test_an_encoder_decoder_is_refused() -> None:
    config = transformers.T5Config(vocab_size=20, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(UnsupportedModelError, match="no causal language model"):
        TorchLM(transformers.T5ForConditionalGeneration(config))


def test_only_the_chosen_tokens_numbers_leave_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = TorchLM(tiny_model(vocab_size=300), max_rows=4)
    sizes: list[int] = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: (sizes.append(self.numel()), tolist(self))[1])
    for name in ("cpu", "numpy", "item"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_: pytest.fail("another transfer to the host"))
    run_draws(lm, lm.open(PROMPT, OPEN), [Draw(Chain.empty(), 0, 6, LAW, s) for s in range(4)])
    assert set(sizes) == {4 * 3}


@pytest.mark.parametrize("name", ["qwen2", "mistral", "gemma3", "qwen3"])
def test_a_mask_that_hides_nothing_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long steps of models with grouped heads get one on a processor, because attention is faster with it."""
    model = tiny_model(name)
    masks: list[bool] = []
    mask = BatchCache.mask

    def noted(self: BatchCache, new: int, pads: torch.Tensor, masked_from: float) -> torch.Tensor | None:
        found = mask(self, new, pads, masked_from)
        masks.append(new == 1 and found is not None)
        return found

    monkeypatch.setattr(BatchCache, "mask", noted)
    results = []
    for start in (8, 10**6):
        monkeypatch.setattr("power_sampling.engines.torch.plain.MASKED_FROM", start)
        masks.clear()
        lm = TorchLM(model)
        results.append(run_draws(lm, lm.open(PROMPT, OPEN), [Draw(Chain.empty(), 0, 20, LAW, s) for s in range(3)]))
        assert any(masks) == (start == 8)
    for a, b in zip(*results, strict=True):
        assert a.tokens == b.tokens
        assert abs(a.logp - b.logp).max() < 1e-9
