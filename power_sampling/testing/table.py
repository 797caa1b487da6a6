"""A language model small enough to enumerate: its next-token laws come from a hash of the context."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np

from power_sampling.engines.choice import choose, log_law, ranked
from power_sampling.engines.protocol import Capabilities, Cost, RuleMaker, Stepped, Watch, no_rules
from power_sampling.engines.row import Row, context_of
from power_sampling.types import Continuation, Draw, Floats, Law, Ranked, Termination, Tokens

__all__ = ["TableLM"]


class _TablePrompt:
    """The handle of `open`."""

    def __init__(self, tokens: Tokens, termination: Termination) -> None:
        self.tokens, self.termination = tokens, termination
        self.prefilled_tokens = self.reused_tokens = 0


class TableLM:
    """A language model whose next-token laws are drawn from a hash of the context. Satisfies `LanguageModel`.

    `spread` is the standard deviation of the logits: lengths and probabilities of completions vary with it. It decodes
    every row at once; `max_rows` only says how many are to spare.
    """

    context_window = None
    capabilities = Capabilities.every()
    max_rows = 32

    def __init__(self, vocab_size: int, seed: int, *, spread: float = 1.5, rules: RuleMaker = no_rules) -> None:
        self.vocab_size, self._seed, self._spread, self.rules = vocab_size, seed, spread, rules
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

    def watch(self, termination: Termination, tokens: Tokens) -> Watch | None:
        """Of a row whose completion starts with `tokens`."""
        rule = self.rules(termination)
        return rule.watch(tokens) if rule else None

    def open(self, prompt: Tokens, termination: Termination) -> _TablePrompt:
        return _TablePrompt(prompt, termination)

    def add(self, prompt: _TablePrompt, draw: Draw) -> int:
        ticket = next(self._tickets)
        watch = self.watch(prompt.termination, draw.chain.tokens[: draw.cut])
        self._rows[ticket] = prompt, Row(ticket, draw, prompt.termination.eos_ids, watch)
        return ticket

    def drop(self, ticket: int) -> None:
        self._rows.pop(ticket, None)

    def so_far(self, ticket: int) -> Continuation:
        return self._rows[ticket][1].so_far()

    def set_floors(self, ticket: int, floors: Floats | None) -> None:
        self._rows[ticket][1].floors = floors

    @property
    def spare_rows(self) -> int:
        return self.max_rows - len(self._rows)

    def reset(self) -> None:
        self._rows.clear()

    def step(self) -> Stepped:
        tickets, finished, failed = list(self._rows), [], []
        for ticket in tickets:
            prompt, row = self._rows[ticket]
            logits = self.logits((*context_of(prompt.tokens, row.draw), *row.tokens))
            row.push(*choose(logits, row))
            if row.fault is not None:
                failed.append((ticket, row.fault))
            elif row.end is not None:
                finished.append((ticket, row.continuation()))
            if row.is_over:
                del self._rows[ticket]
        calls, steps, rows, prefilled = self.cost
        self.cost = Cost(calls + bool(tickets), steps + bool(tickets), rows + len(tickets), prefilled)
        return Stepped(tickets, finished, failed)

    def score(self, prompt: Tokens, tokens: Tokens, temperature: float) -> Floats:
        contexts = [(*prompt, *tokens[:t]) for t in range(len(tokens))]
        return np.array(
            [log_law(self.logits(c), temperature)[t] for c, t in zip(contexts, tokens, strict=True)], dtype=float
        )

    def ranked(self, prompt: _TablePrompt, tokens: Tokens, law: Law, count: int) -> Iterator[list[Ranked]]:
        for t in range(len(tokens)):
            yield [ranked(self.logits((*prompt.tokens, *tokens[:t])), law, tokens[:t], count)]
