"""Nothing that a prompt decides is computed twice for one call, however many completions are asked for."""

from __future__ import annotations

from typing import Any

import pytest

from power_sampling import Conversation, PowerSampler
from power_sampling.text.codec import Codec
from power_sampling.text.formats import base
from tests.support.tiny import tiny_model, tiny_tokenizer

TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def sampler() -> PowerSampler:
    return PowerSampler.from_model(tiny_model(), tiny_tokenizer(), sampler="ancestral", alpha=1.0, max_new_tokens=6)


def test_a_conversation_is_checked_once_for_all_its_completions(
    sampler: PowerSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(holder: Any, name: str) -> None:
        real = getattr(holder, name)
        monkeypatch.setattr(holder, name, lambda *given, **named: (calls.append(name), real(*given, **named))[1])

    counted(base, "offered_tools")
    counted(Codec, "encode_chat")
    counted(Codec, "starts_in_reasoning")
    talk = Conversation(messages=[{"role": "user", "content": "Hi"}], tools=[TOOL])
    assert len(sampler.generate([talk], n=3, seed=1)) == 3
    assert sorted(calls) == ["encode_chat", "offered_tools", "starts_in_reasoning"]


def test_the_text_of_a_token_is_decoded_once(sampler: PowerSampler) -> None:
    completion = sampler.complete("ab", seed=1)
    codec = sampler._model.load().codec
    codec._tokenizer = None  # nothing is decoded any more
    assert codec.token_strings(completion.tokens) == completion.token_text
