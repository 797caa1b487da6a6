"""What becomes of a prompt that leaves no room for its answer. Frameworks count with another tokenizer and without the
chat template, so such prompts do arrive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from power_sampling.errors import EmptyPromptError
from power_sampling.runtime import PowerSampler
from power_sampling.text.validation import checked_conversation
from power_sampling.types import Conversation

__all__ = ["OverflowPolicy", "fit_context"]

OverflowPolicy: TypeAlias = Literal["error", "truncate_left", "shrink_output"]
"""`error`: the request raises ContextOverflowError. `truncate_left`: the oldest turns go, then the beginning of the
longest text, never the system's words. `shrink_output`: a shorter answer."""

Messages: TypeAlias = list[dict[str, Any]]


def fit_context(
    sampler: PowerSampler, prompt: str | Conversation, policy: OverflowPolicy
) -> tuple[PowerSampler, str | Conversation]:
    """The request as the policy wants it. What cannot be made to fit is left for the sampler to refuse.

    Every policy but `error` loads the model.
    """
    window = None if policy == "error" else sampler.context_window
    if window is None:
        return sampler, prompt
    if not isinstance(prompt, str):
        prompt = checked_conversation(prompt)
    horizon = sampler.generation.max_new_tokens
    if policy == "shrink_output":
        room = window - len(sampler.encode(prompt))
        return (sampler.with_settings(max_new_tokens=max(1, room)) if room < horizon else sampler), prompt

    def fits(shorter: str | Conversation) -> bool:
        try:
            return len(sampler.encode(shorter)) + horizon <= window
        except EmptyPromptError:
            return True

    if fits(prompt):
        return sampler, prompt
    if isinstance(prompt, str):
        return sampler, _text_without_beginning(prompt, fits)
    return sampler, _conversation_without_beginning(prompt, fits)


def _text_without_beginning(text: str, fits: Callable[[str], bool]) -> str:
    return text[_first(len(text) - 1, lambda cut: fits(text[cut:])) :]


def _conversation_without_beginning(conversation: Conversation, fits: Callable[[Conversation], bool]) -> Conversation:
    """The oldest turns go first, the system's words last; of a lone turn the longest text loses its beginning."""
    messages: Messages = [dict(message) for message in conversation.messages]
    head = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    system, rest = messages[:head], messages[head:]
    turns = [i for i, message in enumerate(rest) if message["role"] == "user"] or [0]

    def from_turn(turn: int) -> Conversation:
        return replace(conversation, messages=[*system, *(rest[turns[turn] :] if turn else rest)])

    shorter = from_turn(_first(len(turns) - 1, lambda turn: fits(from_turn(turn))))
    if fits(shorter):
        return shorter
    kept: Messages = [dict(message) for message in shorter.messages]
    longest = max(range(head, len(kept)), key=lambda i: len(kept[i]["content"]), default=None)
    if longest is None:
        return shorter
    text: str = kept[longest]["content"]

    def from_letter(cut: int) -> Conversation:
        changed = {**kept[longest], "content": text[cut:]}
        return replace(conversation, messages=[*kept[:longest], changed, *kept[longest + 1 :]])

    return from_letter(_first(max(0, len(text) - 1), lambda cut: fits(from_letter(cut))))


def _first(end: int, holds: Callable[[int], bool]) -> int:
    """The first number of 0 to `end` for which a predicate that stays true holds; `end` where it is true for none."""
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
