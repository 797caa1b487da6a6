"""Every sampler on one engine, through the worker and in one batch; and every number that an engine told beside a full
pass that keeps nothing."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from power_sampling.config import GenerationConfig
from power_sampling.engines.protocol import Rule, Stepped
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.errors import NothingAcceptedError
from power_sampling.samplers import ALL, NumpyRng, SamplerOptions, sampler_for
from power_sampling.serving.worker import Job, Request, Worker
from power_sampling.text.rules import Rules
from power_sampling.types import Continuation, Draw, Floats, Termination, Tokens
from tests.support.constraints import PLAIN, Words

__all__ = ["Noted", "answer_by_every_sampler"]

HORIZON = 6
EOS = frozenset({0})
ASKED: list[tuple[Tokens, Termination]] = [
    ((5, 3, 7, 7, 2, 9, 1), Termination(EOS)),
    ((4,), Termination(EOS, stop=("b", "d", "ha", "k", "q", "v"))),
    ((8, 1, 6) * 4, Termination(EOS, constraint="|".join(PLAIN), max_new_tokens=HORIZON)),
]
FEW = {"num_steps": 2, "block_size": 3, "num_rungs": 2, "num_particles": 3, "num_completions": 2, "num_candidates": 2}
FEW |= {"num_rollouts": 1, "num_parallel": 4, "max_draws": 12}


class Told(NamedTuple):
    """A draw that has ended, and what the engine told of it."""

    prompt: Tokens
    rule: Rule | None
    draw: Draw
    continuation: Continuation

    @property
    def text(self) -> Tokens:
        return (*self.prompt, *self.draw.chain.tokens[: self.draw.cut], *self.continuation.tokens)

    def gap(self, logits: torch.Tensor) -> float:
        """The largest of log p, and of log q times its temperature, which is what logits differ by."""
        c, law, number = self.continuation, self.draw.law, len(self.continuation.tokens)
        logits, tokens = logits[-number - 1 : -1], torch.tensor(c.tokens)[:, None]
        masked = logits if self.rule is None else logits.masked_fill(~self._allowed(logits.shape[-1]), -torch.inf)

        def off(told: Floats, logits: torch.Tensor, temperature: float) -> float:
            right = (logits / temperature).log_softmax(-1).gather(-1, tokens)[:, 0].numpy()
            is_number = np.isfinite(told)  # what is illegal has none
            return float(np.abs(told - right)[is_number].max(initial=0.0) * min(1.0, temperature))

        found = [off(c.logp, logits, law.temperature)]
        found.append(off(law.alpha * c.logp - c.log_weight, masked, law.proposal_temperature))
        found += [off(c.logq[:, k], masked, temperature) for k, temperature in enumerate(law.score_at)]
        return max(found)

    def _allowed(self, vocab_size: int) -> torch.Tensor:
        """Which tokens q could draw at each position."""
        assert self.rule is not None
        watch, found = self.rule.watch(self.draw.chain.tokens[: self.draw.cut]), list[NDArray[np.bool_]]()
        for token in self.continuation.tokens:
            mask = watch.allowed()
            found.append(np.ones(vocab_size, dtype=np.bool_) if mask is None else mask)
            if token not in EOS:
                watch.push(token)
        return torch.tensor(np.array(found))


class Noted(TorchLM):
    """Keeps all that it tells."""

    def __init__(self, model: Any, *args: Any, **options: Any) -> None:
        super().__init__(model, *args, rules=self._ruled, **options)
        self.told: list[Told] = []
        self._asked: dict[int, tuple[Any, Draw]] = {}

    def _ruled(self, termination: Termination) -> Rule | None:
        """Stop strings over letters that tokens stand for; a constraint lists the legal completions."""
        if termination.constraint is None:
            return Rules(lambda ids: "".join(chr(ord("a") + i) for i in ids))(termination)
        return Words(termination.constraint.split("|"), HORIZON, self.vocab_size)

    def add(self, prompt: Any, draw: Draw) -> int:
        ticket = super().add(prompt, draw)
        self._asked[ticket] = prompt, draw
        return ticket

    def step(self) -> Stepped:
        done = super().step()
        for ticket, continuation in done.finished:
            prompt, draw = self._asked.pop(ticket)
            self.told.append(Told(prompt.tokens, prompt.rule, draw, continuation))
        return done

    @torch.inference_mode()
    def gap(self) -> float:
        """The largest between what was told and what full passes say, texts of one length in one pass."""
        by_length: defaultdict[int, dict[Tokens, list[Told]]] = defaultdict(lambda: defaultdict(list))
        for told in self.told:
            by_length[len(told.text)][told.text].append(told)
        most = 0.0
        for texts in by_length.values():
            passed = self.backend.model(torch.tensor(list(texts)), use_cache=False).logits
            for same, logits in zip(texts.values(), passed[..., : self.vocab_size].double(), strict=True):
                most = max(most, *(told.gap(logits) for told in same))
        return most


def few() -> list[SamplerOptions]:
    """Every sampler, of few steps; what can prefetch with and without."""
    found = []
    for options in ALL:
        own: dict[str, Any] = {name: value for name, value in FEW.items() if name in options.model_fields}
        variants: list[dict[str, Any]] = [{}]
        if "prefetch" in options.model_fields:  # which some do not in blocks
            variants = [{"prefetch": 0}, {"prefetch": 6, "block_size": None}]
        found += [options(**own | variant) for variant in variants]
    return found


def answer_by_every_sampler(lm: Noted) -> set[str]:
    """Three prompts each, of other lengths and endings, all of them together. The names of those that answered."""
    worker, asked = Worker(lm), [(options, i) for options in few() for i in range(len(ASKED))]
    jobs = worker.submit_all([_request(options, *ASKED[i], seed=i) for options, i in asked])
    try:
        return {options.name for (options, _), job in zip(asked, jobs, strict=True) if _has_answered(job)}
    finally:
        worker.close()


def _request(options: SamplerOptions, prompt: Tokens, ending: Termination, seed: int) -> Request:
    alpha = 1.01 if options.name == "rejection" else 2.0  # of which it accepts some
    config = GenerationConfig(sampler=options, alpha=alpha)
    return Request(
        prompt=prompt,
        termination=ending,
        make_sampler=lambda is_over: sampler_for(
            config, HORIZON, NumpyRng(seed), is_over, is_constrained=ending.is_restricted
        ),
    )


def _has_answered(job: Job) -> bool:
    """Raises what is no rejection: what it drew has been told all the same."""
    error = job.future.exception(300)
    if error is not None and not isinstance(error, NothingAcceptedError):
        raise error
    return error is None
