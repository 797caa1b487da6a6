"""Events as a person reads them: chains as text, the new part of each marked."""

from __future__ import annotations

from collections.abc import Callable

from power_sampling.types import Chain, Event, Frame, Tokens

__all__ = ["frame_of"]


def frame_of(event: Event, text_of: Callable[[Tokens], str]) -> Frame:
    """The frame of an event. `text_of`: what a completion with these tokens reads like."""
    texts = tuple(text_of(chain.tokens) for chain in event.step.chains)
    heads: dict[Tokens, str] = {}

    def mark(chain: Chain, text: str) -> int:
        """A character may be cut in two, or end a stop string: what is new begins before it."""
        head = chain.tokens[: event.step.cut]
        if head not in heads:
            heads[head] = text_of(head)
        return _common(heads[head], text)

    return Frame(event, texts, tuple(map(mark, event.step.chains, texts)))


def _common(a: str, b: str) -> int:
    if b.startswith(a):
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
