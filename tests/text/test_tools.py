"""Tools as text: what a template is given, what a grammar allows, and what comes out of a reply."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from power_sampling.errors import InputError
from power_sampling.text.calls import arguments_in
from power_sampling.text.formats import ToolFormat, tool_format
from power_sampling.text.formats.messages import TOOLS_PROMPT, cleaned
from power_sampling.text.reply import ReplyReader
from power_sampling.text.validation import checked_conversation
from power_sampling.types import Conversation, Reply
from tests.support.calls import SAMPLES
from tests.support.tiny import CHAT_TEMPLATE, tiny_tokenizer

# Small templates that treat tools as the real ones do: same variables, same refusals, same markup.
QWEN = """{%- if tools %}{{- '<|im_start|>system\\n# Tools\\n\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}{{- '\\n</tools><|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == "assistant" %}{{- '<|im_start|>assistant' }}
{%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
{%- for tool_call in message.tool_calls %}
{%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}
{{- '\\n<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
{{- tool_call.arguments | tojson }}{{- '}\\n</tool_call>' }}
{%- endfor %}{{- '<|im_end|>\\n' }}
{%- elif message.role == "tool" %}{{- '<|im_start|>user\\n<tool_response>\\n' + message.content }}
{{- '\\n</tool_response><|im_end|>\\n' }}
{%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

LLAMA = """{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if tools is not none %}{%- for t in tools %}{{- t | tojson(indent=4) }}{%- endfor %}{%- endif %}
{%- for message in messages %}
{%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
{{- '<|start|>' + message['role'] + '\\n' + message['content'] | trim + '<|eot|>' }}
{%- elif 'tool_calls' in message %}
{%- if not message.tool_calls|length == 1 %}{{- raise_exception("Only single tool-calls are supported!") }}{%- endif %}
{%- set tool_call = message.tool_calls[0].function %}
{{- '<|start|>assistant\\n{"name": "' + tool_call.name + '", "parameters": ' }}{{- tool_call.arguments | tojson }}
{{- '}<|eot|>' }}
{%- else %}{{- '<|start|>ipython\\n' }}{{- message.content }}{{- '<|eot|>' }}{%- endif %}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|start|>assistant\\n' }}{%- endif %}
{#- builtin tools come after <|python_tag|> #}"""

MISTRAL = """{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if tools is not none %}{{- '[AVAILABLE_TOOLS] ' }}{{- tools | tojson }}{{- '[/AVAILABLE_TOOLS]' }}{%- endif %}
{%- for message in messages %}
{%- if message['role'] == 'user' %}{{- '[INST] ' + message['content'] + '[/INST]' }}
{%- elif message.tool_calls is defined and message.tool_calls is not none %}{{- '[TOOL_CALLS] [' }}
{%- for tool_call in message.tool_calls %}{%- set out = tool_call.function | tojson %}{{- out[:-1] }}
{%- if not tool_call.id is defined or tool_call.id|length != 9 %}{{- raise_exception('Not 9 letters!') }}{%- endif %}
{{- ', "id": "' + tool_call.id + '"}' }}{{- ', ' if not loop.last else ']' }}{%- endfor %}
{%- elif message['role'] == 'assistant' %}{{- ' ' + message['content'] }}
{%- elif message['role'] == 'tool' %}
{%- if not message.tool_call_id is defined or message.tool_call_id|length != 9 %}
{{- raise_exception('IDs have length 9!') }}{%- endif %}
{{- '[TOOL_RESULTS] {"content": ' + message.content|string + ', "call_id": "' + message.tool_call_id + '"}' }}
{%- endif %}{%- endfor %}"""

MISTRAL_ARGS = MISTRAL + "{#- newer: [TOOL_CALLS]name[ARGS]{} #}"
TEMPLATES = {
    "qwen": QWEN,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "mistral-args": MISTRAL_ARGS,
    "fallback": CHAT_TEMPLATE,
}


def tool(name: str, parameters: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    function = {"name": name, "description": f"Does {name}.", **more}
    return {"type": "function", "function": function | ({} if parameters is None else {"parameters": parameters})}


WEATHER = tool(
    "weather",
    {
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/City"}, "days": {"type": "integer"}},
        "required": ["city"],
        "$defs": {"City": {"type": "string", "maxLength": 30}},
    },
)
NOW = tool("weather_now", {"type": "object", "properties": {}})
UNICODE = tool(
    'größe "x"', {"type": "object", "properties": {"wörter": {"type": "array", "items": {"type": "string"}}}}
)
TOOLS = (WEATHER, NOW, UNICODE)
USER = {"role": "user", "content": "Hi"}


def talk(*messages: Mapping[str, Any], tools: Sequence[Mapping[str, Any]] = TOOLS, **options: Any) -> Conversation:
    return Conversation(messages=messages or (USER,), tools=tools, **options)


def calls_message(*calls: tuple[str, str, Any], content: str = "") -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in calls],
    }


def result(i: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": i, "content": content, **more}


def rendered(template: str, conversation: Conversation) -> str:
    messages, arguments = tool_format(template, {}).prepare(conversation)
    return str(
        tiny_tokenizer(chat_template=template).apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **arguments
        )
    )


# --- families ---


@pytest.mark.parametrize(
    ("template", "family", "shows_tools"),
    [
        (QWEN, "hermes", True),
        (LLAMA, "llama3", True),
        (MISTRAL, "mistral", True),
        (CHAT_TEMPLATE, "hermes", False),
        ("{% for m in messages %}{% generation %}{{ tools }}{% endgeneration %}{% endfor %}", "hermes", True),
        (None, "hermes", False),
    ],
)
def test_a_template_tells_its_family(template: str | None, family: str, shows_tools: bool) -> None:
    found = tool_format(template, {})
    assert (found.family, found.shows_tools) == (family, shows_tools)


# --- what the template is given ---

HISTORY = (
    USER,
    calls_message(("call_1", "weather", '{"city": "Köln"}'), ("call_2", "weather_now", {}), content="Let me look."),
    result("call_1", "rain"),
    result("call_2", "no such sensor", status="error"),
)


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_prints_calls_and_results_and_nothing_is_changed(name: str) -> None:
    conversation = talk(*HISTORY)
    before = copy.deepcopy(conversation)
    text = rendered(TEMPLATES[name], conversation)
    assert conversation == before
    for part in ("weather_now", "Köln", "rain", "Error: no such sensor", "Does weather."):
        assert part in text
    assert "strict" not in rendered(TEMPLATES[name], talk(tools=(tool("a", strict=True),)))


def test_hermes_arguments_are_mappings_and_broken_ones_stay_as_they_are() -> None:
    text = rendered(
        QWEN, talk(USER, calls_message(("1", "weather", '{"city": "Köln"}'), ("2", "weather", '{"city": ')))
    )
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>' in text
    assert r"{\"city\": " in text


def test_llama_gets_one_call_a_message_each_followed_by_its_result() -> None:
    messages, _ = tool_format(LLAMA, {}).prepare(talk(*HISTORY))
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "assistant", "tool"]
    assert [m["tool_calls"][0]["id"] for m in messages if "tool_calls" in m] == ["call_1", "call_2"]
    assert [m["tool_call_id"] for m in messages if m["role"] == "tool"] == ["call_1", "call_2"]
    assert [m["content"] for m in messages if m["role"] == "assistant"] == ["Let me look.", ""]
    assert messages[2]["name"] == "weather"


def test_mistral_ids_are_nine_letters_and_digits_and_stay_paired() -> None:
    kept = "aB3dE6gH9"
    messages, _ = tool_format(MISTRAL, {}).prepare(
        talk(
            USER,
            calls_message(("call_1", "weather", {}), (kept, "weather", {})),
            result("call_1", "a"),
            result(kept, "b"),
        )
    )
    ids = [call["id"] for call in messages[1]["tool_calls"]]
    assert ids == [m["tool_call_id"] for m in messages[2:]]
    assert ids[1] == kept
    assert all(len(i) == 9 and i.isalnum() for i in ids)


def test_fallback_explains_the_tools_and_writes_calls_and_results() -> None:
    messages, arguments = tool_format(CHAT_TEMPLATE, {}).prepare(
        talk({"role": "system", "content": "Be kind."}, *HISTORY)
    )
    assert arguments == {}
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"].startswith("Be kind.\n\n" + TOOLS_PROMPT[:20])
    assert json.dumps(WEATHER["function"]) in messages[0]["content"]
    assert messages[2] == {
        "role": "assistant",
        "content": 'Let me look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather_now", "arguments": {}}\n</tool_call>',
    }
    assert messages[3]["content"] == (
        '<tool_response>\n{"name": "weather", "content": "rain"}\n</tool_response>\n'
        '<tool_response>\n{"name": "weather_now", "content": "Error: no such sensor"}\n</tool_response>'
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_choice_none_shows_no_tools_but_keeps_the_history(name: str) -> None:
    text = rendered(TEMPLATES[name], talk(*HISTORY, tool_choice="none"))
    assert "Does weather." not in text
    assert "Köln" in text
    assert rendered(TEMPLATES[name], talk(*HISTORY, tools=())) == text


@pytest.mark.parametrize(
    ("conversation", "words"),
    [
        (talk(tool_choice="nothing"), "weather_now"),
        (talk(tools=(), tool_choice="required"), "no tools"),
        (talk(tools=(), tool_choice="weather"), "none were given"),
        (talk(tools=(NOW, NOW)), "Two tools"),
        (talk(tools=({"type": "function", "function": {}},)), "name"),
        (talk(tools=("weather",)), "function"),  # type: ignore[arg-type]
        (talk(tools=(tool("a", {"type": "string"}),)), "object"),
        (talk(tools=(tool("a", {"properties": None}),)), "no JSON schema: properties: expected schemas by their names"),
        (
            talk(tools=(tool("a", {"properties": {"b": {"type": 5}}}),)),
            r"properties.b.type: expected a type",
        ),
        (talk(tools=(tool("a", {"properties": {"b": {"enum": None}}}),)), "properties.b.enum: expected a list"),
        (talk(tools=(tool("a", {"$defs": {"b": {"anyOf": [{}, 5]}}}),)), r"\$defs.b.anyOf.1: expected a schema, got 5"),
        (talk(tools=(tool("a", {"properties": {"b": {"allOf": None}}}),)), "allOf: expected a list of schemas"),
        (talk(tools=(tool("a", {"properties": {"b": {"$ref": 5}}}),)), r"\$ref: expected a text"),
        (talk(tools=(tool("a", {"properties": {"b": 5}}),)), "properties.b: expected a schema"),
        (talk(tools=(tool("a", {"properties": {"b": {"minLength": "5"}}}),)), "minLength: expected a number"),
        (talk(tools=(tool("a", {"properties": {"b": {"pattern": 5}}}),)), "pattern: expected a text"),
        (talk(tools=(tool("a", {"properties": {}, "required": "b"}),)), "required: expected a list of names"),
    ],
)
def test_tools_that_make_no_sense_are_refused(conversation: Conversation, words: str) -> None:
    found = tool_format(QWEN, {})
    with pytest.raises(InputError, match=words):
        found.prepare(conversation)
    with pytest.raises(InputError, match=words):
        found.grammar(conversation, None, starts_in_reasoning=False)
    with pytest.raises(InputError, match=words):
        found.reader(conversation, starts_in_reasoning=False)


# --- what a reply says ---


def read(reader: ReplyReader, pieces: Sequence[str]) -> Reply:
    deltas = [reader.push(piece) for piece in pieces]
    last, reply = reader.finish()
    content, reasoning = ("".join(part) for part in zip(*deltas, last, strict=True))
    assert (content, reasoning) == (reply.content, reply.reasoning)
    return reply


def essence(reply: Reply) -> tuple[Any, ...]:
    """All but the random ids."""
    calls = [(call.name, dict(call.arguments)) for call in reply.tool_calls]
    return reply.content, reply.reasoning, calls, [(c.name, c.arguments, c.error) for c in reply.invalid_tool_calls]


def reply_to(
    text: str, template: str = QWEN, *, reasons: bool = False, conversation: Conversation | None = None
) -> tuple[Any, ...]:
    return essence(read(tool_format(template, {}).reader(conversation or talk(), starts_in_reasoning=reasons), [text]))


KOELN = ("weather", {"city": "Köln"})
NOW_CALL: tuple[str, dict[str, Any]] = ("weather_now", {})
HERMES_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
LLAMA_CALL = '{"name": "weather", "parameters": {"city": "Köln"}}'
JSON_CALL = '{"name": "weather", "arguments": {"city": "Köln"}}'

REPLIES: list[tuple[str, str, tuple[str, str, list[Any]]]] = [
    (QWEN, "Hello\n", ("Hello\n", "", [])),
    (QWEN, HERMES_CALL, ("", "", [KOELN])),
    (QWEN, f"Wait.\n\n{HERMES_CALL}\n{HERMES_CALL}\n", ("Wait.", "", [KOELN, KOELN])),
    (QWEN, f"a\n{HERMES_CALL}\nb\n", ("a\nb", "", [KOELN])),
    (QWEN, f"<think>\nhm <tool_call>\n</think>\n\n{HERMES_CALL}", ("", "hm <tool_call>", [KOELN])),
    (QWEN, "<think>\n\n</think>\n\nHi <tool", ("Hi <tool", "", [])),
    (QWEN, "<think>\nnever ends\n", ("", "never ends\n", [])),
    (QWEN, HERMES_CALL.removesuffix("\n</tool_call>"), ("", "", [KOELN])),
    (QWEN, HERMES_CALL.replace('{"city": "Köln"}', r'"{\"city\": \"Köln\"}"'), ("", "", [KOELN])),
    (QWEN, HERMES_CALL.replace("Köln", "</tool_call>"), ("", "", [("weather", {"city": "</tool_call>"})])),
    (QWEN, '<tool_call>{"name": "weather_now"}</tool_call>', ("", "", [("weather_now", {})])),
    (QWEN, JSON_CALL, ("", "", [KOELN])),
    (QWEN, f"```json\n[{JSON_CALL}, {LLAMA_CALL}]\n```", ("", "", [KOELN, KOELN])),
    (QWEN, '{"name": "Ann", "arguments": {}}', ('{"name": "Ann", "arguments": {}}', "", [])),
    (QWEN, "```python\n[1]\n```", ("```python\n[1]\n```", "", [])),
    (QWEN, "[1] is a source.\n", ("[1] is a source.\n", "", [])),
    (QWEN, f"{JSON_CALL} is what I would call", (f"{JSON_CALL} is what I would call", "", [])),
    (LLAMA, f"<|python_tag|>{LLAMA_CALL}; {LLAMA_CALL}", ("", "", [KOELN, KOELN])),
    (LLAMA, f"{LLAMA_CALL}\n{LLAMA_CALL}", ("", "", [KOELN, KOELN])),
    (LLAMA, f"Sure. {LLAMA_CALL}", ("Sure. ", "", [KOELN])),
    (LLAMA, f"{LLAMA_CALL}\nThat is it.", ("That is it.", "", [KOELN])),
    (LLAMA, f'{{"name": "Bob"}} is it. <|python_tag|>{LLAMA_CALL}', ('{"name": "Bob"} is it. ', "", [KOELN])),
    (LLAMA, f'Hm. {{"name": "Bob", "x": {LLAMA_CALL}}}', (f'Hm. {{"name": "Bob", "x": {LLAMA_CALL}}}', "", [])),
    (LLAMA, f'Hm: {{"name": "Bob"}}\n{LLAMA_CALL}\nSo.', ('Hm: {"name": "Bob"}\nSo.', "", [KOELN])),
    (LLAMA, f"{LLAMA_CALL}\nSo. <|python_tag|>{LLAMA_CALL}", ("So. ", "", [KOELN, KOELN])),
    (MISTRAL, f'[{{"name": "Bob"}}].[TOOL_CALLS] [{JSON_CALL}]', ('[{"name": "Bob"}].', "", [KOELN])),
    (LLAMA, 'So: {"name": "Ann"} it is.', ('So: {"name": "Ann"} it is.', "", [])),
    (LLAMA, '{"type": "function", "name": "weather", "parameters": {"city": "Köln"}}', ("", "", [KOELN])),
    (MISTRAL, f"[TOOL_CALLS] [{JSON_CALL}]", ("", "", [KOELN])),
    (MISTRAL, f" [{JSON_CALL[:-1]}, \"id\": \"x\"}}, {JSON_CALL}]", ("", "", [KOELN, KOELN])),
    (MISTRAL, f"Sure.[{JSON_CALL}]", ("Sure.", "", [KOELN])),
    (MISTRAL_ARGS, '[TOOL_CALLS]weather[ARGS]{"city": "Köln"}', ("", "", [KOELN])),
    (MISTRAL_ARGS, "[TOOL_CALLS]weather_now[CALL_ID]a1[ARGS]{}[TOOL_CALLS]weather_now{}", ("", "", [NOW_CALL] * 2)),
    (MISTRAL_ARGS, 'Sure.weather{"city": "Köln"}weather_now{}', ("Sure.", "", [KOELN, ("weather_now", {})])),
]  # fmt: skip


@pytest.mark.parametrize(("template", "text", "expected"), REPLIES)
def test_replies_are_read(template: str, text: str, expected: tuple[Any, ...]) -> None:
    assert reply_to(text, template) == (*expected, [])


INVALID: list[tuple[str, str, str | None, str]] = [  # template, raw text, name, what the error says
    (QWEN, '{"name": "weather", "arg', "weather", "cut short"),
    (QWEN, "weather(Köln)", None, "no valid JSON"),
    (QWEN, '{"name": "sun", "arguments": {}}', "sun", "tools are"),
    (QWEN, '{"name": "weather", "arguments": [1]}', "weather", "list"),
    (QWEN, '{"name": "weather", "arguments": "x"}', "weather", "JSON"),
    (QWEN, "[]x", None, "more after it"),
    (QWEN, r'{"name": "weather", "arguments": "{\"city\": \"a\"} and {}"}', "weather", "more after it"),
    (QWEN, '{"name": "weather", "arguments": {"a": NaN}}', "weather", "NaN"),
    (QWEN, "[" * 99999, None, "deep"),
    (LLAMA, 'print("hi")', None, "no valid JSON"),
    (LLAMA, '{"name": "sun", "parameters": {}}', "sun", "tools are"),
    (MISTRAL, '{"name": "weather",', "weather", "cut short"),
]
BEGIN = {QWEN: "<tool_call>\n", LLAMA: "<|python_tag|>", MISTRAL: "[TOOL_CALLS] "}


@pytest.mark.parametrize(("template", "raw", "name", "words"), INVALID)
def test_what_is_no_call_comes_back_with_a_reason(template: str, raw: str, name: str | None, words: str) -> None:
    for ending in ("", "\n</tool_call>") if template == QWEN and "name" not in raw[-20:] else ("",):
        content, _, calls, [(found, arguments, error)] = reply_to(BEGIN[template] + raw + ending, template)
        assert (content, calls, found, arguments) == ("", [], name, raw)
        assert words in error


def test_a_plain_call_cut_short_is_invalid_where_its_tool_exists() -> None:
    _, _, [], [(name, _, error)] = reply_to('{"name": "weather", "arguments": {"ci')
    assert (name, "cut short" in error) == ("weather", True)
    assert reply_to('{"name": "Ann", "arguments": {"ci') == ('{"name": "Ann", "arguments": {"ci', "", [], [])
    assert reply_to('{"name": "sun", "parameters": {}}', LLAMA)[3][0][0] == "sun"


def test_without_tools_only_reasoning_is_told_from_content() -> None:
    for conversation in (talk(tools=()), talk(tool_choice="none")):
        for text in ("\n hi \n", f"a\n{HERMES_CALL}\n", JSON_CALL, " <think", "", "\n"):
            assert reply_to(text, conversation=conversation) == (text, "", [], [])
        assert reply_to("\n<think>\na\n</think>\n\nb\n", conversation=conversation) == ("b\n", "a", [], [])
        assert reply_to("a\n</think>\n b", conversation=conversation, reasons=True) == (" b", "a", [], [])


def test_a_reader_speaks_as_soon_as_it_can() -> None:
    reader = tool_format(QWEN, {}).reader(talk(), starts_in_reasoning=True)
    assert reader.push("\nLet me") == ("", "Let me")
    assert reader.push(" see\n</th") == ("", " see")
    assert reader.push("ink>\n") == ("", "")
    assert reader.push("\nYes") == ("Yes", "")
    assert reader.push(", <to") == (", ", "")
    assert reader.push("ast>.") == ("<toast>.", "")


@pytest.mark.parametrize("reasons", [False, True])
def test_any_split_of_a_reply_reads_the_same(reasons: bool) -> None:
    rng = random.Random(0)
    replies = [(template, text) for template, text, _ in REPLIES]
    replies += [(template, BEGIN[template] + raw) for template, raw, *_ in INVALID if len(raw) < 1000]
    for template, text in replies:
        found = tool_format(template, {})
        for conversation in (talk(), talk(parallel_tool_calls=False), talk(strict=True), talk(tools=())):
            whole = reply_to(text, template, conversation=conversation, reasons=reasons)
            splits = [[text[:i], text[i:]] for i in range(0, len(text) + 1, 1 if conversation == talk() else 5)]
            splits.append(list(text))
            for _ in range(2):
                cuts = sorted(rng.choices(range(len(text) + 1), k=6))
                splits.append([text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)])
            for pieces in splits:
                reader = found.reader(conversation, starts_in_reasoning=reasons)
                assert essence(read(reader, pieces)) == whole, pieces


# --- calls in plain JSON ---

SUN = '{"name": "sun", "arguments": {}}'
PRETTY = json.dumps({"name": "weather", "arguments": {"city": "Köln"}}, indent=2, ensure_ascii=False)
CUT = '{"name": "weather", "arguments": {"city": "Kö'


@pytest.mark.parametrize(
    ("text", "valid", "invalid"),
    [
        (f"{JSON_CALL}\n{JSON_CALL}", [KOELN, KOELN], []),
        (f"{JSON_CALL}, {PRETTY}; {JSON_CALL}", [KOELN] * 3, []),
        (f"```json\n{PRETTY}\n```\n\n```json\n{JSON_CALL}\n```", [KOELN, KOELN], []),
        (f"```json\n{PRETTY}", [KOELN], []),
        (f"```json\n{PRETTY}\n``", [KOELN], []),
        (f"{SUN}\n{JSON_CALL}", [KOELN], ["sun"]),
        (f"[{JSON_CALL}, {SUN}]", [KOELN], ["sun"]),
        (f"{JSON_CALL}\n{CUT}", [KOELN], ["weather"]),
        (f"[{JSON_CALL}, {CUT}", [KOELN], ["weather"]),
        (f'{JSON_CALL}\n{{"na', [KOELN], [None]),
        (f"{JSON_CALL}\n</tool_call>", [KOELN], []),
        (f"{JSON_CALL}>", [KOELN], []),
        (f"```json\n{CUT}", [], ["weather"]),
        ('{"arguments": {"city": "Köln"}, "name": "weather"}', [KOELN], []),
    ],
)
def test_plain_calls_are_read_whole_cut_and_in_any_number(text: str, valid: Any, invalid: Any) -> None:
    for conversation in (talk(), talk(parallel_tool_calls=False), talk(strict=True)):
        for pieces in ([text], list(text)):
            reply = read(tool_format(QWEN, {}).reader(conversation, starts_in_reasoning=False), pieces)
            assert [(c.name, c.arguments) for c in reply.tool_calls] == valid
            assert [c.name for c in reply.invalid_tool_calls] == invalid
            assert reply.content == ""


@pytest.mark.parametrize(
    "text", [SUN, f"{SUN}\n{SUN}", f'{JSON_CALL}\n{{"x": 1}}', f"Like so: {JSON_CALL}", "[]", "{}", "[1"]
)
def test_what_is_no_plain_call_is_content(text: str) -> None:
    assert reply_to(text) == (text, "", [], [])


def test_under_a_constraint_plain_json_is_the_answer() -> None:
    reader = tool_format(QWEN, {}).turn(talk()).reader(starts_in_reasoning=False, is_free=False)
    assert essence(read(reader, [JSON_CALL])) == (JSON_CALL, "", [], [])
    reader = tool_format(QWEN, {}).turn(talk()).reader(starts_in_reasoning=False, is_free=False)
    assert essence(read(reader, [HERMES_CALL])) == ("", "", [KOELN], [])


@pytest.mark.parametrize(
    "ending", ["\n</tool_call>>", "\n</tool_call\n>", "\n</tool_call", "\n</tool", "</", "\n>", ">\n</tool_call>"]
)
def test_a_half_written_tag_leaves_nothing_in_the_content(ending: str) -> None:
    block = HERMES_CALL.removesuffix("\n</tool_call>") + ending
    assert reply_to(block) == ("", "", [KOELN], [])
    if "call" in ending:
        assert reply_to(f"Wait.\n{block}\n{HERMES_CALL}") == ("Wait.", "", [KOELN, KOELN], [])


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ('{"city": "Kö', "'weather' is no valid JSON: it was cut short in argument 'city'"),
        ('{"place": {"towns": ["a", "b', "cut short in argument 'place.towns.1'"),
        ('{"city": "a" "days": 3}}', "in argument 'city': Expecting ',' delimiter near"),
        ('{"city": Köln}}', "in argument 'city': Expecting value near"),
        (r'"{\"city\": Köln}"}', "arguments of 'weather' are no valid JSON in argument 'city'"),
    ],
)
def test_an_error_names_the_argument_that_is_wrong(raw: str, words: str) -> None:
    raw = f'{{"name": "weather", "arguments": {raw}'
    for text in (f"<tool_call>\n{raw}", f"{HERMES_CALL}\n<tool_call>\n{raw}\n</tool_call>"):
        assert words in reply_to(text)[3][-1][2]


def test_ids_are_those_of_the_seed_and_the_prompt() -> None:
    def ids(salt: str | None) -> list[str]:
        reader = tool_format(QWEN, {}).turn(talk()).reader(starts_in_reasoning=False, salt=salt)
        return [call.id for call in read(reader, [HERMES_CALL * 2]).tool_calls]

    assert ids("1") == ids("1")
    assert len({*ids("1"), *ids("2"), *ids(None), *ids(None)}) == 8


def test_ids_are_nine_letters_and_digits_and_unique() -> None:
    reader = tool_format(QWEN, {}).reader(talk(), starts_in_reasoning=False)
    ids = [call.id for call in read(reader, [HERMES_CALL * 50]).tool_calls]
    assert len(set(ids)) == 50
    assert all(len(i) == 9 and i.isascii() and i.isalnum() for i in ids)


# --- response templates of transformers ---

RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "thinking": {"open": "<think>", "close": "</think>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"<call:(?P<name>\w+)>",
            "close": "</call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"content": "text"},
    },
}


def test_a_response_template_takes_the_reply_apart() -> None:
    tokenizer = tiny_tokenizer(chat_template="{{ tools }}")
    tokenizer.response_template = RESPONSE_TEMPLATE
    found = tool_format(
        "{{ tools }}",
        {},
        parse_response=lambda text: dict(tokenizer.parse_response(text, prefix="", tools=list(TOOLS))),
    )

    def parsed(text: str, *, reasons: bool = False, **options: Any) -> tuple[Any, ...]:
        return essence(read(found.reader(talk(**options), starts_in_reasoning=reasons), list(text)))

    call = '<call:weather>{"city": "Köln"}</call>'
    assert parsed(f"<think>hm</think>Wait.{call}") == ("Wait.", "hm", [KOELN], [])
    assert parsed(f"hm</think>{call}", reasons=True) == ("", "hm", [KOELN], [])
    assert parsed(f"Wait.{call}", tool_choice="none") == ("Wait.", "", [], [])
    assert parsed(HERMES_CALL) == ("", "", [KOELN], [])  # what a grammar makes it write
    assert parsed("<call:weather>{")[2:] == ([], [])  # its own parser raises
    assert parsed("<call:sun>{}</call>")[3][0][:2] == ("sun", '{"name": "sun", "arguments": {}}')  # an unknown tool


@pytest.mark.parametrize(
    ("message", "invalid"),
    [
        (None, []),
        (5, []),
        ({"tool_calls": 5}, ["5"]),
        ({"tool_calls": ["x", None]}, ['"x"', "null"]),
        ({"tool_calls": [{"function": None}]}, ["null"]),
        ({"tool_calls": {"name": "weather"}}, []),
    ],
)
def test_a_response_template_may_give_anything(message: Any, invalid: list[str]) -> None:
    found = tool_format("{{ tools }}", {}, parse_response=lambda text: message)
    reply = read(found.reader(talk(), starts_in_reasoning=False), ["Hello"])
    assert [call.arguments for call in reply.invalid_tool_calls] == invalid
    assert reply.content == ("" if isinstance(message, dict) else "Hello")
    assert len(reply.tool_calls) == (message == {"tool_calls": {"name": "weather"}})


ODD_VALUES = {"infinite": "1e999", "half": r'"\ud800x"', "deep": "[" * 70 + "]" * 70, "long": "9" * 1300}


@pytest.mark.parametrize("name", ["weather", "sun"])
@pytest.mark.parametrize("value", ODD_VALUES.values(), ids=ODD_VALUES)
def test_what_a_model_wrote_can_be_sent_and_sent_back(name: str, value: str) -> None:
    text = f'<tool_call>\n{{"name": "{name}", "arguments": {{"city": {value}}}}}\n</tool_call>'
    reply = read(tool_format(QWEN, {}).reader(talk(), starts_in_reasoning=False), [text])
    [call] = reply.invalid_tool_calls
    assert (call.name, reply.tool_calls) == (name, ()) and (call.arguments + call.error).encode()
    back = calls_message(("1", name, arguments_in(call.arguments, name)))
    assert "weather_now" in rendered(QWEN, talk(USER, back, result("1", call.error)))


def test_a_name_that_is_no_text_is_none() -> None:
    raw = r'{"name": "\ud800", "arguments": "\ud800"}'
    assert reply_to(f"<tool_call>\n{raw}\n</tool_call>")[3][0][:2] == (None, raw)
    assert arguments_in(r'{"name": "sun", "arguments": "\ud800"}', "sun") == r"\ud800"


def test_calls_of_a_list_keep_their_text() -> None:
    row = '[{"name":  "sun", "arguments": {"x": 1e999}}, 5 ,{"name": "weather_now"}]'
    _, _, calls, invalid = reply_to(f"<tool_call>\n{row}\n</tool_call>")
    assert calls == [NOW_CALL]
    assert [raw for _, raw, _ in invalid] == ['{"name":  "sun", "arguments": {"x": 1e999}}', "5"]
    for depth in range(900, 1000):  # somewhere here Python's recursion ends, for reading and for writing
        deep = f'[{{"name": "weather", "arguments": {{"city": {"[" * depth + "]" * depth}}}}}]'
        assert reply_to(f"<tool_call>\n{deep}\n</tool_call>")[3]


def test_the_arguments_of_a_call_that_is_none() -> None:
    assert arguments_in('{"name": "sun", "arguments": {"x": 1}}', "sun") == '{"x": 1}'
    assert arguments_in('{"name": "sun", "parameters": "{broken"}', "sun") == "{broken"
    assert arguments_in('{"name": "sun"}', "sun") == "{}"
    for text in ('{"name": "Ann", "arguments": 1}', '{"x": 1}', "<function=sun>", '{"name": "sun", "arg'):
        assert arguments_in(text, "sun") == text


# --- what a grammar allows ---

MARKERS = ("<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "<think>", "</think>")


class Judge:
    """llguidance with the tiny tokenizer, with the markers as control tokens or without."""

    def __init__(self, template: str, *, has_tokens: bool) -> None:
        from llguidance.hf import from_tokenizer

        self.tokenizer = tiny_tokenizer(chat_template=template)
        if has_tokens:
            self.tokenizer.add_special_tokens(
                {"additional_special_tokens": list(MARKERS)}, replace_extra_special_tokens=False
            )
        self.format: ToolFormat = tool_format(template, self.tokenizer.get_added_vocab())
        self.llguidance = from_tokenizer(self.tokenizer)

    def allows(self, grammar: str, text: str) -> bool:
        from llguidance import LLMatcher

        matcher = LLMatcher(self.llguidance, grammar, log_level=0)
        assert not matcher.is_error(), f"{matcher.get_error()}\n{grammar}"
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())

    def grammar(self, conversation: Conversation, answer: str | None = None, *, reasons: bool = False) -> str | None:
        return self.format.grammar(conversation, answer, starts_in_reasoning=reasons)


def block(family: str, *calls: tuple[str, Any]) -> str:
    """Calls as their family writes them."""
    dump = [(json.dumps(name, ensure_ascii=False), name, json.dumps(a, ensure_ascii=False)) for name, a in calls]
    if family == "llama":
        return "; ".join(f'{{"name": {quoted}, "parameters": {a}}}' for quoted, _, a in dump)
    objects = [f'{{"name": {quoted}, "arguments": {a}}}' for quoted, _, a in dump]
    if family == "mistral":
        return f"[TOOL_CALLS] [{', '.join(objects)}]"
    if family == "mistral-args":
        return "".join(f"[TOOL_CALLS]{name}[ARGS]{a}" for _, name, a in dump)
    return "\n".join(f"<tool_call>\n{o}\n</tool_call>" for o in objects)


GOOD = [
    ("weather", {"city": "Köln", "days": 3}),
    ("weather", {"city": ""}),
    ("weather_now", {}),
    ('größe "x"', {"wörter": ["ä", "日本"]}),
]
BAD = [("weather", {}), ("weather", {"city": 1}), ("weather_now", {"x": 1}), ("sun", {})]


@pytest.fixture(params=[(name, has) for name in TEMPLATES for has in (True, False)], ids=str)
def judge(request: pytest.FixtureRequest) -> tuple[str, Judge]:
    name, has_tokens = request.param
    return name, Judge(TEMPLATES[name], has_tokens=has_tokens)


def check(judge: tuple[str, Judge], conversation: Conversation, texts: Mapping[str, Any], *refused: str) -> None:
    """The texts are legal, and say what they should; the others are refused."""
    _, judging = judge
    grammar = judging.grammar(conversation)
    assert grammar is not None
    for text, calls in texts.items():
        assert judging.allows(grammar, text), (text, grammar)
        reply = read(judging.format.reader(conversation, starts_in_reasoning=False), [text])
        assert [(c.name, c.arguments) for c in reply.tool_calls] == calls
        assert not reply.invalid_tool_calls
        ids = list(judging.tokenizer(text)["input_ids"])
        heard = judging.tokenizer.decode(ids, skip_special_tokens=True)  # the markers gone, where they are tokens
        reply = read(judging.format.reader(conversation, starts_in_reasoning=False), [heard])
        if judge[0] in ("llama", "mistral", "mistral-args"):
            assert [(c.name, c.arguments) for c in reply.tool_calls] == calls, heard
    for text in refused:
        assert not judging.allows(grammar, text), (text, grammar)


def test_forced_calls(judge: tuple[str, Judge]) -> None:
    name = judge[0]
    texts = {block(name, call): [call] for call in GOOD}
    bad = [block(name, call) for call in BAD]
    two = block(name, *GOOD[:2])
    check(judge, talk(tool_choice="required"), texts, *bad, two, "", "Hello", "Hello " + block(name, GOOD[0]))
    check(judge, talk(tool_choice="required", parallel_tool_calls=True), {**texts, two: GOOD[:2]}, *bad, "")
    check(judge, talk(tool_choice="weather_now"), {block(name, GOOD[2]): [GOOD[2]]}, block(name, GOOD[0]), *bad)


def test_strict_calls(judge: tuple[str, Judge]) -> None:
    name = judge[0]
    texts: dict[str, Any] = {block(name, call): [call] for call in GOOD}
    texts |= {text: [] for text in ("", "Hello\n", 'a < b, [x] { y: "name" }', "<tool")}
    texts[block(name, *GOOD)] = GOOD
    if name != "llama":
        texts["Wait.\n" + block(name, GOOD[0])] = [GOOD[0]]
    bad = [block(name, call) for call in BAD]
    check(judge, talk(strict=True), texts, *bad, *("Wait.\n" + text for text in bad))


def test_at_most_one_call(judge: tuple[str, Judge]) -> None:
    name = judge[0]
    free = ("weather", {"anything": [1, {"goes": None}]})
    texts: dict[str, Any] = {block(name, call): [call] for call in (*GOOD, free)}
    texts |= {"": [], "Hello": []}
    check(judge, talk(parallel_tool_calls=False), texts, block(name, *GOOD[:2]), block(name, ("sun", {})))
    strict = {block(name, GOOD[0]): [GOOD[0]], "Hello": []}
    check(judge, talk(parallel_tool_calls=False, strict=True), strict, block(name, free), block(name, *GOOD[:2]))


ANSWER = '%json {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}'


def test_an_answer_or_calls(judge: tuple[str, Judge]) -> None:
    name, judging = judge
    marked = "<|python_tag|>" * (name == "llama") + block(name, GOOD[0])
    both = judging.grammar(talk(), ANSWER)
    assert both is not None
    assert judging.allows(both, '{"ok":true}')
    assert judging.allows(both, marked)
    assert not judging.allows(both, "Hello")
    only = judging.grammar(talk(tools=()), ANSWER)
    assert only is not None
    assert judging.allows(only, '{"ok":true}')
    assert not judging.allows(only, marked)
    assert only == judging.grammar(talk(tool_choice="none"), ANSWER)
    forced = judging.grammar(talk(tool_choice="required"), ANSWER)
    assert forced is not None
    assert judging.allows(forced, block(name, GOOD[0]))
    assert not judging.allows(forced, '{"ok":true}')


def test_reasoning_comes_first(judge: tuple[str, Judge]) -> None:
    name, judging = judge
    call = block(name, GOOD[0])
    for conversation, answer, reply in (
        (talk(tool_choice="required"), None, call),
        (talk(strict=True), None, call),
        (talk(strict=True), None, "Hello"),
        (talk(), ANSWER, '{"ok":true}'),
    ):
        grammar = judging.grammar(conversation, answer, reasons=True)
        assert grammar is not None
        for thoughts in (
            "hm {[<tool_cal\n</think>\n\n",
            "</think>",
            f"{block('qwen', BAD[0]) * (not judging.format.special_ids)}</think>\n",
        ):
            assert judging.allows(grammar, thoughts + reply), (thoughts + reply, grammar)
        assert not judging.allows(grammar, "</think>\n\n" + block(name, BAD[-1]))
        assert not judging.allows(grammar, "hm")


def test_a_model_that_thinks_by_itself_may() -> None:
    for has_tokens in (True, False):
        judging = Judge(QWEN + "{#- </think> #}", has_tokens=has_tokens)
        for conversation, answer, reply in (
            (talk(tool_choice="required"), None, HERMES_CALL),
            (talk(strict=True), None, "Hello"),
            (talk(), ANSWER, '{"ok":true}'),
        ):
            grammar = judging.grammar(conversation, answer)
            assert grammar is not None
            assert judging.allows(grammar, reply)
            assert judging.allows(grammar, f"<think>\nhm\n</think>\n\n{reply}")
            assert not judging.allows(grammar, "<think>\nhm")


def test_free_replies_need_no_grammar(judge: tuple[str, Judge]) -> None:
    for conversation in (talk(), talk(tools=(), strict=True), talk(tool_choice="none"), talk(parallel_tool_calls=True)):
        assert judge[1].grammar(conversation) is None
        assert judge[1].grammar(conversation, reasons=True) is None


def test_qwens_own_tokens_are_used_though_they_are_not_special() -> None:
    judging = Judge(QWEN, has_tokens=False)
    judging.tokenizer.add_tokens(["<tool_call>", "</tool_call>"])
    from llguidance.hf import from_tokenizer

    judging.llguidance = from_tokenizer(judging.tokenizer)
    judging.format = tool_format(QWEN, judging.tokenizer.get_added_vocab())
    for conversation in (talk(tool_choice="required"), talk(strict=True)):
        grammar = judging.grammar(conversation)
        assert grammar is not None
        assert judging.tokenizer.get_added_vocab()["<tool_call>"] in judging.tokenizer(HERMES_CALL)["input_ids"]
        assert judging.allows(grammar, HERMES_CALL)


@pytest.mark.parametrize("family", ["hermes", "llama3", "mistral", "kimi", "harmony"])
@pytest.mark.parametrize("ids", [("a", "b"), ("", ""), ("a", "a")])
def test_results_follow_their_calls(family: str, ids: tuple[str, str]) -> None:
    sample = next(sample for sample in SAMPLES if sample.family == family)
    calls = calls_message((ids[0], "weather", {}), (ids[1], "weather_now", {}))
    results = [result(ids[0], "of weather"), result(ids[1], "of now", status="error")]
    if ids[0] != ids[1]:  # nothing but the ids tells which is whose
        results.reverse()
    conversation = checked_conversation(talk(USER, calls, *results))
    messages = tool_format(sample.template, {}).shaped(cleaned(conversation.messages))  # type: ignore[arg-type]
    said = [m for m in messages if m["role"] == "tool"]
    assert [(m["name"], m["content"]) for m in said] == [("weather", "of weather"), ("weather_now", "Error: of now")]
    called = [call["id"] for m in messages for call in m.get("tool_calls", ())]
    assert [m["tool_call_id"] for m in said] == called and len(set(called)) == 2
    if family == "kimi":
        assert called == ["functions.weather:0", "functions.weather_now:1"]


def test_results_that_show_no_ids_stand_in_the_order_of_their_calls() -> None:
    calls = calls_message(("1", "weather", {}), ("2", "weather", {}))
    results = [result("2", "second"), result("1", "first"), result("9", "late")]
    prompt = rendered(CHAT_TEMPLATE, talk(USER, calls, *results))
    assert prompt.index("first") < prompt.index("second") < prompt.index("late")
