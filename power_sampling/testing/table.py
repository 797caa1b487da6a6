"""A language model small enough to enumerate: its next-token laws come from a hash of the context."""

from __future__ import annotations

import math
from itertools import count

import numpy as np
from numpy.typing import NDArray

from power_sampling.engines.protocol import Cost, Ending
from power_sampling.engines.row import Row, context_of
from power_sampling.types import Continuation, Draw, Floats, Law, Tokens

__all__ = ["TableLM", "extras_of", "log_law"]


class _TablePrompt:
    def __init__(self, tokens: Tokens, ending: Ending) -> None:
        self.tokens, self.ending, self.prefilled_tokens, self.reused_tokens = tokens, ending, 0, 0


class TableLM:
    """A language model whose next-token laws are drawn from a hash of the context. Satisfies `LanguageModel`.

    `spread` is the standard deviation of the logits: lengths and probabilities of completions vary with it. It decodes
    every row at once; `max_rows` only says how many are to spare.
    """

    context_window = None
    max_rows = 32

    def __init__(self, vocab_size: int, seed: int, *, spread: float = 1.5) -> None:
        self.vocab_size, self._seed, self._spread = vocab_size, seed, spread
        self._logits: dict[Tokens, Floats] = {}
        self._tickets = count()
        self._rows: dict[int, tuple[_TablePrompt, Row]] = {}
        self.cost = Cost(0, 0, 0, 0)

    def logits(self, context: Tokens) -> Floats:
        """Logits of the next token, (V,)."""
        if context not in self._logits:
            generator = np.random.default_rng([self._seed, *context])
            self._logits[context] = generator.normal(size=self.vocab_size) * self._spread
        return self._logits[context]

    def open(self, prompt: Tokens, ending: Ending) -> _TablePrompt:
        return _TablePrompt(prompt, ending)

    def add(self, prompt: _TablePrompt, draw: Draw) -> int:
        ticket = next(self._tickets)
        self._rows[ticket] = prompt, Row(ticket, draw, prompt.ending)
        return ticket

    def drop(self, ticket: int) -> None:
        self._rows.pop(ticket, None)

    def drawn(self, ticket: int) -> Tokens:
        return tuple(self._rows[ticket][1].tokens) if ticket in self._rows else ()

    def so_far(self, ticket: int) -> Continuation:
        return self._rows[ticket][1].so_far()

    def set_floors(self, ticket: int, floors: Floats | None) -> None:
        self._rows[ticket][1].floors = floors

    @property
    def spare_rows(self) -> int:
        return self.max_rows - len(self._rows)

    def reset(self) -> None:
        self._rows.clear()

    def step(self) -> tuple[list[int], list[tuple[int, Continuation]]]:
        tickets, finished = list(self._rows), []
        for ticket in tickets:
            prompt, row = self._rows[ticket]
            law = row.draw.law
            logits = self.logits((*context_of(prompt.tokens, row.draw), *row.tokens))
            allowed = row.allowed()
            q = np.exp(log_law(logits, law.proposal_temperature, allowed))
            cdf = np.cumsum(q)
            token = int(np.searchsorted(cdf, row.uniform() * cdf[-1], side="right"))
            log_p = log_law(logits, law.temperature)
            notes = extras_of(logits, law, allowed, token)
            if row.push(token, float(log_p[token]), math.log(q[token]), notes):
                finished.append((ticket, row.continuation()))
                del self._rows[ticket]
        calls, steps, rows, prefilled = self.cost
        self.cost = Cost(calls + bool(tickets), steps + bool(tickets), rows + len(tickets), prefilled)
        return tickets, finished

    def score(self, prompt: Tokens, tokens: Tokens, temperature: float) -> Floats:
        contexts = [(*prompt, *tokens[:t]) for t in range(len(tokens))]
        return np.array(
            [log_law(self.logits(c), temperature)[t] for c, t in zip(contexts, tokens, strict=True)], dtype=float
        )


def extras_of(logits: Floats, law: Law, allowed: NDArray[np.bool_] | None, token: int) -> list[float]:
    """What a law asks for besides log p and log q (see `Row.push`)."""
    scores = [float(log_law(logits, temperature, allowed)[token]) for temperature in law.score_at]
    if not law.wants_entropy:
        return scores
    log_p = log_law(logits, law.temperature)
    return [-float(np.exp(log_p) @ log_p), *scores]


def log_law(logits: Floats, temperature: float, allowed: NDArray[np.bool_] | None = None) -> Floats:
    if allowed is not None:
        logits = np.where(allowed, logits, -np.inf)
    if temperature == 0:
        return np.where(np.arange(len(logits)) == logits.argmax(), 0.0, -np.inf)
    scaled: Floats = logits / temperature
    return np.asarray(scaled - np.logaddexp.reduce(scaled))
