"""Reasoning through the facade: variables of the template, marks that are tokens, a budget, earlier turns."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_power_sampling._messages import engine_messages
from power_sampling import ConfigurationError, Conversation, PowerSampler
from power_sampling.text.codec import Codec
from power_sampling.text.formats import tool_format
from tests.support.calls import SAMPLES, TOOLS, tokenizer_of
from tests.support.llamaindex import Speaker
from tests.support.tiny import tiny_model, tiny_tokenizer

USER = {"role": "user", "content": "x"}
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>"
    "{% endif %}{{ m.content }}<|end|>{% endfor %}{{ level }}<|assistant|>{% if enable_thinking %}<think>{% endif %}"
)


def sampler_of(tokenizer: Any, **settings: Any) -> PowerSampler:
    model = tiny_model(layers=1, vocab_size=len(tokenizer))
    return PowerSampler.from_model(model, tokenizer, **{"sampler": "low_temperature", "max_new_tokens": 12, **settings})


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.family)
def test_a_token_that_carries_a_call_or_a_thought_stays_in_the_text(sample: Any) -> None:
    tokenizer = tokenizer_of(sample.family)
    codec = Codec(tokenizer, family=sample.family)
    text = f"{sample.thoughts[0]}hm{sample.thoughts[1]} {sample.call}"
    if sample.family in ("functiongemma", "llama4", "phi4", "mistral", "llama3"):  # their templates know no reasoning
        text = sample.call
    tokens = codec.encode(f"<|user|>{text}<|end|>", add_special_tokens=False)
    assert codec.decode(tokens) == (text if sample.family != "harmony" else f"{text}<|end|>")  # here it ends messages
    assert "<|user|>" in codec.decode(tokens, keep_control_tokens=True)


def test_variables_reach_the_template() -> None:
    sampler = sampler_of(tokenizer_of("hermes", TEMPLATE))
    plain, told = (
        sampler.with_settings(chat_template_kwargs=given).encode([USER]) if given else sampler.encode([USER])
        for given in ({}, {"level": "high", "enable_thinking": True})
    )
    text = "".join(sampler._model.load().codec.token_strings(told))
    assert len(told) > len(plain) and text.endswith("high<|assistant|><think>")
    with pytest.raises(ConfigurationError, match="chat_template_kwargs: tools"):
        sampler.generate([[USER]], chat_template_kwargs={"tools": []})


@pytest.mark.parametrize("budget", [0, 3])
def test_a_thought_is_closed_when_its_budget_is_spent(budget: int) -> None:
    tokenizer = tokenizer_of("hermes", TEMPLATE)
    close = tokenizer.convert_tokens_to_ids("</think>")
    sampler = sampler_of(tokenizer, chat_template_kwargs={"enable_thinking": True}, thinking_budget=budget)
    for seed in range(3):
        [completion] = sampler.generate([[USER]], seed=seed)
        assert close in completion.tokens[: budget + 1]
        assert completion.reply is not None
    with pytest.raises(ConfigurationError, match="thinking_budget"):
        sampler.complete("x")
    with pytest.raises(ConfigurationError, match="no marks of reasoning"):
        sampler_of(tiny_tokenizer(), thinking_budget=1).generate([[USER]])


def test_a_forced_call_comes_after_a_thought_of_a_budget() -> None:
    tokenizer = tokenizer_of("qwen3_coder", TEMPLATE)
    sampler = sampler_of(
        tokenizer,
        tool_format="qwen3_coder",
        chat_template_kwargs={"enable_thinking": True},
        thinking_budget=2,
        max_new_tokens=200,
    )
    talk = Conversation(messages=[USER], tools=TOOLS[:1], tool_choice="required")
    [completion] = sampler.generate([talk], seed=1)
    assert completion.reply is not None
    [call] = completion.reply.tool_calls
    assert call.name == "weather" and "city" in call.arguments


def test_earlier_thoughts_go_back_to_the_template() -> None:
    kept = AIMessage("Yes", additional_kwargs={"reasoning_content": "hm"})
    blocks = AIMessage([{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "Yes"}])
    codec = Codec(tokenizer_of("hermes", TEMPLATE))
    for message in (kept, blocks):
        messages = engine_messages([HumanMessage("x"), message, HumanMessage("y")])
        assert messages[1] == {"role": "assistant", "content": "Yes", "reasoning_content": "hm"}
        assert "<think>hm</think>Yes" in codec.decode(codec.encode_chat(messages), keep_control_tokens=True)


def test_a_format_that_nobody_knows_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigurationError, match="tool_format: expected one of"):
        PowerSampler.from_pretrained("no/model", tool_format="qwen99")


FALLBACKS = {"qwen3": "hermes", "qwen3_5": "qwen3_coder", "gemma4": "gemma4"}


@pytest.mark.parametrize(("model_type", "family"), FALLBACKS.items())
def test_a_family_reads_what_transformers_own_fallback_reads(model_type: str, family: str) -> None:
    """They stand for tokenizers that bring no response template of their own."""
    from transformers.cli.serving.utils import _RESPONSE_TEMPLATE_FALLBACKS as FALLBACK

    sample = next(sample for sample in SAMPLES if sample.family == family)
    template = next(value for types, value in FALLBACK.items() if model_type in types)
    text = f"{sample.thoughts[0]}hm{sample.thoughts[1]}{sample.call}"
    theirs = tiny_tokenizer().parse_response(text, template, prefix="", tools=list(TOOLS))
    reader = (
        tool_format(sample.template, {}).turn(Conversation(messages=(), tools=TOOLS)).reader(starts_in_reasoning=False)
    )
    reader.push(text)
    _, reply = reader.finish()
    [call] = reply.tool_calls
    assert theirs["reasoning_content"].strip() == reply.reasoning == "hm"
    assert theirs["tool_calls"][0]["function"] == {"name": call.name, "arguments": call.arguments}


RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {"thinking": {"open": "<think>", "close": "</think>"}, "content": {"content": "text"}},
}


@pytest.mark.parametrize("said", ["Hello STOP more", "<think>hm</think>Hello<|user|> ST<|user|>OP more"])
def test_a_stop_string_is_no_part_of_what_a_response_template_reads(said: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.response_template = RESPONSE
    sampler = PowerSampler.from_model(Speaker(lambda prompt: [said]), tokenizer, sampler="ancestral", max_new_tokens=60)
    *_, last = sampler.stream([USER], stop=["STOP"])
    for completion in (sampler.chat([USER], stop=["STOP"]), last.completion):
        assert completion is not None and completion.reply is not None
        assert completion.stop == "STOP" and completion.reply.content.replace("<|user|>", "").strip() == "Hello"
        assert completion.reply.reasoning == ("hm" if "hm" in said else "")
