"""A language model that does what it is asked, byte by byte, so that the whole path above the weights can be tested.

Its next-token law is peaked on a reply that is a function of the prompt's text. Where a constraint forbids that reply,
the next best one that agrees with what has been written takes its place; where none does, short JSON.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np

from power_sampling.testing import TableLM
from power_sampling.types import Floats, Tokens
from tests.support.tiny import tiny_tokenizer

# Hermes 2 and Qwen 2.5 write tools, calls and results like this
TOOL_TEMPLATE = """
{%- if tools %}<|system|># Tools

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>

For each function call, return a json object within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|end|>{% endif %}
{%- for message in messages %}
{%- if message.role == "tool" %}<|user|><tool_response>
{{ message.content }}
</tool_response><|end|>
{%- else %}<|{{ message.role }}|>{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|end|>
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""

TOKENIZER = tiny_tokenizer(chat_template=TOOL_TEMPLATE)
ANSWER = "Hello there, it is done."
FAR = 50.0  # in logits: one in e^50 tokens is not the scripted one


def example(schema: Mapping[str, Any]) -> Any:
    """A value under a JSON schema."""
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return example(schema["anyOf"][0])
    match schema.get("type"):
        case "object":
            return {name: example(part) for name, part in schema.get("properties", {}).items()}
        case "integer":
            return 3
        case "number":
            return 3.5
        case "boolean":
            return True
        case "array":
            return []
        case _:
            return "你好啊集团 株式会社こんにちは"


def hermes_call(name: str, arguments: Any) -> str:
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


class ScriptedLM(TableLM):
    """Satisfies `LanguageModel`. Its tokens are those of `TOKENIZER`: bytes and control tokens."""

    def __init__(self) -> None:
        super().__init__(len(TOKENIZER), seed=0)
        self._eos = TOKENIZER.eos_token_id
        self._opening: int = TOKENIZER.convert_tokens_to_ids("<|assistant|>")
        self._scripts: dict[Tokens, list[Tokens]] = {}

    def logits(self, context: Tokens) -> Floats:
        opening = len(context) - context[::-1].index(self._opening) if self._opening in context else len(context)
        prompt, written = context[:opening], context[opening:]
        if prompt not in self._scripts:
            text = TOKENIZER.decode(prompt, skip_special_tokens=False)
            self._scripts[prompt] = [(*_bytes(reply), self._eos) for reply in replies(text)]
        logits = np.zeros(self.vocab_size)
        matching = [script for script in self._scripts[prompt] if script[: len(written)] == written]
        for rank, script in enumerate(reversed(matching)):
            if len(script) > len(written):
                logits[script[len(written)]] = FAR * (2 + rank)
        return logits + _json_logits(is_in_string=written[-1:] == QUOTE)


@cache
def _json_logits(*, is_in_string: bool) -> Floats:
    """JSON of one letter a string and one digit a number, closed as soon as it can be."""
    logits = np.zeros(len(TOKENIZER))
    order = [TOKENIZER.eos_token_id, *_bytes("x" if is_in_string else '"'), *_bytes("}],3")]
    for rank, token in enumerate(order):
        logits[token] = FAR * (1 - rank / 10)
    return logits


def _bytes(text: str) -> list[int]:
    ids: list[int] = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    return ids


QUOTE = tuple(_bytes('"'))


def replies(prompt: str) -> Iterator[str]:
    """What it would say, the most wanted first."""
    last = [part for part in prompt.split("<|end|>") if part.strip()][-2:][0]  # the turn before the assistant's
    calls = [hermes_call(tool["name"], example(tool.get("parameters", {}))) for tool in tools_in(prompt)]
    if "<tool_response>" in last:
        yield ANSWER
    yield from calls
    if "punchline" in prompt:
        yield json.dumps({"setup": "Why?", "punchline": "Because."})
    yield ANSWER


def tools_in(prompt: str) -> list[dict[str, Any]]:
    """The functions that a prompt describes, as JSON at the beginning of lines or after a tag."""
    found = []
    for match in re.finditer(r"(?m)(?:^|(?<=<tools>))\{", prompt):
        with contextlib.suppress(ValueError):
            described, _ = json.JSONDecoder().raw_decode(prompt[match.start() :])
            function = described.get("function", described)
            found += [function] if "parameters" in function else []
    return found
