"""An engine far away: it draws whole continuations with a random generator of its own, when it likes.

It cannot be stepped token by token, looked at before a draw is done, or masked; a floor means nothing to it. What a
server of completions looks like from here, over a model that can be enumerated.
"""

from __future__ import annotations

from itertools import count
from typing import NamedTuple

import numpy as np

from power_sampling.engines.choice import choose
from power_sampling.engines.protocol import Capabilities, RuleMaker, Stepped
from power_sampling.engines.row import Row, context_of
from power_sampling.testing import TableLM
from power_sampling.types import Continuation, Draw, Floats, Termination, Tokens


class _Prompt(NamedTuple):
    tokens: Tokens
    termination: Termination
    prefilled_tokens: int = 0
    reused_tokens: int = 0


class ServedLM:
    """Satisfies `LanguageModel`, and nothing beyond it. `rules` is the server's own affair."""

    capabilities = Capabilities()
    context_window = None

    def __init__(self, table: TableLM, rules: RuleMaker, *, seed: int = 0) -> None:
        self.table, self._rules, self._random = table, rules, np.random.default_rng(seed)
        self.vocab_size = table.vocab_size
        self._tickets = count()
        self._queue: dict[int, tuple[_Prompt, Draw]] = {}
        self.drawn = 0  # tokens

    def open(self, prompt: Tokens, termination: Termination) -> _Prompt:
        assert termination.constraint is None, "refused before it gets here"
        return _Prompt(prompt, termination)

    def add(self, prompt: _Prompt, draw: Draw) -> int:
        assert not draw.law.wants_entropy and not draw.law.score_at, "refused before it gets here"
        ticket = next(self._tickets)
        self._queue[ticket] = prompt, draw
        return ticket

    def drop(self, ticket: int) -> None:
        self._queue.pop(ticket, None)

    def step(self) -> Stepped:
        """Nothing, every now and then; else some of the draws, whole, in an order of its own."""
        if self._random.random() < 0.2:
            return Stepped()
        ready = [ticket for ticket in self._queue if self._random.random() < 0.5]
        self._random.shuffle(ready)
        finished = [(ticket, self._drawn(*self._queue.pop(ticket))) for ticket in ready]
        return Stepped(ready, finished)

    def reset(self) -> None:
        self._queue.clear()

    def score(self, prompt: Tokens, tokens: Tokens, temperature: float) -> Floats:
        return self.table.score(prompt, tokens, temperature)

    def _drawn(self, prompt: _Prompt, draw: Draw) -> Continuation:
        own = draw._replace(seed=int(self._random.integers(2**63)), floors=None)
        rule = self._rules(prompt.termination)
        watch = rule.watch(draw.chain.tokens[: draw.cut]) if rule else None
        row = Row(0, own, prompt.termination.eos_ids, watch)
        while not row.is_over:
            row.push(*choose(self.table.logits((*context_of(prompt.tokens, draw), *row.tokens)), row))
        self.drawn += len(row.tokens)
        return row.continuation()
