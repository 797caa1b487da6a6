"""Whatever comes as a prompt, it is answered rightly or refused by a typed error, and the next prompt is answered."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from power_sampling import (
    ConfigurationError,
    Conversation,
    EmptyPromptError,
    InputError,
    PowerSampler,
    PowerSamplingError,
    vote,
)
from power_sampling.integrations import fit_context
from power_sampling.testing import TableLM
from power_sampling.text.control import RESERVED
from tests.support.tiny import tiny_tokenizer

USER = {"role": "user", "content": "hi"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


@pytest.fixture(scope="module")
def sampler() -> PowerSampler:
    tokenizer = tiny_tokenizer()
    model = TableLM(len(tokenizer), seed=0)
    model.context_window = 100_000
    return PowerSampler.from_model(model, tokenizer, sampler="ancestral", alpha=1, max_new_tokens=3, seed=1)


@pytest.mark.parametrize(
    "ask",
    [
        lambda s: s.chat("hello"),
        lambda s: s.chat(["hi", "there"]),
        lambda s: s.chat([USER, [USER]]),
        lambda s: s.chat(USER),
        lambda s: s.chat(3),
        lambda s: s.chat(None),
        lambda s: s.chat([None]),
        lambda s: s.chat(np.array([1])),
        lambda s: s.complete(None),
        lambda s: s.complete(USER),
        lambda s: s.complete([USER]),
        lambda s: s.complete(b"hi"),
        lambda s: s.complete(3),
        lambda s: s.complete(np.array(["hi"])),
        lambda s: s.complete(["hi", 3]),
        lambda s: s.complete(Conversation(messages=[USER])),
        lambda s: s.generate(3),
        lambda s: s.generate("hello"),
        lambda s: s.generate(None),
        lambda s: s.generate(USER),
        lambda s: s.generate([None]),
        lambda s: s.generate([b"x"]),
        lambda s: s.generate([3]),
        lambda s: s.generate([Conversation(messages=3)]),
        lambda s: s.generate([Conversation(messages=[USER], tools=3)]),
        lambda s: s.generate([Conversation(messages=[USER], tools=["f"])]),
        lambda s: s.generate([Conversation(messages=[USER], tool_choice=[])]),
        lambda s: list(s.stream(None)),
        lambda s: s.encode(3),
        lambda s: s.token_ids(3),
        lambda s: s.complete("a\ud800b"),
        lambda s: s.token_ids("\udfff"),
        lambda s: s.chat([{"role": "user", "content": "\ud83d"}]),
        lambda s: s.chat([{"role": "user", "content": "\U0010f000"}]),
        lambda _: vote(3),
        lambda _: vote([3]),
        lambda _: vote("ab"),
        lambda _: vote([]),
        lambda s: vote([s.complete("a")], key=lambda _: []),
    ],
)
def test_what_is_no_prompt_is_refused(sampler: PowerSampler, ask: Callable[[Any], Any]) -> None:
    with pytest.raises(InputError) as error:
        ask(sampler)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "load",
    [
        lambda model, tokenizer: PowerSampler.from_model(None, tokenizer),
        lambda model, tokenizer: PowerSampler.from_model(model, None),
        lambda model, tokenizer: PowerSampler.from_model(tokenizer, model),
        lambda model, tokenizer: PowerSampler.from_model("model", "tokenizer"),
    ],
)
def test_what_is_no_model_is_refused(load: Callable[[Any, Any], Any]) -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(ConfigurationError, match="expected a"):
        load(TableLM(len(tokenizer), seed=0), tokenizer)


def test_a_conversation_is_one_and_several_are_a_batch(sampler: PowerSampler) -> None:
    text = sampler.chat([USER]).text
    assert sampler.chat(Conversation(messages=[USER])).text == text
    assert [c.text for c in sampler.chat([[USER], Conversation(messages=[USER])])] == [text, text]
    assert sampler.chat((USER,)).text == text
    assert [c.text for c in sampler.generate(["hi", [USER]])][1] == text
    assert sampler.complete([]) == sampler.generate([]) == []
    for empty in ([], [[]], Conversation(messages=[])):
        with pytest.raises(EmptyPromptError):
            sampler.chat(empty)


PARTS = [{"type": "text", "text": "h"}, "i"]


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_content_in_parts_is_text(sampler: PowerSampler, role: str) -> None:
    for parts in (PARTS, tuple(PARTS), [{"type": "input_text", "text": "hi"}], [{"type": "output_text", "text": "hi"}]):
        whole = [USER, {"role": role, "content": "hi"}, USER]
        assert sampler.encode([USER, {"role": role, "content": parts}, USER]) == sampler.encode(whole)
    fitted = fit_context(sampler, Conversation(messages=[{"role": role, "content": PARTS}]), "truncate_left")[1]
    assert sampler.encode(fitted) == sampler.encode([{"role": role, "content": "hi"}])


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({}, "role must be"),
        ({"content": "x"}, "role must be system, user, assistant or tool, got None"),
        ({"role": None, "content": "x"}, "role"),
        ({"role": ["user"], "content": "x"}, "role"),
        ({"role": "", "content": "x"}, "role"),
        ({"role": "<|user|>", "content": "x"}, "role"),
        ({"role": "us er", "content": "x"}, "role"),
        ({"role": "bos", "content": "x"}, "no role 'bos'"),
        ({"role": "user"}, "content is missing"),
        ({"role": "user", "content": None}, "content is missing"),
        ({"role": "assistant", "content": None}, "content is missing"),
        ({"role": "user", "content": 3}, "content: expected a text"),
        ({"role": "user", "content": {"type": "text", "text": "x"}}, "content: expected a text"),
        ({"role": "user", "content": b"x"}, "content: expected a text"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "reads text only"),
        ({"role": "user", "content": [{"type": "text"}]}, "expected a text, got None"),
        ({"role": "user", "content": [None]}, "reads text only"),
        ({"role": "user", "content": "x", "name": 3}, "name: expected a text"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "of the assistant"),
        ({"role": "tool", "content": "x", "tool_call_id": []}, "tool_call_id: expected a text"),
        ({"role": "assistant", "content": "", "tool_calls": 3}, "tool_calls must be a list"),
        ({"role": "assistant", "content": "", "tool_calls": "[]"}, "tool_calls must be a list"),
        ({"role": "assistant", "content": "", "tool_calls": {"a": 1}}, "tool_calls must be a list"),
        ({"role": "assistant", "content": "", "tool_calls": [None]}, "call 0: expected"),
        ({"role": "assistant", "content": "", "tool_calls": [{"function": None}]}, "call 0: expected"),
        ({"role": "assistant", "content": "", "tool_calls": [{"function": {}}]}, "call 0: expected"),
        ({"role": "assistant", "content": "", "tool_calls": [CALL | {"id": []}]}, "id: expected a text"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}, "arguments: expected"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": {1}}}]}, "plain JSON"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": {1: 1}}]}, "a key: expected a text"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": float("nan")}}]}, "plain JSON"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": 10**5000}}]}, "a value of type int"),
        ({"role": "assistant", "content": "x", "function_call": {"name": "f"}}, "older form"),
        ({"role": "assistant", "content": "x", "reasoning_content": ["x"]}, "reasoning_content: expected a text"),
        ({"role": "user", "content": "x" * 10 + "\ud800"}, "half of a surrogate pair"),
    ],
)
def test_odd_messages_are_refused_by_place_and_reason(sampler: PowerSampler, message: Any, words: str) -> None:
    for ask in (
        sampler.encode,
        lambda messages: fit_context(sampler, Conversation(messages=messages), "shrink_output"),
    ):
        with pytest.raises(InputError) as error:
            ask([USER, message])
            ask([USER, message, USER])
        assert words in str(error.value) and len(str(error.value)) < 500
        assert "message 1" in str(error.value) or "no role" in str(error.value)


def test_what_has_no_json_or_no_end_is_refused(sampler: PowerSampler) -> None:
    endless: dict[str, Any] = {}
    endless["x"] = endless
    for arguments in (endless, json.loads("[" * 900 + "]" * 900)):
        call = {"name": "f", "arguments": {"x": arguments}}
        with pytest.raises(InputError, match="nested deeper"):
            sampler.encode([USER, {"role": "assistant", "content": "", "tool_calls": [call]}, USER])


def test_arguments_that_are_no_json_are_shown_as_the_model_wrote_them(sampler: PowerSampler) -> None:
    for written in ('{"x": ', "[1]", "NaN", '{"x": NaN}', "9" * 5000, "[" * 100_000):
        call = {"id": "1", "function": {"name": "f", "arguments": written}}
        sampler.encode([USER, {"role": "assistant", "content": None, "tool_calls": [call]}, USER])


def test_other_names_of_roles_and_values(sampler: PowerSampler) -> None:
    class Word(str, enum.Enum):  # noqa: UP042 - whose `str` is not its value
        HI = "hi"

    assert sampler.encode([{"role": "developer", "content": "x"}]) == sampler.encode(
        [{"role": "system", "content": "x"}]
    )
    assert sampler.encode([USER | {"content": Word.HI}]) == sampler.encode([USER])
    with pytest.raises(InputError, match="no role 'critic'"):
        quiet = tiny_tokenizer(
            chat_template="{% for m in messages %}{% if m.role in ['user'] %}{{ m.content }}{% endif %}{% endfor %}"
        )
        PowerSampler.from_model(TableLM(len(quiet), seed=0), quiet).encode([USER, {"role": "critic", "content": "x"}])


# ---------------------------------------------------------------- anything at all

TEXTS = st.text(st.characters(codec=None), max_size=6) | st.sampled_from(["<|end|>", "<|user|>", "hi", "", "role"])
ODD = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.binary(max_size=3)
JSON = st.recursive(
    ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
PART = st.fixed_dictionaries({"type": st.sampled_from(["text", "input_text", "image_url", None]), "text": TEXTS | JSON})
CALLS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "id": TEXTS | JSON,
            "function": st.fixed_dictionaries({"name": TEXTS | JSON}, optional={"arguments": JSON}) | JSON,
        },
    )
    | JSON,
    max_size=3,
)
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant", "tool", "developer", "critic", "eos"]) | JSON,
        "content": TEXTS | st.lists(PART | TEXTS, max_size=3) | JSON,
    },
    optional={"name": TEXTS | JSON, "tool_calls": CALLS | JSON, "tool_call_id": TEXTS | JSON, "extra": JSON},
)
TOOL = st.fixed_dictionaries(
    {"type": st.just("function"), "function": st.fixed_dictionaries({"name": TEXTS}, optional={"parameters": JSON})}
)
CONVERSATION = st.builds(
    lambda **fields: Conversation(**fields),
    messages=st.lists(MESSAGE | JSON, max_size=4) | JSON,
    tools=st.just(()) | st.lists(TOOL | JSON, max_size=2) | JSON,
    tool_choice=st.sampled_from(["auto", "none", "required", "f"]) | JSON,
)
PROMPT = JSON | st.lists(MESSAGE, max_size=4) | CONVERSATION | TEXTS


def holds(sampler: PowerSampler, prompt: Any) -> None:
    """A right prompt, or a typed error that is short; and the text of a right prompt has no control token."""
    tokens = None
    try:
        tokens = sampler.encode(prompt)
    except PowerSamplingError as error:
        assert len(str(error)) < 2000, str(error)
    if tokens is not None and not isinstance(prompt, str):
        messages = prompt.messages if isinstance(prompt, Conversation) else prompt
        # two to a message, two of a system message about the tools, one that opens the turn
        assert len([t for t in tokens if t >= 256]) <= 2 * len(messages) + 3
    assert sampler.encode([USER]) == sampler.encode("<|user|>hi<|end|><|assistant|>")


FUZZ = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None, "derandomize": True}


@settings(max_examples=100, **FUZZ)
@given(PROMPT)
def test_anything_is_a_prompt_or_a_typed_error(sampler: PowerSampler, prompt: Any) -> None:
    holds(sampler, prompt)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=3000, **FUZZ)
@given(PROMPT)
def test_anything_is_a_prompt_or_a_typed_error_many_times(sampler: PowerSampler, prompt: Any) -> None:
    holds(sampler, prompt)


@settings(max_examples=25, **FUZZ)
@given(st.sampled_from(["complete", "chat", "generate"]), JSON | st.lists(PROMPT, max_size=2))
def test_anything_is_answered_or_refused(sampler: PowerSampler, call: str, prompts: Any) -> None:
    try:
        getattr(sampler, call)(prompts, max_new_tokens=1)
    except PowerSamplingError as error:
        assert len(str(error)) < 2000
    assert sampler.complete("hi", max_new_tokens=1).text == sampler.complete("hi", max_new_tokens=1).text


def test_reserved_characters_are_of_no_writing_system() -> None:
    assert not any(RESERVED.search(chr(i)) for i in (0xE000, 0xF8FF, 0xF0000, 0x100000, 0x1F600))
