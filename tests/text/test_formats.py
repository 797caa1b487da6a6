"""What a family's grammar admits is what its reader understands, whatever a model makes of the grammar."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer

from power_sampling.text.codec import Codec
from power_sampling.text.formats import FAMILIES, ToolFormat, Turn
from power_sampling.text.formats.hermes import Hermes
from power_sampling.text.rules import Rules
from power_sampling.types import Conversation, Reply, Termination
from tests.support.calls import SAMPLES, is_special
from tests.support.calls import TOOLS as ALL_TOOLS
from tests.support.tiny import tiny_tokenizer

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 4}, "days": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["city"],
}
TOOLS = (
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": 'größe "x"', "parameters": {"type": "object", "properties": {}}}},
)
NESTED_TOOLS = (*TOOLS, ALL_TOOLS[1])
HORIZON = 260


def added_ids(family: type[ToolFormat], tokenizer: Any) -> dict[str, int]:
    """Gives a tokenizer the family's markers as tokens, special ones where its own has them so."""
    for token in next(sample.tokens for sample in SAMPLES if sample.family == family.family):
        tokenizer.add_tokens([token], special_tokens=is_special(token))
    return {str(name): int(token) for name, token in tokenizer.get_added_vocab().items()}


def replies(turn: Turn, tokenizer: Any, count: int, *, seed: int) -> list[tuple[str, Reply]]:
    """Random legal completions of a turn's grammar, each with what the reader makes of it."""
    codec, grammar = Codec(tokenizer, family=turn.format.family), turn.grammar(None, starts_in_reasoning=False)
    rules = Rules(codec.decode, codec.grammars(len(tokenizer)))
    rule = rules(Termination(codec.eos_ids, constraint=grammar, max_new_tokens=HORIZON))
    assert rule is not None
    random = np.random.default_rng(seed)
    found: list[tuple[str, Reply]] = []
    while len(found) < count:
        watch, tokens, end = rule.watch(()), [], None
        while end is None and len(tokens) < HORIZON:
            allowed = watch.allowed()
            assert allowed is not None
            token = int(random.choice(np.flatnonzero(allowed)))
            if token in codec.eos_ids:
                break
            tokens.append(token)
            end = watch.push(token)
        if end is None:  # not a dead end at the horizon, which a random walk can run into
            text, reader = codec.decode(tokens), turn.reader(starts_in_reasoning=False)
            reader.push(text)
            found.append((text, reader.finish()[1]))
    return found


CASES = [(family, has, many) for family in FAMILIES for has in (True, False) for many in (False, True)]


@pytest.mark.parametrize(
    ("family", "has_tokens", "may_be_many"),
    # without tokens a random walk has to spell what closes a text, which takes a while
    [pytest.param(*case, marks=[] if case[1:] == (True, False) else pytest.mark.slow) for case in CASES],
    ids=lambda value: value.family if isinstance(value, type) else str(value),
)
def test_every_call_that_the_grammar_admits_is_read(
    family: type[ToolFormat], has_tokens: bool, may_be_many: bool
) -> None:
    tokenizer = tiny_tokenizer()
    ids = added_ids(family, tokenizer) if has_tokens else {}
    conversation = Conversation(
        messages=(), tools=NESTED_TOOLS, tool_choice="required", parallel_tool_calls=may_be_many, strict=True
    )
    for text, reply in replies(family(special_ids=ids).turn(conversation), tokenizer, 4, seed=1):
        assert reply.tool_calls and not reply.invalid_tool_calls and not reply.content.strip(), text
        assert may_be_many or len(reply.tool_calls) == 1
        for call in reply.tool_calls:
            assert call.name in ("weather", 'größe "x"', "plan")
            assert ("city" in call.arguments) == (call.name == "weather")
            assert ("stops" in call.arguments) == (call.name == "plan")


def test_a_template_of_the_newer_form_is_not_taken_for_the_older_one() -> None:
    """The order of FAMILIES decides where two fit."""
    fitting = [family.__name__ for family in FAMILIES if family.fits("[TOOL_CALLS] [ARGS]")]
    assert fitting == ["MistralArgs", "Mistral"]


def test_tools_are_checked_once_a_turn() -> None:
    turn = Hermes().turn(Conversation(messages=({"role": "user", "content": "x"},), tools=TOOLS))
    assert set(turn.tools) == {"weather", 'größe "x"'}
    assert turn.prepare()[1]["tools"][0]["function"]["name"] == "weather"
    assert turn.grammar(None, starts_in_reasoning=False) is None


CALLS = [
    '{"name": "weather", "arguments": {"city": "Bonn"}}',
    '{\n  "name": "weather",\n  "parameters": {\n    "city": "Bonn",\n    "days": 3\n  }\n}',
    '{"type": "function", "name": "weather", "arguments": {"city": "Bonn"}}',
]
BAD_CALLS = [
    '{"name": "weather", "arguments": {}}',
    '{"name": "weather", "arguments": {"city": "too long"}}',
    '{"name": "sun", "arguments": {}}',
    '{"arguments": {"city": 1}, "name": "weather"}',
    '{"name": "weather"',
]
AROUND = [
    "",
    "\n",
    "```json\n",
    "```\n",
    "\n```",
    "[",
    "]",
    ", ",
    "; ",
    "Well. ",
    "<think>hm</think>\n",
    "</tool_call>",
    "{}",
]


JSON_FAMILIES = [
    family for family in FAMILIES if family.family in ("hermes", "mistral", "mistral_args", "llama3", "gemma4")
]


@pytest.mark.parametrize("family", JSON_FAMILIES, ids=lambda family: family.__name__)
@pytest.mark.parametrize("may_be_many", [False, True])
def test_no_reply_that_the_grammar_admits_is_read_as_another_call(family: type[ToolFormat], may_be_many: bool) -> None:
    """Strict calls obey their schemas, however they are written; none is lost where a grammar meant one."""
    conversation = Conversation(messages=(), tools=TOOLS, strict=True, parallel_tool_calls=may_be_many)
    tokenizer = tiny_tokenizer()
    turn = family(special_ids={}).turn(conversation)
    grammar = turn.grammar(None, starts_in_reasoning=False)
    matcher = LLMatcher(from_tokenizer(tokenizer), grammar, log_level=0)
    random = np.random.default_rng(0)
    texts = [fence + call + "\n```" * bool(fence) for call in CALLS for fence in ("", "```json\n", "```\n")]
    for _ in range(300):
        pieces = random.choice([*CALLS * 2, *BAD_CALLS, *AROUND * 2], size=random.integers(1, 6))
        texts.append("".join(pieces))
    num_read = 0
    for text in texts:
        tried = matcher.deep_copy()
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        if tried.try_consume_tokens(tokens) < len(tokens) or not tried.is_accepting():
            continue
        reader = turn.reader(starts_in_reasoning=False)
        reader.push(text)
        reply = reader.finish()[1]
        num_read += len(reply.tool_calls)
        assert may_be_many or len(reply.tool_calls) < 2
        for call in reply.tool_calls:
            assert (
                call.name == "weather" and set(call.arguments) <= {"city", "days"} and call.arguments["city"] == "Bonn"
            )
    assert num_read > 20  # of 300 texts
