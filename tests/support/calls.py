"""How every family writes one and the same call, by hand; what the readers and writers of formats are judged by."""

# ruff: noqa: RUF001 - DeepSeek writes bars of full width

from __future__ import annotations

from typing import Any, NamedTuple

from tests.support.tiny import tiny_tokenizer

__all__ = ["NESTED", "SAMPLES", "TOOLS", "Sample", "is_special", "tokenizer_of"]

TOOLS: tuple[dict[str, Any], ...] = (
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "maxLength": 8},
                    "days": {"type": "integer", "minimum": 0, "maximum": 9},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "plan",
            "parameters": {
                "type": "object",
                "properties": {
                    "stops": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 2,
                        "items": {
                            "type": "object",
                            "properties": {
                                "at": {"type": "string", "maxLength": 8},
                                "open": {"type": "boolean"},
                            },
                            "required": ["at"],
                        },
                    },
                    "mode": {"enum": ["foot", "rail"]},
                    "note": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
                },
                "required": ["stops", "mode"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
)
NESTED: dict[str, Any] = {"stops": [{"at": 'a "b"', "open": True}, {"at": "Köln\n東"}], "mode": "rail", "note": None}


class Sample(NamedTuple):
    """A family by an example. The call is of `weather` with Köln and 3 days."""

    family: str
    template: str
    """What of its template tells it from others."""
    call: str
    tokens: tuple[str, ...]
    """What its tokenizer has as tokens."""
    thoughts: tuple[str, str] = ("<think>", "</think>")
    broken: str = ""
    """The call, cut short in its arguments."""


def is_special(token: str) -> bool:
    """Whether a tokenizer has it as a special token; tags of Hermes' kind are added tokens, and in the text."""
    tags = ("tool_call", "think", "arg_", "seed", "minimax")
    return not token.removeprefix("<").removeprefix("/").startswith(tags)


HERMES_TOKENS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
SAMPLES = (
    Sample(
        "hermes",
        "{{ tools }}<tool_call></think>",
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln", "days": 3}}\n</tool_call>',
        HERMES_TOKENS,
    ),
    Sample(
        "qwen3_coder",
        "{{ tools }}<tool_call><function=f><parameter=a></think>",
        "<tool_call>\n<function=weather>\n<parameter=city>\nKöln\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "</function>\n</tool_call>",
        HERMES_TOKENS,
    ),
    Sample(
        "glm4",
        "{{ tools }}<tool_call><arg_key></think>",
        "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Köln</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>3</arg_value>\n</tool_call>",
        (*HERMES_TOKENS, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    ),
    Sample(
        "glm47",
        "{{ tools }}<tool_call><arg_key></arg_key><arg_value></think>",
        "<tool_call>weather<arg_key>city</arg_key><arg_value>Köln</arg_value><arg_key>days</arg_key>"
        "<arg_value>3</arg_value></tool_call>",
        (*HERMES_TOKENS, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    ),
    Sample(
        "seed",
        "<seed:tool_call></seed:think>",
        "<seed:tool_call>\n<function=weather>\n<parameter=city>Köln</parameter>\n<parameter=days>3</parameter>\n"
        "</function>\n</seed:tool_call>",
        ("<seed:tool_call>", "</seed:tool_call>", "<seed:think>", "</seed:think>"),
        ("<seed:think>", "</seed:think>"),
    ),
    Sample(
        "minimax",
        "{{ tools }}<minimax:tool_call></think>",
        '<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Köln</parameter>\n'
        '<parameter name="days">3</parameter>\n</invoke>\n</minimax:tool_call>',
        ("<minimax:tool_call>", "</minimax:tool_call>", "<think>", "</think>"),
    ),
    Sample(
        "kimi",
        "{{ tools }}<|tool_calls_section_begin|></think>",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
        '{"city": "Köln", "days": 3}<|tool_call_end|><|tool_calls_section_end|>',
        (
            *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>", "<|tool_call_end|>"),
            *("<|tool_call_argument_begin|>", "<think>", "</think>"),
        ),
    ),
    Sample(
        "deepseek",
        "<｜tool▁calls▁begin｜>```json</think>",
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{"city": "Köln", "days": 3}'
        "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        (
            *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
            *("<｜tool▁sep｜>", "<think>", "</think>"),
        ),
    ),
    Sample(
        "deepseek_v31",
        "<｜tool▁calls▁begin｜></think>",
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Köln", "days": 3}<｜tool▁call▁end｜>'
        "<｜tool▁calls▁end｜>",
        (
            *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
            *("<｜tool▁sep｜>", "<think>", "</think>"),
        ),
    ),
    Sample(
        "deepseek_v32",
        "{{ tools }}<｜DSML｜function_calls></think>",
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="weather">\n'
        '<｜DSML｜parameter name="city" string="true">Köln</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n'
        "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        ("｜DSML｜", "<think>", "</think>"),
    ),
    Sample(
        "deepseek_v4",
        "{{ tools }}<｜DSML｜tool_calls></think>",
        '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="weather">\n'
        '<｜DSML｜parameter name="city" string="true">Köln</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n'
        "</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
        ("｜DSML｜", "<think>", "</think>"),
    ),
    Sample(
        "gemma4",
        "{{ tools }}<|tool_call><|channel>thought<channel|>",
        '<|tool_call>call:weather{city:<|"|>Köln<|"|>,days:3}<tool_call|>',
        ("<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>"),
        ("<|channel>thought\n", "<channel|>"),
    ),
    Sample(
        "functiongemma",
        "{{ tools }}<start_function_call>",
        "<start_function_call>call:weather{city:<escape>Köln<escape>,days:3}<end_function_call>",
        ("<start_function_call>", "<end_function_call>", "<escape>"),
    ),
    Sample(
        "lfm2",
        "{{ tools }}<|tool_list_start|></think>",
        '<|tool_call_start|>[weather(city="Köln", days=3)]<|tool_call_end|>',
        ("<|tool_call_start|>", "<|tool_call_end|>"),
    ),
    Sample(
        "llama4",
        "{{ tools }}<|header_start|>",
        '<|python_start|>[weather(city="Köln", days=3)]',
        ("<|python_start|>", "<|python_end|>"),
    ),
    Sample(
        "olmo3",
        "{{ functions }}<function_calls></think>",
        '<function_calls>\nweather(city="Köln", days=3)\n</function_calls>',
        (),
    ),
    Sample(
        "nemotron",
        "{{ tools }}<TOOLCALL></think>",
        '<TOOLCALL>[{"name": "weather", "arguments": {"city": "Köln", "days": 3}}]</TOOLCALL>',
        (),
    ),
    Sample(
        "apriel",
        "{{ tools }}<tool_calls>[",
        '<tool_calls>[{"name": "weather", "arguments": {"city": "Köln", "days": 3}}]</tool_calls>',
        ("<tool_calls>", "</tool_calls>"),
    ),
    Sample(
        "apertus",
        "{{ tools }}<|tools_prefix|>",
        '<|tools_prefix|>[{"weather": {"city": "Köln", "days": 3}}]<|tools_suffix|>',
        ("<|tools_prefix|>", "<|tools_suffix|>"),
    ),
    Sample(
        "phi4",
        "{{ tools }}<|tool|><|/tool|>",
        '<|tool_call|>[{"name": "weather", "arguments": {"city": "Köln", "days": 3}}]<|/tool_call|>',
        ("<|tool_call|>", "<|/tool_call|>"),
    ),
    Sample(
        "granite",
        "{{ tools }}<|tool_call|></think>",
        '<|tool_call|>[{"name": "weather", "arguments": {"city": "Köln", "days": 3}}]',
        ("<|tool_call|>",),
    ),
    Sample(
        "mistral",
        "{{ tools }}[TOOL_CALLS]",
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Köln", "days": 3}}]',
        ("[TOOL_CALLS]",),
    ),
    Sample(
        "mistral_args",
        "{{ tools }}[TOOL_CALLS][ARGS][/THINK]",
        '[TOOL_CALLS]weather[ARGS]{"city": "Köln", "days": 3}',
        ("[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]"),
        ("[THINK]", "[/THINK]"),
    ),
    Sample(
        "llama3",
        "{{ tools }}<|python_tag|>",
        '<|python_tag|>{"name": "weather", "parameters": {"city": "Köln", "days": 3}}',
        ("<|python_tag|>",),
    ),
    Sample(
        "harmony",
        "{{ tools }}<|channel|><|message|>",
        '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Köln", "days": 3}',
        ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|constrain|>", "<|call|>"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
    ),
)


def tokenizer_of(family: str, template: str | None = None) -> Any:
    """The tiny tokenizer with a family's tokens, special ones where its own has them so, and its template or this."""
    sample = next(sample for sample in SAMPLES if sample.family == family)
    tokenizer = tiny_tokenizer(chat_template=template or sample.template)
    for token in sample.tokens:
        tokenizer.add_tokens([token], special_tokens=is_special(token))
    return tokenizer
