"""Rows wait for memory instead of failing, and go on when it runs out all the same."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import pytest

from power_sampling import EngineError, OutOfMemoryError, PowerSampler
from power_sampling.config import GenerationConfig
from power_sampling.engines.stepped.budget import LEAST_SLACK
from power_sampling.engines.torch import kv
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.engines.torch.recurrent import Snapshot
from power_sampling.samplers import NumpyRng, sampler_for
from power_sampling.serving.worker import Request, Worker
from power_sampling.testing import check_language_model
from power_sampling.types import Chain, Continuation, Draw, Law, Termination, Tokens
from tests.support.architectures import build
from tests.support.narrow import Narrow
from tests.support.tiny import tiny_model, tiny_tokenizer

LAW = Law(2.0, 1.0, 0.5)
NEW, PROMPT = 12, 6
PER_TOKEN = 3 * 2 * 4 * 8 * 8  # layers, keys and values, heads, dimensions, bytes: tiny_model's in float64
PER_ROW = (PROMPT + NEW + LEAST_SLACK) * PER_TOKEN
OWN = PROMPT * PER_TOKEN  # of a prompt, kept beside its row


def decoded(lm: TorchLM, *, rows: int = 8, shared: bool = False) -> tuple[list[Tokens], int]:
    """What `rows` draws become, each of a prompt of its own, and how many were in decoding together at most."""
    prompts = [tuple(range(10, 10 + PROMPT)) if shared else tuple(range(i, i + PROMPT)) for i in range(rows)]
    handles = [lm.open(prompt, Termination(frozenset())) for prompt in prompts]
    tickets = [lm.add(handle, Draw(Chain.empty(), 0, NEW, LAW, i)) for i, handle in enumerate(handles)]
    finished: dict[int, Continuation] = {}
    most = 0
    while len(finished) < rows:
        stepped, ended, _ = lm.step()
        most = max(most, len(stepped))
        finished.update(ended)
    return [finished[ticket].tokens for ticket in tickets], most


def test_rows_wait_for_memory_and_draw_the_same() -> None:
    expected, together = decoded(TorchLM(tiny_model()))
    assert together == 8
    # four prompts are there when the fourth row waits: no more are taken before there is room for their rows
    lm = TorchLM(tiny_model(), kv_memory=int(3.5 * PER_ROW + 4 * OWN))
    first, _ = decoded(lm, rows=1)
    assert lm._budget.per_token == PER_TOKEN
    assert decoded(lm) == (expected, 3)
    assert first == expected[:1]


def test_what_can_never_fit_is_a_typed_error_and_nothing_else_is_hurt() -> None:
    lm = TorchLM(tiny_model(), kv_memory=int(1.5 * PER_ROW + OWN))
    expected, _ = decoded(lm, rows=1)
    with pytest.raises(OutOfMemoryError, match=r"106 tokens take .* raise kv_memory"):
        lm.add(lm.open(tuple(range(PROMPT)), Termination(frozenset())), Draw(Chain.empty(), 0, 100, LAW, 0))
    assert decoded(lm, rows=1)[0] == expected


def test_the_first_request_of_all_never_waits_for_ever() -> None:
    """What a token takes is learnt on it: it is tried alone, and the next one of its size is refused at once."""
    lm = TorchLM(tiny_model(), kv_memory=1)
    assert decoded(lm, rows=2) == (decoded(TorchLM(tiny_model()), rows=2)[0], 1)
    with pytest.raises(OutOfMemoryError):
        decoded(lm, rows=1)


SAMPLERS: list[dict[str, Any]] = [
    {"name": "sequential_monte_carlo", "num_particles": 12, "block_size": 6},
    {"name": "metropolis_hastings", "block_size": 15, "num_steps": 6, "prefetch": 6},
    {"name": "parallel_tempering", "num_rungs": 3, "block_size": 15, "num_steps": 3},
]
CASES = [(sampler, kind) for sampler in SAMPLERS for kind in ("attention", "attention, lagging")]
HYBRID = [
    pytest.param(x, "hybrid", marks=[] if x["name"] == "metropolis_hastings" else [pytest.mark.slow]) for x in SAMPLERS
]


@pytest.mark.parametrize(("sampler", "kind"), [*CASES, *HYBRID], ids=lambda x: x if isinstance(x, str) else x["name"])
def test_states_of_chains_take_what_rows_leave(
    sampler: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers are those of an engine with room for everything, and no more is held than may be at any step."""
    most: list[int] = []
    alive: WeakSet[Any] = WeakSet()  # all states outside the batch, whoever holds them
    model = build("granitemoehybrid (Granite 4 H)") if kind == "hybrid" else tiny_model("llama", vocab_size=40)
    step = TorchLM.step

    def watched(self: TorchLM) -> Any:
        result = step(self)
        most.append(self.backend.batch.nbytes + sum(x.nbytes for x in alive))
        return result

    def note(cls: type) -> None:
        made = cls.__init__

        def noted(self: Any, *args: Any) -> None:
            made(self, *args)
            alive.add(self)

        monkeypatch.setattr(cls, "__init__", noted)

    def answers(kv_memory: int) -> tuple[list[Chain], int, int]:
        worker = Worker(lm := TorchLM(model, kv_memory=kv_memory, lag="lagging" in kind))
        config = GenerationConfig(sampler=sampler, alpha=2.0, max_new_tokens=60)
        most.clear()
        jobs = worker.submit_all(
            [
                Request(
                    prompt=tuple(range(1 + seed, 11 + seed)),
                    termination=Termination(frozenset({0})),
                    make_sampler=lambda over, seed=seed: sampler_for(config, 60, NumpyRng(seed), over),
                )
                for seed in range(3)
            ]
        )
        chains = [job.future.result(120).answer.chain for job in jobs]
        worker.close()
        return chains, max(most), lm.cost.prefilled_tokens

    monkeypatch.setattr(TorchLM, "step", watched)
    note(kv.Stored)
    note(Snapshot)
    expected, unbounded, prefilled = answers(2**40)
    budget = int(0.45 * unbounded)
    found, held, prefilled_again = answers(budget)
    assert held <= budget
    assert prefilled_again > prefilled, "some states were computed again"
    for a, b in zip(found, expected, strict=True):
        assert a.tokens == b.tokens
        assert abs(a.logp - b.logp).max() < (1e-4 if kind == "hybrid" else 1e-9)  # in there, float32 is mixed in


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("shared", [False, True])
def test_an_allocation_that_fails_halves_the_batch_and_changes_nothing(rows: int, shared: bool) -> None:
    expected, _ = decoded(TorchLM(tiny_model()), shared=shared)
    model = tiny_model()
    lm = TorchLM(model, prompt_memory=2**20)
    narrow = Narrow(model, rows)
    found, together = decoded(lm, shared=shared)
    assert found == expected
    assert narrow.failures > 0 and together <= max(rows, lm.scheduler.max_rows) and lm.scheduler.max_rows <= rows
    check_language_model(lm, (5, 6, 7), horizon=4, num_draws=40)


def test_memory_that_is_out_for_good_reaches_the_caller() -> None:
    model = tiny_model()
    runtime = PowerSampler.from_model(model, tiny_tokenizer(), max_new_tokens=4, sampler="ancestral")
    runtime.complete("a")
    Narrow(model, 0)
    with pytest.raises(EngineError, match="out of memory"):
        runtime.complete("another")


def test_the_runtime_says_what_to_do() -> None:
    runtime = PowerSampler.from_model(tiny_model(), tiny_tokenizer(), sampler="ancestral", kv_memory=1)
    runtime.complete("a", max_new_tokens=4)
    with pytest.raises(OutOfMemoryError, match="kv_memory"):
        runtime.complete("a", max_new_tokens=900)
