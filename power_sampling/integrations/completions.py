"""What a framework's answer says of a completion, as plain JSON values."""

from __future__ import annotations

from typing import Any

from power_sampling.types import Completion, Reply

__all__ = ["completion_facts", "finish_reason", "reply_of", "token_logprobs"]


def completion_facts(completion: Completion) -> dict[str, Any]:
    """What is known of a completion beside its text: `finish_reason`, `stop`, `logp`, `seed`, `usage` (token counts;
    `prompt_tokens_details` has those that were cached) and `power_sampling` (the sampler's diagnostics)."""
    return {
        "finish_reason": completion.finish_reason,
        "stop": completion.stop,
        "logp": completion.logp,
        "seed": completion.seed,
        "usage": {**completion.usage, "prompt_tokens_details": {"cached_tokens": completion.cached_tokens}},
        "power_sampling": completion.diagnostics.to_dict(),
    }


def finish_reason(completion: Completion, *, has_calls: bool) -> str:
    """As frameworks and OpenAI's protocols have it: `stop`, `tool_calls` or `length`. What was cut is never told as
    finished: whether more calls were to come, or more of the last one, nobody knows."""
    return "tool_calls" if has_calls and completion.finish_reason == "stop" else completion.finish_reason


def token_logprobs(completion: Completion) -> list[dict[str, Any]]:
    """The log p of every token: `{"token": text, "logprob": number}`, in order; with `top_logprobs`, a list of the same
    for the likeliest tokens of its position, where they were asked for."""
    tokens = zip(completion.token_text, completion.token_logp, strict=True)
    facts: list[dict[str, Any]] = [{"token": token, "logprob": logp} for token, logp in tokens]
    for fact, likeliest in zip(facts, completion.top_logprobs, strict=False):
        fact["top_logprobs"] = [{"token": each.text, "logprob": each.logp} for each in likeliest]
    return facts


def reply_of(completion: Completion) -> Reply:
    """The completion taken apart; of a text prompt, all of it is content."""
    return completion.reply or Reply(content=completion.text)
