"""The executable laws of `LanguageModel` hold on the table model, and an engine that breaks one of them is caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from power_sampling.engines import choice
from power_sampling.engines.protocol import LanguageModel
from power_sampling.engines.row import Row
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.testing import TableLM, check_language_model
from power_sampling.types import Draw, Floats, Law, Termination, Tokens
from tests.support.tiny import tiny_model

PROMPT: Tokens = (1, 0, 2)
NOTES = choice.extras_of


@pytest.mark.parametrize("vocab_size", [2, 6, 40])
@pytest.mark.parametrize(
    "law", [Law(2.0, 1.0, 0.5), Law(1.0, 1.0, 1.0), Law(4.0, 0.8, 0.7), Law(3.0, 1.5, 2.0)], ids=str
)
def test_the_table_model_keeps_the_laws(vocab_size: int, law: Law) -> None:
    for horizon in (1, 8):
        check_language_model(TableLM(vocab_size, seed=3), PROMPT, law=law, horizon=horizon, num_draws=100)


def colder(law: Law) -> Law:
    return law._replace(temperature=law.proposal_temperature)


WRONG_NOTES: dict[str, tuple[Callable[..., list[float]], str]] = {
    "of q": (lambda logits, law, allowed, token: NOTES(logits, colder(law), allowed, token), "entropy"),
    "at temperature 1": (lambda z, law, a, token: NOTES(z, law._replace(temperature=1.0), a, token), "entropy"),
    "of the masked law": (
        lambda z, law, a, token: NOTES(z if a is None else np.where(a, z, -99.0), law, a, token),
        "entropy",
    ),
    "unmasked": (lambda logits, law, allowed, token: NOTES(logits, law, None, token), "under a constraint"),
    "of another token": (lambda z, law, a, token: NOTES(z, law, a, (token + 2) % len(z)), "about log q"),
    "of other temperatures": (
        lambda z, law, a, token: NOTES(z, law._replace(score_at=law.score_at[::-1]), a, token),
        "under a constraint",
    ),
}


@pytest.mark.parametrize("name", WRONG_NOTES)
def test_wrong_numbers_besides_would_be_noticed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    wrong, message = WRONG_NOTES[name]
    monkeypatch.setattr(choice, "extras_of", wrong)
    with pytest.raises(AssertionError, match=message):
        check_language_model(TableLM(6, seed=3), PROMPT, num_draws=50)


class OtherScores(TableLM):
    def score(self, prompt: Tokens, tokens: Tokens, temperature: float) -> Floats:
        return super().score(prompt, tokens, 1.01 * temperature)


class Neighbours(TableLM):
    def add(self, prompt: Any, draw: Draw) -> int:
        return super().add(prompt, draw._replace(seed=draw.seed + len(self._rows)))


class Distracted(TableLM):
    def add(self, prompt: Any, draw: Draw) -> int:
        return super().add(prompt, draw._replace(seed=draw.seed + len(draw.law.score_at)))


class Hasty(TableLM):
    def add(self, prompt: Any, draw: Draw) -> int:
        return super().add(prompt, draw if draw.floors is None else draw._replace(floors=draw.floors + 9))


class Lawless(TableLM):
    def open(self, prompt: Tokens, termination: Termination) -> Any:
        return super().open(prompt, termination._replace(constraint=None))


class Misplaced(TableLM):
    def add(self, prompt: Any, draw: Draw) -> int:
        tokens = (*draw.chain.tokens[: draw.cut - 1], 0, *draw.chain.tokens[draw.cut :])
        return super().add(prompt, draw._replace(chain=draw.chain._replace(tokens=tokens)) if draw.cut else draw)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (OtherScores, "about log p"),
        (Neighbours, "neighbours"),
        (Distracted, "changes what is drawn"),
        (Hasty, "above its floors"),
        (Lawless, "forbids"),
        (Misplaced, "about log p"),
    ],
)
def test_an_engine_that_breaks_a_law_is_caught(engine: type[TableLM], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_language_model(engine(6, seed=3), PROMPT, num_draws=100)


def test_another_law_of_the_first_token_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    uniform = Row.uniform
    monkeypatch.setattr(Row, "uniform", lambda self: uniform(self) ** 2)
    with pytest.raises(AssertionError, match="was drawn"):
        check_language_model(TableLM(6, seed=3), PROMPT)


@pytest.mark.parametrize("make", [lambda: TableLM(6, seed=3), lambda: TorchLM(tiny_model(vocab_size=8))])
def test_numbers_besides_that_are_slightly_off_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], LanguageModel]
) -> None:
    push = Row.push
    monkeypatch.setattr(
        Row, "push", lambda self, token, p, q, notes=(): push(self, token, p, q, [x + 1e-7 for x in notes])
    )
    with pytest.raises(AssertionError, match=r"off by|disagree"):
        check_language_model(make(), PROMPT, num_draws=20)
