"""Hybrid models: what a recurrent layer keeps cannot be cut, and every answer is exact all the same.

In float64 all the way (`doubled`), where nothing is left to rounding: draws equal full passes to 1e-10.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from power_sampling import OutOfMemoryError, PowerSampler
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.engines.torch.plain import PlainForward
from power_sampling.engines.torch.recurrent import RecurrentStates
from power_sampling.samplers import BY_NAME, MetropolisHastings, NumpyRng, ParticleGibbs, SequentialMonteCarlo
from power_sampling.samplers.base import SamplerOptions
from power_sampling.serving.worker import Request, Worker
from power_sampling.testing import check_language_model, power_law, run_draws
from power_sampling.types import Chain, Draw, Law, Termination, Tokens
from tests.support.architectures import build, forked_draws, full_pass
from tests.support.doubled import doubled
from tests.support.narrow import Narrow
from tests.support.tiny import tiny_tokenizer
from tests.support.together import every_completion

LAW = Law(2.0, 1.0, 0.5)
ENDLESS = Termination(frozenset())
TWO: dict[str, Any] = {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}


@pytest.fixture(autouse=True)
def _wide() -> Iterator[None]:
    with doubled():
        yield


def hybrid(vocab_size: int = 40, **changes: Any) -> Any:
    return build("qwen3_5_text", vocab_size=vocab_size, **TWO, **changes)


def worst(model: Any, chains: list[tuple[Tokens, Chain]]) -> float:
    return max(float(np.abs(c.logp - full_pass(model, prompt, c.tokens)).max()) for prompt, c in chains)


@pytest.mark.parametrize("snapshots", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_draws_from_any_cut_equal_full_passes(snapshots: int) -> None:
    model = build("qwen3_5_text")
    lm = TorchLM(model, max_rows=4, snapshots=snapshots)
    assert worst(model, forked_draws(lm)) < 1e-10
    assert lm.cost.prefilled_tokens > 20, "what lies between a snapshot and a cut was fed again"


def test_a_row_in_decoding_is_forked_anywhere() -> None:
    """As prefetching does: from what its unfinished draw has so far, at a copy or between two."""
    model, prompt = hybrid(), (5, 3, 7)
    lm = TorchLM(model, snapshots=2)
    handle = lm.open(prompt, ENDLESS)
    under_way = lm.add(handle, Draw(Chain.empty(), 0, 20, LAW, 1))
    for _ in range(10):
        lm.step()
    chain = Chain.empty().spliced(0, lm.so_far(under_way))
    cuts = range(1, len(chain.tokens) + 1)
    found = run_draws(lm, handle, [Draw(chain, cut, 4, LAW, cut) for cut in cuts])
    assert worst(model, [(prompt, chain.spliced(cut, c)) for cut, c in zip(cuts, found, strict=True)]) < 1e-10


def test_a_state_that_is_not_the_cuts_own_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation: a state handed out as that of fewer tokens than it has seen."""

    def careless(self: RecurrentStates, length: int) -> RecurrentStates:
        return self._replace(length=length)

    monkeypatch.setattr(RecurrentStates, "head", careless)
    model = hybrid()
    with contextlib.suppress(RuntimeError):  # shapes that do not fit say so as well
        assert worst(model, forked_draws(TorchLM(model))) > 1e-3


ONE_OF_A_KIND = ("lookahead", "particle_gibbs", "sequential_monte_carlo")  # others cut or copy as these do
SAMPLERS = [pytest.param({"name": x}, marks=[] if x in ONE_OF_A_KIND else [pytest.mark.slow]) for x in BY_NAME]
SAMPLERS.append(pytest.param({"name": "metropolis_hastings", "block_size": 6, "num_steps": 4, "prefetch": 4}))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: "-".join(map(str, sampler.values())))
def test_every_sampler_tells_the_models_own_numbers(sampler: dict[str, Any]) -> None:
    model, tokenizer = hybrid(len(tiny_tokenizer())), tiny_tokenizer()
    alpha, new = (1.01, 2) if sampler["name"] == "rejection" else (2.0, 8)
    served = PowerSampler.from_model(
        model, tokenizer, sampler=sampler, max_new_tokens=new, seed=1, alpha=alpha, logprobs=True, max_rows=16
    )
    prompts = ["a", "some longer text", "middle"]
    limited = {"stop": ["e", "\n"], "regex": "[a-f\n]{2,9}"}  # which rejection accepts next to nothing of
    for settings in ({},) if new == 2 else ({}, limited):
        for prompt, answer in zip(prompts, served.complete(prompts, **settings), strict=True):
            expected = full_pass(model, tuple(served.encode(prompt)), tuple(answer.tokens))
            assert np.abs(np.array(answer.token_logp) - expected).max() < 1e-10


LAWS: dict[str, SamplerOptions] = {
    "metropolis_hastings": MetropolisHastings(num_steps=10, block_size=3, prefetch=0),
    "sequential_monte_carlo": SequentialMonteCarlo(num_particles=8, block_size=1),
    "particle_gibbs": ParticleGibbs(num_particles=4, num_steps=3, block_size=2),
}
PROMPT = (1, 0, 2)


def answered(options: SamplerOptions, number: int) -> tuple[list[Chain], int]:
    """The answers of the worker to so many requests at one time, by a model with 3 tokens, one of them EOS; and the
    tokens it decoded for them."""
    lm = TorchLM(hybrid(3), max_rows=200)

    def request(seed: int) -> Request:
        return Request(
            prompt=PROMPT,
            termination=Termination(frozenset({0})),
            make_sampler=lambda is_over: options.run(LAW, 3, NumpyRng(seed), is_over),
        )

    worker = Worker(lm)
    try:
        jobs = worker.submit_all([request(seed) for seed in range(number)])
        return [job.future.result(300).answer.chain for job in jobs], lm.cost.row_steps
    finally:
        worker.close()


@pytest.mark.parametrize("kind", LAWS)
def test_the_law_is_the_power_law(kind: str) -> None:
    """p^2 over all completions: the total variation between 200 answers and the target, against a thousand times that
    of 200 draws of the target itself; a right sampler exceeds the largest of these, by 4 standard deviations of theirs,
    with probability below 1e-4. Finite particles are allowed 0.08 for."""
    model, number = hybrid(3), 200
    chains = every_completion(lambda x: full_pass(model, PROMPT, x), 3, 3)
    index, target = {x.tokens: i for i, x in enumerate(chains)}, power_law(chains, 2.0)
    counts = np.zeros(len(chains))
    for chain in answered(LAWS[kind], number)[0]:
        counts[index[chain.tokens]] += 1
    noise = [np.abs(x / number - target).sum() / 2 for x in np.random.default_rng(0).multinomial(number, target, 1000)]
    assert np.abs(counts / number - target).sum() / 2 < max(noise) + (0.0 if kind == "metropolis_hastings" else 0.08)


@pytest.mark.parametrize("kind", ["metropolis_hastings", "particle_gibbs"])
def test_what_is_prefetched_leaves_the_law_alone(kind: str) -> None:
    """Answer for answer, in spare rows that were put to use."""
    whole = LAWS[kind].model_copy(update={"block_size": None})  # particles in blocks are not foreseen
    expected, fewest = answered(whole.model_copy(update={"prefetch": 0}), 8)
    found, decoded = answered(whole.model_copy(update={"prefetch": 100}), 8)
    assert [x.tokens for x in found] == [x.tokens for x in expected]
    assert max(float(np.abs(x.logp - y.logp).max()) for x, y in zip(found, expected, strict=True)) < 1e-10
    assert decoded > fewest


@pytest.mark.slow
def test_the_laws_of_a_language_model_hold() -> None:
    check_language_model(TorchLM(hybrid(8), snapshots=2), (5, 3, 7), horizon=5, num_draws=60)


# ------------------------------------------------------------ prompts


def reused(lm: TorchLM, prompt: Tokens) -> int:
    handle = lm.open(prompt, ENDLESS)
    (found,) = run_draws(lm, handle, [Draw(Chain.empty(), 0, 4, LAW, 1)])
    fresh = TorchLM(lm.backend.model)
    (expected,) = run_draws(fresh, fresh.open(prompt, ENDLESS), [Draw(Chain.empty(), 0, 4, LAW, 1)])
    assert found.tokens == expected.tokens and np.abs(found.logp - expected.logp).max() < 1e-10
    assert handle.prefilled_tokens == len(prompt) - handle.reused_tokens
    return handle.reused_tokens


def test_a_beginning_is_reused_once_two_prompts_have_parted_there() -> None:
    lm = TorchLM(hybrid(), prompt_memory=2**22)
    system = tuple(range(1, 31))
    assert reused(lm, (*system, 31, 32)) == 0
    assert reused(lm, (*system, 33)) == 0, "it was never copied there"
    assert reused(lm, (*system, 34, 35, 36)) == 30
    assert reused(lm, (*system, 33, 37)) == 31, "a prompt's own end, as in the next turn of a chat"
    assert reused(lm, (*system, 33)) == 31


def test_prompts_that_wait_together_share_and_are_never_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six of three lengths: what they share once, the rest in three passes, each of one length."""
    model, shapes = hybrid(), []
    model.register_forward_pre_hook(lambda _, args, fields: shapes.append(fields["input_ids"].shape), with_kwargs=True)
    lm = TorchLM(model, prompt_memory=2**22)
    prompts = [(*range(1, 25), *(30 + i for _ in range(n))) for i, n in enumerate((1, 2, 3, 1, 2, 3))]
    tickets = [lm.add(lm.open(prompt, ENDLESS), Draw(Chain.empty(), 0, 1, LAW, 1)) for prompt in prompts]
    found: dict[int, Any] = {}
    while len(found) < len(tickets):
        found.update(lm.step().finished)
    assert lm.cost.prefilled_tokens == 24 + 2 * (1 + 2 + 3)
    assert sorted(map(tuple, shapes)) == [(1, 24), (2, 1), (2, 2), (2, 3)]


def test_rows_that_are_fed_again_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts at ten places behind one copy: passes of 8, 4, 2 and 1 tokens, and no pass for every length."""
    model, prompt = hybrid(), (5, 3, 7)
    lm = TorchLM(model, snapshots=0)
    handle = lm.open(prompt, ENDLESS)
    (found,) = run_draws(lm, handle, [Draw(Chain.empty(), 0, 12, LAW, 1)])
    chain = Chain.empty().spliced(0, found)
    shapes: list[tuple[int, int]] = []
    prefill = lm.backend.prefill

    def noted(states: Any, pieces: Any) -> Any:
        shapes.append((len(pieces), len(pieces[0])))
        return prefill(states, pieces)

    monkeypatch.setattr(lm.backend, "prefill", noted)
    cuts = range(2, 12)
    drawn = run_draws(lm, handle, [Draw(chain, cut, 2, LAW, cut) for cut in cuts])
    assert worst(model, [(prompt, chain.spliced(cut, c)) for cut, c in zip(cuts, drawn, strict=True)]) < 1e-10
    assert sum(rows * length for rows, length in shapes) == sum(cut - 1 for cut in cuts)
    assert {length for _, length in shapes} == {8, 4, 2, 1} and len(shapes) == 4


# ------------------------------------------------------------ memory, and rows that go


def test_memory_that_runs_out_halves_the_batch_and_changes_nothing() -> None:
    model = hybrid()
    expected = forked_draws(TorchLM(model), generations=2)
    lm = TorchLM(model, prompt_memory=2**20)
    narrow = Narrow(model, 2)
    found = forked_draws(lm, generations=2)
    assert [c.tokens for _, c in found] == [c.tokens for _, c in expected]
    assert narrow.failures > 0 and lm.scheduler.max_rows <= 2


def test_dropped_rows_leave_the_others_alone() -> None:
    lm = TorchLM(hybrid())
    draws = [Draw(Chain.empty(), 0, 9, LAW, seed) for seed in range(4)]
    expected = run_draws(lm, lm.open((1, 2, 3), ENDLESS), draws)
    tickets = [lm.add(lm.open((1, 2, 3), ENDLESS), draw) for draw in draws]
    for _ in range(4):
        lm.step()
    lm.drop(tickets[0])
    lm.drop(tickets[2])
    found: dict[int, Any] = {}
    while len(found) < 2:
        found.update(lm.step().finished)
    assert [found[tickets[i]].tokens for i in (1, 3)] == [expected[i].tokens for i in (1, 3)]


def test_snapshots_are_part_of_the_budget() -> None:
    """A chain that was forgotten is computed again, and what can never fit is said; `test_budget.py` counts bytes."""
    model = hybrid()
    lm = TorchLM(model)
    expected = forked_draws(lm)
    tight = TorchLM(model, kv_memory=6 * lm._budget.needed(1, 60))
    found = forked_draws(tight)
    assert [c.tokens for _, c in found] == [c.tokens for _, c in expected]
    assert tight.cost.prefilled_tokens > lm.cost.prefilled_tokens
    with pytest.raises(OutOfMemoryError, match="keys, values and other states"):
        tight.add(tight.open((1, 2), ENDLESS), Draw(Chain.empty(), 0, 900, LAW, 0))


# ------------------------------------------------------------ states that are kept elsewhere


def test_states_in_modules_are_one_passs_at_a_time() -> None:
    """RecurrentGemma: two engines over one model, each on a thread of its own, whose passes meet."""
    model = build("recurrent_gemma")
    expected = forked_draws(TorchLM(model, singly(model)), generations=1)
    with ThreadPoolExecutor(2) as threads:
        lms = [TorchLM(model, singly(model)) for _ in range(2)]
        found = [future.result() for future in [threads.submit(forked_draws, lm, generations=1) for lm in lms]]
    assert all(x.rg_lru.recurrent_states is None for x in model.modules() if hasattr(x, "rg_lru")), "nothing is left"
    for chains in found:
        assert [c.tokens for _, c in chains] == [c.tokens for _, c in expected]
    assert worst(model, expected) < 1e-10


def singly(model: Any) -> PlainForward:
    return PlainForward(model, feeds_singly=True)
