"""Whatever a request may bring along that raises, on a table model; and what runs beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from power_sampling.config import GenerationConfig
from power_sampling.samplers import NumpyRng, sampler_for
from power_sampling.serving.worker import Request
from power_sampling.testing import TableLM
from power_sampling.types import Floats, Termination, Tokens

EOS, ENDLESS = Termination(frozenset({0})), Termination(frozenset())
PROMPT: Tokens = (5, 3, 1)


class Panic(BaseException):
    """What a parser in another language raises: no `Exception`."""


class Speechless(Exception):
    """What cannot even be quoted."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def of(config: GenerationConfig, seed: int = 0, *, ending: Termination = EOS, **fields: Any) -> Request:
    """A request under these settings."""
    return Request(
        termination=ending,
        **{
            "prompt": PROMPT,
            "make_sampler": lambda over: sampler_for(config, config.max_new_tokens, NumpyRng(seed), over),
            **fields,
        },
    )


def bystanders() -> list[Request]:
    """Three requests that have to get the answers they get alone."""
    moves = {"name": "metropolis_hastings", "num_steps": 4, "block_size": 6, "prefetch": 2}
    configs = [
        GenerationConfig(sampler="ancestral", alpha=1.0, max_new_tokens=20),
        GenerationConfig(sampler=moves, alpha=2.0, max_new_tokens=12),
        GenerationConfig(sampler={"name": "sequential_monte_carlo", "num_particles": 4}, alpha=2.0, max_new_tokens=20),
    ]
    return [of(config, seed, ending=ENDLESS) for seed, config in enumerate(configs)]


class BadRule:
    """A stop rule or constraint of which one part raises: `at` is watch, fork, allowed or push."""

    has_masks, is_limited = True, False

    def __init__(self, at: str, error: BaseException, vocab_size: int) -> None:
        self.at, self._error, self._vocab_size = at, error, vocab_size

    def _do(self, what: str) -> None:
        if what == self.at:
            raise type(self._error)(*self._error.args)  # a fresh one: a traceback holds what it went through

    def watch(self, tokens: Tokens) -> BadRule:
        self._do("watch")
        return self

    def fork(self, length: int) -> BadRule:
        self._do("fork")
        return self

    def allowed(self) -> Any:
        self._do("allowed")
        return np.full(self._vocab_size, self.at != "nothing")

    def push(self, token: int) -> None:
        self._do("push")


def bad_rules(vocab_size: int, error: BaseException) -> Callable[[Termination], BadRule | None]:
    """Rules under which the constraint "push" raises when it is told a token, and so on."""

    def rule(termination: Termination) -> BadRule | None:
        if termination.constraint == "rule":
            raise error
        return BadRule(termination.constraint, error, vocab_size) if termination.constraint else None

    return rule


class Broken(TableLM):
    """A table whose logits are `wrong` wherever the context begins with 7, four tokens in."""

    def __init__(self, vocab_size: int, wrong: float, **options: Any) -> None:
        super().__init__(vocab_size, seed=2, **options)
        self._wrong = wrong

    def logits(self, context: Tokens) -> Floats:
        logits = super().logits(context)
        if context[0] == 7 and len(context) > 4:
            logits = logits.copy()
            logits[len(context) % self.vocab_size] = self._wrong
        return logits


class Stuck(TableLM):
    """A table whose third step does not return before `release` is set."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.release, self.is_stuck = threading.Event(), threading.Event()

    def step(self) -> Any:
        if self.cost.serial_steps == 3:
            self.is_stuck.set()
            self.release.wait()
        return super().step()
