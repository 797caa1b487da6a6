"""What a vLLM server is asked, and what it answers: bodies of `/v1/completions`, and their events.

Every field that `generation_config.json` or the server's settings would fill in is said: what is left out is theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic_core import from_json

from power_sampling.engines.vllm.logprobs import Listed, Support
from power_sampling.types import Floats, Law, Tokens

__all__ = [
    "Event",
    "ServerFault",
    "draw_body",
    "given_event",
    "listed_of",
    "read_event",
    "refusal_of",
    "score_body",
    "scores_of",
]

STREAM_INTERVAL = 4  # tokens that come together: what a server and we do for each piece costs a tenth of a step else
NEUTRAL: Mapping[str, Any] = {
    "n": 1,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "min_tokens": 0,
    "ignore_eos": True,  # a completion ends at the ids of `stop_token_ids` alone
    "watermarking": False,
    "return_token_ids": True,
}


class ServerFault(Exception):
    """A server failed, not the request: another one may answer."""


class Event(NamedTuple):
    """A piece of a draw as it is streamed."""

    listed: tuple[Listed, ...]
    finish_reason: str | None
    num_prompt: int | None = None  # tokens of the prompt, where the server tells what it used
    num_cached: int = 0  # of them, those it had the states of


def draw_body(
    model: str, tokens: Sequence[int], max_tokens: int, law: Law, support: Support, seed: int, eos_ids: frozenset[int]
) -> dict[str, Any]:
    """Draw from q behind these tokens, with what p is made of."""
    return {
        **NEUTRAL,
        "model": model,
        "prompt": list(tokens),
        "max_tokens": max_tokens,
        "temperature": law.proposal_temperature,
        "top_k": support.num_drawn or 0,
        "seed": seed,
        "logprobs": support.num_listed,
        "return_tokens_as_token_ids": True,  # tokens of equal text would share an entry
        "stop_token_ids": sorted(eos_ids),
        "stream": True,
        "stream_interval": STREAM_INTERVAL,
        "stream_options": {"include_usage": True},
    }


def score_body(model: str, tokens: Sequence[int], count: int) -> dict[str, Any]:
    """log p of each of these tokens but the first, with the `count` likeliest of its position."""
    return {
        **NEUTRAL,
        "model": model,
        "prompt": list(tokens),
        "max_tokens": 1,
        "temperature": 1.0,
        "top_k": 0,
        "seed": 0,
        "prompt_logprobs": count,
    }


def read_event(data: bytes) -> Event:
    """An event of a stream. Raises ServerFault for what is none: a worker that died says so in the stream."""
    try:
        found = from_json(data)
    except ValueError as error:
        raise ServerFault(f"it sent what is no JSON: {data[:200]!r}") from error
    if "error" in found:
        raise ServerFault(refusal_of(found))
    usage, choices = found.get("usage"), found.get("choices") or ()
    num_prompt = usage.get("prompt_tokens") if usage else None
    num_cached = ((usage or {}).get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    if not choices:
        return Event((), None, num_prompt, num_cached)
    return Event(listed_of(choices[0]), choices[0].get("finish_reason"), num_prompt, num_cached)


def listed_of(choice: Mapping[str, Any]) -> tuple[Listed, ...]:
    """The tokens of a choice with their likeliest. Raises ServerFault where the numbers do not belong to the tokens."""
    tokens, logprobs = choice.get("token_ids") or (), choice.get("logprobs")
    if not tokens:
        return ()
    told = logprobs and [*zip(tokens, logprobs["token_logprobs"], logprobs["top_logprobs"], strict=False)]
    if not told or len(told) != len(tokens) or any(logp is None for _, logp, _ in told):
        raise ServerFault("it sent tokens without their log probabilities")
    return tuple(Listed(token, logp, _falling(likeliest.values())) for token, logp, likeliest in told)


def _falling(values: Any) -> tuple[float, ...]:
    return tuple(sorted((-np.inf if value is None else value for value in values), reverse=True))


def refusal_of(found: Any) -> str:
    """What a server says of an error, in whichever of its shapes."""
    error = found.get("error", found) if isinstance(found, Mapping) else found
    message = error.get("message", error) if isinstance(error, Mapping) else error
    return f"{message!s:.500}"


def scores_of(found: Mapping[str, Any], tokens: Tokens) -> list[dict[int, float]]:
    """log p of the likeliest tokens, and of those given, at each of the last positions of a scored prompt."""
    told = found["choices"][0]["prompt_logprobs"][-len(tokens) :] if tokens else []
    every = [{int(token): float(entry["logprob"]) for token, entry in position.items()} for position in told]
    if len(every) != len(tokens) or any(token not in scores for token, scores in zip(tokens, every, strict=True)):
        raise ServerFault("it scored other tokens than it was given")
    return every


def given_event(found: Mapping[str, Any], tokens: Tokens) -> Event:
    """The last tokens of a scored prompt, as if they had been drawn."""
    told = zip(tokens, scores_of(found, tokens), strict=True)
    return Event(tuple(Listed(token, scores[token], _falling(scores.values())) for token, scores in told), None)


def logp_under(temperature: float, scores: dict[int, float], token: int) -> float:
    """log p of a token at a temperature, from a position of which every token is listed if that is not 1."""
    if temperature == 1:
        return scores[token]
    every: Floats = np.array(list(scores.values())) / temperature
    return scores[token] / temperature - float(np.logaddexp.reduce(every))
