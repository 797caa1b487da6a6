"""Base laws on the device: the numbers of numpy, in batches of rows that have one and rows that do not."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from power_sampling.engines.choice import base_logits
from power_sampling.engines.torch import choice
from power_sampling.engines.torch.base_law import BaseLaws
from power_sampling.engines.torch.choice import Laws, choose
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.errors import NoLegalCompletionError
from power_sampling.testing import TableLM, run_draws
from power_sampling.types import BaseLaw, Chain, Continuation, Draw, Law, Termination
from tests.support.base_law import BASE_LAWS
from tests.support.tiny import tiny_model

PLAIN = Law(2.0, 0.8, 0.4, wants_entropy=True, score_at=(0.6,))
LAWS = [PLAIN, *(PLAIN._replace(base=base) for base in BASE_LAWS), Law(1.0, 1.0, 0.0, base=BASE_LAWS[5])]
ENDLESS = Termination(frozenset())


@pytest.mark.parametrize("vocabulary", [3, 700])
def test_logits_are_those_of_numpy(vocabulary: int) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(len(LAWS), vocabulary)) * 2
    logits[:, 2] = logits[:, 0]  # as likely as another one
    excluded = [law.base.excluded((1, 2, 2)) if law.base else [] for law in LAWS]
    bases = BaseLaws.of(LAWS, torch.from_numpy(logits))
    assert bases is not None and bases.places == tuple(range(1, len(LAWS)))
    found = bases.logits(torch.from_numpy(logits), excluded).numpy()
    for row, law, each, before in zip(found, LAWS, excluded, logits, strict=True):
        np.testing.assert_array_equal(row, base_logits(before, law, each))
    assert np.isinf(found[1:]).any(1).sum() >= 5


def draws(base: BaseLaw | None, seeds: range = range(4)) -> list[Draw]:
    law = Law(2.0, 1.0, 0.5, wants_entropy=True, base=base)
    return [Draw(Chain.empty(), 0, 12, law, seed) for seed in seeds]


BASES: list[BaseLaw | None] = [
    None,
    BaseLaw(top_k=5),
    BaseLaw(bad_words=((7,), (3, 4))),
    BaseLaw(((2, 3.0),), min_p=0.1),
]


@pytest.mark.parametrize("lag", [False, True])
def test_rows_with_and_without_one_do_not_see_each_other(lag: bool) -> None:
    model = tiny_model(vocab_size=24, layers=1)
    engine = TorchLM(model, lag=lag)
    handle = engine.open((1, 2, 3), ENDLESS)
    together = run_draws(engine, handle, [draw for base in BASES for draw in draws(base)])
    alone = [c for base in BASES for c in drawn_alone(TorchLM(model), base)]
    for c, other in zip(together, alone, strict=True):
        assert c.tokens == other.tokens
        np.testing.assert_allclose(c.logp, other.logp, atol=1e-12)
        np.testing.assert_allclose(c.entropy, other.entropy, atol=1e-12)
    words = [c.tokens for c in together[8:12]]
    assert not any(7 in tokens or (3, 4) in pairwise(tokens) for tokens in words)


def drawn_alone(engine: TorchLM, base: BaseLaw | None) -> list[Continuation]:
    return run_draws(engine, engine.open((1, 2, 3), ENDLESS), draws(base))


def test_a_batch_without_one_computes_nothing_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> Any:
        raise AssertionError("called")

    monkeypatch.setattr(BaseLaws, "logits", never)
    engine = TorchLM(tiny_model(vocab_size=24, layers=1))
    assert run_draws(engine, engine.open((1, 2, 3), ENDLESS), draws(None))
    with pytest.raises(AssertionError, match="called"):
        run_draws(engine, engine.open((1, 2, 3), ENDLESS), draws(BASES[1]))


def test_steps_go_on_ahead_unless_a_word_has_to_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[int] = []
    for base in BASES:
        engine = TorchLM(tiny_model(vocab_size=24, layers=1), lag=True)
        ahead = 0
        (ticket,) = [engine.add(engine.open((1, 2, 3), ENDLESS), draw) for draw in draws(base, range(1))]
        while not any(t == ticket for t, _ in engine.step().finished):
            ahead += engine.backend.pending is not None
        launched.append(ahead)
    assert launched[0] == launched[1] == launched[3] > 5 and launched[2] == 0


@pytest.mark.parametrize("proposal_temperature", [0.5, 0.0])
def test_where_nothing_allowed_is_kept_the_row_is_illegal(proposal_temperature: float) -> None:
    law = Law(2.0, 1.0, proposal_temperature, base=BaseLaw(top_k=2))
    plain = law._replace(base=None)
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]] * 3, dtype=torch.float64)
    allowed = np.array([False, False, True, True])
    found = choose(logits, Laws.of([law, plain, law], logits), torch.full((3, 1), 0.9).double(), [allowed] * 2 + [None])
    tokens, logp, logq = found.unbind(-1)
    assert tokens[0] in (0, 1) and logq[0] == float("inf") and torch.isfinite(logp).all()
    assert tokens[1] in (2, 3) and torch.isfinite(logq[1:]).all() and tokens[2] in (0, 1)


def test_the_compiled_choice_never_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is not compiled again for it."""
    seen: list[Laws] = []
    columns = choice.columns

    def noted(logits: Any, laws: Laws, *rest: Any) -> Any:
        seen.append(laws)
        return columns(logits, laws, *rest)

    monkeypatch.setattr(choice, "columns", noted)
    logits = torch.zeros(len(LAWS), 9)
    choose(logits, Laws.of(LAWS, logits), torch.full((len(LAWS), 1), 0.5).double())
    assert [laws.base for laws in seen] == [None]


@pytest.mark.parametrize("make", [lambda: TorchLM(tiny_model(vocab_size=3, layers=1)), lambda: TableLM(3, seed=1)])
def test_where_no_token_is_left_the_draw_fails_and_no_other(make: Any) -> None:
    engine, nothing = make(), BaseLaw(bad_words=((0,), (1,), (2, 2), (2,)))
    handle = engine.open((1, 2), ENDLESS)
    lost, kept = (engine.add(handle, draw) for draw in (*draws(nothing, range(1)), *draws(None, range(1))))
    finished, failed = {}, {}
    while not (finished and failed):
        _, done, broken = engine.step()
        finished.update(done)
        failed.update(broken)
    assert finished.keys() == {kept} and isinstance(failed[lost], NoLegalCompletionError)
