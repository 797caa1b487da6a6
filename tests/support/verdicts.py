"""How right a model is in the engine's hands: draws that are forked anywhere, and those of every sampler, beside full
passes, judged by the model's own noise."""

from __future__ import annotations

from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import torch

from power_sampling import UnsupportedModelError
from power_sampling.engines.torch.keepers import keeper_of
from power_sampling.engines.torch.plain import PlainForward
from power_sampling.engines.torch.supported import refuse_unsupported
from power_sampling.engines.torch.trial import first_right
from power_sampling.samplers import BY_NAME
from power_sampling.types import Tokens
from tests.support.architectures import forked_draws, full_pass
from tests.support.doubled import doubled
from tests.support.every_sampler import Noted, answer_by_every_sampler

__all__ = ["Verdict", "judged", "kept_by"]

ROUNDING = 1e-11  # of log p in float64, after some hundred operations
TIMES = 8  # the noise, found on few texts
LOUDEST = 0.1  # noise, beyond which nothing is shown


class Verdict(NamedTuple):
    refused: str = ""  # why; empty: it is served
    gap: float = 0.0  # the largest between what a token was drawn with, log p and log q, and that of a full pass
    noise: float = 0.0  # the largest between two ways of the model's own, where that matters

    @property
    def is_exact(self) -> bool:
        return not self.refused and self.gap <= max(ROUNDING, min(TIMES * self.noise, LOUDEST))

    def __str__(self) -> str:
        if self.refused:
            return "refused"
        return "exact" if self.is_exact else "wrong"


def judged(model: Any) -> Verdict:
    """Of a model in float64. What it computes in float32 all the same, it computes in float64 here, if it can. What
    takes no float64 is judged in float32, and the model is left in that."""
    try:
        refuse_unsupported(model)
    except UnsupportedModelError as error:
        return Verdict(str(error))
    with doubled():
        verdict = _tried(model)
    if not verdict.is_exact:
        verdict = _tried(model)
    return verdict if verdict.is_exact else _tried(model.float())


def _tried(model: Any) -> Verdict:
    try:
        forward = first_right(model, PlainForward.ways(model))
    except UnsupportedModelError as error:
        return Verdict(str(error))
    few_rows, sampled = Noted(model, forward, max_rows=4), Noted(model, forward, max_rows=64, prompt_memory=2**20)
    chains = forked_draws(few_rows, generations=2)
    answered = answer_by_every_sampler(sampled)
    assert answered == BY_NAME.keys(), f"no answer by {BY_NAME.keys() - answered}"
    gap = max(few_rows.gap(), sampled.gap())
    texts = [(*prompt, *chain.tokens) for prompt, chain in chains[:2]] if gap > ROUNDING else []
    return Verdict(gap=gap, noise=_noise(model, texts))


def _noise(model: Any, texts: list[Tokens]) -> float:
    """Between full passes of a text alone and three times in one batch, and with the model's own cache, token by token
    after the first few."""
    most, gives_it_back = 0.0, model.config.model_type != "recurrent_gemma"
    for text in texts:
        whole, others = full_pass(model, text[:1], text[1:]), []
        with torch.inference_mode():
            others.append(model(torch.tensor([text] * 3), use_cache=False).logits[0])
            names = signature(model.forward).parameters.keys() & {"past_key_values", "cache"}
            if names and gives_it_back:
                others.append(_by_own_cache(model, text, *names))
        for logits in others:
            logp = logits[:-1].double().log_softmax(-1).gather(-1, torch.tensor(text[1:])[:, None])[:, 0]
            most = max(most, float(np.abs(logp.numpy() - whole).max()))
    return most


def _by_own_cache(model: Any, text: Tokens, name: str) -> torch.Tensor:
    cache, found = None, []
    pieces = [text[:5], *([token] for token in text[5:])]
    at = 0
    for piece in pieces:
        positions = torch.arange(at, at + len(piece))[None]
        output = model(torch.tensor([piece]), **{name: cache}, position_ids=positions, use_cache=True)
        found.append(output.logits)
        cache = output[name]
        at += len(piece)
    return torch.cat(found, 1)[0]


def kept_by(model: Any) -> str:
    """What its layers keep of a text, in words."""
    words = {
        "LinearAttention": "recurrent states",
        "SlidingWindow": "keys and values (sliding)",
        "DynamicLayer": "keys and values",
        "FullAttention": "keys and values",
        "Indexed": "keys, values and an index",
    }
    kinds = {type(layer).__name__ for layer in keeper_of(model).layers}
    return " + ".join(sorted({word for kind in kinds for key, word in words.items() if key in kind}))
