"""Tool choices in, facts of a completion out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from power_sampling import ConfigurationError, PowerSampler
from power_sampling.integrations import (
    completion_facts,
    given_tools,
    normalize_tool_choice,
    openai_call,
    reply_of,
    token_logprobs,
)
from tests.support.tiny import tiny_model, tiny_tokenizer


@pytest.mark.parametrize(
    ("choice", "required", "expected"),
    [
        (None, False, "auto"),
        (None, True, "required"),
        (False, False, "auto"),
        ("", True, "required"),
        ("auto", False, "auto"),
        ("auto", True, "required"),
        ("none", True, "none"),
        (True, False, "required"),
        ("any", False, "required"),
        ("required", False, "required"),
        ("look", True, "look"),
        ({"type": "function", "function": {"name": "look"}}, False, "look"),
        ({"type": "tool", "name": "look"}, False, "look"),
        ({"type": "any"}, False, "required"),
        ({"type": "auto"}, False, "auto"),
    ],
)
def test_every_form_of_a_choice(choice: Any, required: bool, expected: str) -> None:
    assert normalize_tool_choice(choice, ["look", "jump"], required=required) == expected


@pytest.mark.parametrize("choice", ["nobody", {"name": "nobody"}, {"type": "tool"}, {}, 3])
def test_a_choice_that_names_no_tool_is_refused(choice: Any) -> None:
    with pytest.raises(ConfigurationError, match="names no tool"):
        normalize_tool_choice(choice, ["look"])


def test_a_call_needs_tools() -> None:
    assert normalize_tool_choice("none", []) == "none"
    with pytest.raises(ConfigurationError, match="there are no tools"):
        normalize_tool_choice("any", [])


@pytest.mark.parametrize("tools", [True, False, 0, 3.5, "look", b"look", {"name": "look"}])
def test_tools_are_a_list(tools: Any) -> None:
    with pytest.raises(ConfigurationError, match="tools: expected a list of tools, got "):
        given_tools(tools)
    assert given_tools(None) == [] and given_tools(("look",)) == ["look"]


def test_calls_in_openais_form() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": {"at": "x"}}}
    assert openai_call("1", "look", {"at": "x"}) == call
    assert openai_call(None, None, None) == {"id": "", "type": "function", "function": {"name": "", "arguments": {}}}
    assert openai_call("1", "look", "{broken")["function"]["arguments"] == "{broken"


def test_facts_are_plain_json_and_say_what_the_completion_says() -> None:
    sampler = PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), sampler="ancestral", max_new_tokens=4)
    text, turn = sampler.complete("ab", seed=1), sampler.chat([{"role": "user", "content": "ab"}], seed=1)
    for completion in (text, turn):
        facts = completion_facts(completion)
        assert json.loads(json.dumps(facts)) == facts
        assert facts == {
            "finish_reason": completion.finish_reason,
            "stop": completion.stop,
            "logp": completion.logp,
            "seed": 1,
            "usage": {**completion.usage, "prompt_tokens_details": {"cached_tokens": completion.cached_tokens}},
            "power_sampling": completion.diagnostics.to_dict(),
        }
        tokens = token_logprobs(completion)
        assert [token["token"] for token in tokens] == list(completion.token_text)
        assert sum(token["logprob"] for token in tokens) == pytest.approx(completion.logp)
    assert reply_of(turn) is turn.reply
    assert reply_of(text).content == text.text
