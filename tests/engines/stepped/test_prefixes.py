"""What prompts share is prefilled once, and nobody can tell from the results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from power_sampling import PowerSampler
from power_sampling.engines.stepped.prefixes import PrefixCache, shared_length
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.engines.torch.kv import KeyValues
from power_sampling.testing import check_language_model, run_draws
from power_sampling.testing.backend import TableState
from power_sampling.types import Chain, Draw, Law, Termination, Tokens
from tests.support.tiny import ARCHITECTURES, tiny_model, tiny_tokenizer

LAW = Law(2.0, 1.0, 0.5)
ENDING = Termination(frozenset())
MANY = 64 * 2**20


def draw_from(lm: TorchLM, prompt: tuple[int, ...], seed: int = 1) -> tuple[object, int, int]:
    handle = lm.open(prompt, ENDING)
    (continuation,) = run_draws(lm, handle, [Draw(Chain.empty(), 0, 5, LAW, seed)])
    return continuation, handle.prefilled_tokens, handle.reused_tokens


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_shared_beginning_is_computed_once_and_changes_nothing(name: str) -> None:
    lm, fresh = TorchLM(tiny_model(name), prompt_memory=MANY), TorchLM(tiny_model(name))
    shared = tuple(range(10, 40))
    for prompt, reused in (((*shared, 1, 2), 0), ((*shared, 3), 30), ((*shared, 1, 2), 32), ((*shared, 1, 2, 9), 32)):
        found, prefilled, was_reused = draw_from(lm, prompt)
        expected, *_ = draw_from(fresh, prompt)
        assert found.tokens == expected.tokens  # type: ignore[attr-defined]
        assert np.abs(found.logp - expected.logp).max() < 1e-9  # type: ignore[attr-defined]
        assert (was_reused, prefilled) == (reused, len(prompt) - reused)


def test_the_engine_keeps_its_laws_with_prompts_remembered() -> None:
    lm = TorchLM(tiny_model(), prompt_memory=MANY)
    draw_from(lm, (5, 6, 7, 8))
    check_language_model(lm, (5, 6, 7), num_draws=200)


def test_prompts_that_wait_together_share_too() -> None:
    """Eight requests at once: their common beginning goes through the model once, not eight times."""
    lm, fresh = TorchLM(tiny_model(), prompt_memory=MANY), TorchLM(tiny_model())
    prompts = [(*range(10, 110), i) for i in range(8)]
    results = {}
    for engine in (lm, fresh):
        handles = [engine.open(prompt, ENDING) for prompt in prompts]
        tickets = [engine.add(handle, Draw(Chain.empty(), 0, 4, LAW, i)) for i, handle in enumerate(handles)]
        finished: dict[int, object] = {}
        while len(finished) < 8:
            finished.update(engine.step().finished)
        results[engine] = [finished[ticket].tokens for ticket in tickets]  # type: ignore[attr-defined]
    assert results[lm] == results[fresh]
    assert lm.cost.prefilled_tokens == 101 + 7
    assert fresh.cost.prefilled_tokens == 8 * 101


def test_a_long_prompt_is_found_after_its_pieces() -> None:
    lm, fresh = TorchLM(tiny_model(), prompt_memory=MANY), TorchLM(tiny_model())
    prompt = tuple(np.random.default_rng(0).integers(0, 300, 700).tolist())
    draw_from(lm, prompt[:600])
    found, prefilled, reused = draw_from(lm, prompt)
    expected, *_ = draw_from(fresh, prompt)
    assert found.tokens == expected.tokens  # type: ignore[attr-defined]
    assert (prefilled, reused) == (100, 600)


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    lm = TorchLM(tiny_model(), prompt_memory=MANY)
    prompts = [tuple(range(i, i + 50)) for i in (0, 60, 120)]
    for prompt in prompts:
        draw_from(lm, prompt)
    each = lm._prefill.prefixes.nbytes // 3
    lm = TorchLM(tiny_model(), prompt_memory=int(2.5 * each))
    draw_from(lm, prompts[0])
    draw_from(lm, prompts[1])
    draw_from(lm, prompts[0])  # used again
    draw_from(lm, prompts[2])
    assert lm._prefill.prefixes.nbytes <= 2.5 * each
    assert [draw_from(lm, prompt)[2] for prompt in (prompts[0], prompts[2])] == [50, 50]
    assert draw_from(lm, prompts[1])[2] == 0


def test_nothing_is_remembered_without_memory() -> None:
    lm = TorchLM(tiny_model(), prompt_memory=0)
    draw_from(lm, (1, 2, 3))
    assert draw_from(lm, (1, 2, 3))[2] == 0
    assert PrefixCache(0, KeyValues()).nbytes == 0


def test_what_two_prompts_share_counts_once() -> None:
    lm = TorchLM(tiny_model(), prompt_memory=MANY)
    shared = tuple(range(10, 210))
    draw_from(lm, (*shared, 1))
    before = lm._prefill.prefixes.nbytes
    draw_from(lm, (*shared, 2))
    logits = torch.zeros(300, dtype=torch.float64).nbytes
    assert lm._prefill.prefixes.nbytes - before < before / 10 + logits


def test_a_request_says_what_it_reused() -> None:
    runtime = PowerSampler.from_model(tiny_model(), tiny_tokenizer(), max_new_tokens=3, sampler="ancestral")
    first = runtime.complete("the same beginning, one end")
    second = runtime.complete("the same beginning, another end")
    assert (first.diagnostics.tokens_reused, second.diagnostics.tokens_reused) == (0, 20)
    assert second.diagnostics.tokens_prefilled == second.prompt_tokens - 20
    four = runtime.generate(["no other prompt begins like this"] * 4)
    assert sum(c.diagnostics.tokens_prefilled for c in four) == four[0].prompt_tokens


# ---------------------------------------------------------------- the cache alone


class Counted(tuple[int, ...]):
    """Tokens that note how many of them are looked at."""

    looks = 0

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        Counted.looks += len(found) if isinstance(at, slice) else 1
        return found


class Scan:
    """What the cache has to be, found by looking at every prompt."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.known: dict[Tokens, TableState] = {}

    def longest(self, tokens: Tokens) -> int:
        if tokens in self.known:
            return len(tokens)
        return min(max((shared_length(tokens, known) for known in self.known), default=0), len(tokens) - 1)

    @property
    def nbytes(self) -> int:
        return sum(state.nbytes + LOGITS.nbytes * (i == 0) for i, state in enumerate(self.known.values()))


LOGITS = np.zeros(3)


def test_the_tree_finds_what_a_scan_finds() -> None:
    rng = np.random.default_rng(0)
    for capacity in (10**9, 40 * 8 + LOGITS.nbytes):
        cache, scan = PrefixCache(capacity, TableState()), Scan(capacity)
        for _ in range(1000):
            tokens = tuple(rng.integers(2, size=rng.integers(1, 9)).tolist())
            found = cache.find(tokens)
            length = scan.longest(tokens)
            assert found.state.length == length and found.state.tokens == tokens[:length]
            assert (found.logits is None) == (tokens not in scan.known)
            if tokens in scan.known:
                scan.known[tokens] = scan.known.pop(tokens)
            elif rng.random() < 0.5:
                state = scan.known[tokens] = TableState(tokens)
                cache.put(tokens, state, LOGITS)
            for kept in [*scan.known]:  # what was found has been used; which one of several, the cache may choose
                if kept not in cache._entries:
                    del scan.known[kept]
            scan.known = {kept: scan.known[kept] for kept in cache._entries}
            assert cache.nbytes == scan.nbytes <= capacity
        while cache._entries:  # an empty cache has an empty tree
            cache.capacity = 0 if len(cache._entries) == 1 else cache.nbytes - 1
            cache._make_room()
        assert not cache._root.below and cache.nbytes == 0


def test_what_a_prompt_costs_does_not_grow_with_the_prompts_that_are_kept() -> None:
    rng = np.random.default_rng(0)
    cache = PrefixCache(10**12, TableState())
    system = tuple(rng.integers(1000, size=100).tolist())
    looks = []
    for number in range(3000):
        tokens = Counted((*system, *rng.integers(1000, size=20).tolist()))
        before = Counted.looks
        cache.find(tokens)
        cache.put(tokens, TableState(tuple(tokens)), LOGITS)
        if number in (100, 2999):
            looks.append(Counted.looks - before)
    assert looks[1] <= 1.5 * looks[0] < 1500
