"""What a server is asked before it is used: whether it serves the model, and whether its numbers are those of p.

Its settings decide what it lists. A server that would change the law is refused with the command that starts a right
one. What `generation_config.json` says changes nothing, for every draw says all of its fields.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from power_sampling.engines.vllm.client import Client
from power_sampling.engines.vllm.command import serve_command
from power_sampling.engines.vllm.logprobs import Support
from power_sampling.engines.vllm.servers import Server
from power_sampling.engines.vllm.wire import draw_body, listed_of, score_body
from power_sampling.errors import EngineError, ModelNotFoundError, UnsupportedModelError
from power_sampling.types import Law, Tokens

__all__ = ["Served", "Shown", "check_alike", "in_16_bits", "num_listed", "served", "tried"]

TRIED = 16  # tokens, drawn and then scored
MASKED = -9000.0  # JSON has no infinite number: vLLM writes -9999
SAME = 0.25  # nats between two passes of one model in 16 bits; other settings and other models are further apart
EXACT = 1e-3  # nats between two passes in float32, at most
GRID, NEAR = 2.0**-12, 0.06  # on which logits in 16 bits lie, but for small ones; how near, as a part of it


class Served(NamedTuple):
    """A model as a server names it."""

    name: str
    root: str  # its folder or hub id there
    window: int | None


class Shown(NamedTuple):
    """What a server listed at the trial."""

    url: str
    likeliest: tuple[float, ...]
    noise: float  # nats by which log p of a token differed at most, drawn and scored
    is_coarse: bool  # see `in_16_bits`

    @property
    def rounds(self) -> bool:
        """Whether it computes in fewer bits than float32 has: another pass may give a token another log p, though the
        passes of the trial may have rounded alike."""
        return self.is_coarse or self.noise > EXACT


async def served(client: Client, server: Server, model: str | None) -> Served:
    """The model of this name there; without a name, the only one. Raises ModelNotFoundError, and ServerFault where
    nothing answers."""
    found = await client.ask(server, "GET", "/v1/models")
    cards: list[dict[str, Any]] = found.get("data") or []
    names = [card["id"] for card in cards]
    chosen = [card for card in cards if card["id"] == model or (model is None and len(cards) == 1)]
    if not chosen:
        told = "no model is named" if model is None else f"not {model!r}"
        raise ModelNotFoundError(
            f"{server.url} serves {', '.join(names) or 'nothing'}, {told}; give `model` one of them."
        )
    card = chosen[0]
    return Served(card["id"], card.get("root") or card["id"], card.get("max_model_len"))


async def num_listed(client: Client, server: Server, model: Served, wanted: int, *, is_asked_for: bool) -> int:
    """How many tokens of a position the server lists, at most as many as wanted. Raises UnsupportedModelError where
    so many were asked for and are not to be had."""
    refusal = await _refusal(client, server, model, wanted)
    if refusal is None:
        return wanted
    found = re.search(r"logprobs.*?(\d+)\D*$", str(refusal))
    allowed = int(found[1]) if found else 0
    if allowed < 2 or is_asked_for or await _refusal(client, server, model, allowed):
        fewer = f", or lower support_size to {allowed - 1}" if 2 <= allowed < wanted else ""
        raise UnsupportedModelError(
            f"{server.url} does not list {wanted} tokens of a position ({refusal}). Start it by: "
            f"{serve_command(model.root, wanted - 1)}{fewer}"
        ) from refusal
    return allowed


async def _refusal(client: Client, server: Server, model: Served, count: int) -> EngineError | None:
    """What the server says to so many tokens; None: it lists them."""
    body = draw_body(model.name, (0,), 1, Law(1.0, 1.0, 1.0), Support(count, None, count), 0, frozenset())
    try:
        await client.ask(server, "POST", "/v1/completions", _whole(body))
    except EngineError as refusal:
        return refusal
    return None


async def tried(client: Client, server: Server, model: Served, support: Support, prompt: Tokens) -> Shown:
    """What it lists behind a prompt. Raises UnsupportedModelError where that is not log p at temperature 1: tokens
    drawn at another temperature from the likeliest alone have to have the log p that they have as a part of a prompt,
    but for rounding."""
    law, count = Law(2.0, 1.0, 0.5), max(1, min(TRIED, (model.window or 10**6) - len(prompt) - 1))
    body = draw_body(model.name, prompt, count, law, support._replace(num_drawn=1), 0, frozenset())
    drawn = listed_of((await client.ask(server, "POST", "/v1/completions", _whole(body)))["choices"][0])
    if not drawn:
        raise UnsupportedModelError(
            f"{server.url} does not tell the ids of the tokens it draws (return_token_ids): it has to be vLLM 0.29 or "
            "later."
        )
    tokens = tuple(each.token for each in drawn)
    scored = await client.ask(server, "POST", "/v1/completions", score_body(model.name, (*prompt, *tokens), 0))
    told = [position or {} for position in (scored["choices"][0].get("prompt_logprobs") or [])[-len(drawn) :]]
    logp = [position.get(str(token), {}).get("logprob") for position, token in zip(told, tokens, strict=False)]
    off = [math.inf if b is None else abs(a.logp - b) for a, b in zip(drawn, logp, strict=False)] or [math.inf]
    if not statistics.median(off) < SAME or not drawn[0].likeliest[-1] > MASKED:
        first = logp[0] if logp else None
        raise UnsupportedModelError(
            f"{server.url} lists other numbers than log p at temperature 1 ({drawn[0].logp:.3f} for a token of "
            f"{'unknown log p' if first is None else f'log p {first:.3f}'}): its --logprobs-mode is another. Start it "
            f"by: {serve_command(model.root, support.num_listed - 1)}"
        )
    is_coarse = in_16_bits([each.likeliest for each in drawn])
    return Shown(server.url, drawn[0].likeliest[: support.num_listed], max(off), is_coarse)


def in_16_bits(lists: Sequence[Sequence[float]]) -> bool:
    """Whether these log probabilities, a list for each position, are of logits in 16 bits: their differences lie on a
    grid, on which 16 or more of float32 are by chance below 1e-10."""
    every = [np.array([x for x in each if x > MASKED]) for each in lists]
    off = np.concatenate([(each[0] - each[1:]) / GRID for each in every if len(each)] or [np.empty(0)])
    return len(off) >= 16 and bool(np.mean(np.abs(off - np.round(off)) < NEAR) > 0.9)


def check_alike(shown: list[Shown]) -> None:
    """Raises UnsupportedModelError where servers say different things of one prompt."""
    for other in shown[1:]:
        pairs = zip(shown[0].likeliest, other.likeliest, strict=False)
        if any(abs(a - b) > 2 * SAME for a, b in [*pairs][:5]):
            raise UnsupportedModelError(
                f"{shown[0].url} and {other.url} give one prompt different probabilities: they serve different models, "
                "or different weights of one. Draws of one answer go to any of them; name alike servers only."
            )
        if other.rounds != shown[0].rounds:
            raise UnsupportedModelError(
                f"{shown[0].url} and {other.url} compute in different numbers of bits. Start all of them with the same "
                "--dtype."
            )


def _whole(body: dict[str, Any]) -> dict[str, Any]:
    """The same, not streamed."""
    return {name: value for name, value in body.items() if not name.startswith("stream")}
