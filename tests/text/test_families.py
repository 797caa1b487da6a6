"""Every family: what it writes is read, at any split, with thoughts, text and faults around; what its grammar admits
is valid."""

from __future__ import annotations

import json
from typing import Any

import pytest

from power_sampling.errors import ConfigurationError
from power_sampling.text.codec import Codec
from power_sampling.text.control import own
from power_sampling.text.formats import FAMILIES, MODEL_TYPES, ToolFormat, tool_format
from power_sampling.types import Conversation, Reply
from tests.support.calls import NESTED, SAMPLES, TOOLS, Sample
from tests.support.tiny import tiny_tokenizer

KOELN: tuple[str, dict[str, Any]] = ("weather", {"city": "Köln", "days": 3})
QUOTED: tuple[str, dict[str, Any]] = ("weather", {"city": "Ö\\n \"q\" 's' {x: [1]}, =<b>", "days": -1})
EMPTY: tuple[str, dict[str, Any]] = ("now", {})
CALLS = [KOELN, QUOTED, ("plan", NESTED), EMPTY]
EACH = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.family)
TALK = Conversation(messages=(), tools=TOOLS)


def format_of(sample: Sample) -> ToolFormat:
    return tool_format(sample.template, {})


def read(form: ToolFormat, pieces: list[str], conversation: Conversation = TALK, *, reasons: bool = False) -> Reply:
    """The reply of a text in pieces. What was released joins to it."""
    reader = form.turn(conversation).reader(starts_in_reasoning=reasons, salt="")
    released = [reader.push(piece) for piece in pieces]
    last, reply = reader.finish()
    content, reasoning = ("".join(part) for part in zip(*released, last, strict=True))
    assert (content, reasoning) == (reply.content, reply.reasoning), pieces
    return reply


def essence(reply: Reply) -> tuple[Any, ...]:
    calls = [(call.name, dict(call.arguments)) for call in reply.tool_calls]
    return reply.content, reply.reasoning, calls, [(call.name, call.arguments) for call in reply.invalid_tool_calls]


def several(form: ToolFormat, *calls: tuple[str, dict[str, Any]]) -> str:
    """Calls in one reply; a model of gpt-oss writes one a turn, but may not stop there."""
    if form.family != "harmony":
        return form.write(calls)
    return "<|call|><|start|>assistant".join(form.write([call]) for call in calls)


def test_every_family_has_a_sample() -> None:
    assert {sample.family for sample in SAMPLES} == {family.family for family in FAMILIES}


@EACH
def test_a_template_tells_its_family_and_a_name_overrides_it(sample: Sample) -> None:
    assert format_of(sample).family == sample.family
    assert tool_format("{{ tools }}<tool_call>", {}, family=sample.family).family == sample.family


def test_a_type_of_model_tells_the_family_where_the_template_cannot() -> None:
    names = {family.family for family in FAMILIES}
    assert names >= set(MODEL_TYPES.values())
    for model_type, family in MODEL_TYPES.items():
        assert tool_format("{{ messages }}", {}, model_type=f"{model_type}_text").family == family
        assert tool_format("<tool_call>", {}, model_type=model_type).family == "hermes"


def test_a_family_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"tool_format: expected one of apertus, .*got 'qwen99'"):
        tool_format(None, {}, family="qwen99")


@EACH
def test_a_family_writes_what_its_models_write(sample: Sample) -> None:
    assert format_of(sample).write([KOELN]) == sample.call
    assert essence(read(format_of(sample), [sample.call])) == ("", "", [KOELN], [])


@EACH
@pytest.mark.parametrize("call", CALLS, ids=["plain", "quotes", "nested", "empty"])
def test_arguments_come_back_as_they_were(sample: Sample, call: tuple[str, dict[str, Any]]) -> None:
    form = format_of(sample)
    assert essence(read(form, [form.write([call])])) == ("", "", [call], [])


@EACH
def test_the_name_of_a_tool_may_hold_blanks_and_quotes(sample: Sample) -> None:
    tool = {"type": "function", "function": {"name": 'größe "x"', "parameters": {"type": "object", "properties": {}}}}
    calls: list[tuple[str, dict[str, Any]]] = [KOELN, ('größe "x"', {}), KOELN]
    form = format_of(sample)
    talk = Conversation(messages=(), tools=(*TOOLS, tool))
    assert essence(read(form, [several(form, *calls)], talk)) == ("", "", calls, [])


@EACH
def test_calls_text_and_thoughts_are_told_apart_at_every_split(sample: Sample) -> None:
    form, (opening, closing) = format_of(sample), sample.thoughts
    two = several(form, QUOTED, ("plan", NESTED))
    broken = cut(sample)
    replies = {
        two: ("", "", [QUOTED, ("plan", NESTED)], []),
        f"{opening}Hm [x] < {{y}}{closing}\n\n{sample.call}": ("", "Hm [x] < {y}", [KOELN], []),
        f"{opening}never ends": ("", "never ends", [], []),
        broken: ("", "", [], [("weather", essence(read(form, [broken]))[3][0][1])]),
    }
    if form.family == "harmony":
        final = "<|channel|>final<|message|>"
        replies |= {
            f"<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant{sample.call}": ("Wait.", "", [KOELN], []),
            f"{opening}Hm{closing}{final}Hi <|": ("Hi <|", "Hm", [], []),
            f"{opening}Hm<|end|><|start|>assistant{opening}ah{closing}{final}x": ("x", "Hm\n\nah", [], []),
            "Hi": ("Hi", "", [], []),
        }
    else:
        replies |= {
            f"Wait.\n\n{sample.call}": ("Wait.", "", [KOELN], []),
            f"Wait.\n{sample.call}\nSo.": ("Wait.\nSo.", "", [KOELN], []),
            f"{opening}\nHm\n{closing}\n\nHi {sample.call[:3]}": (f"Hi {sample.call[:3]}", "Hm", [], []),
        }
    for text, expected in replies.items():
        assert essence(read(form, [text])) == expected, text
        splits = [[text[:i], text[i:]] for i in range(1, len(text))]
        for pieces in [*splits, list(text)]:
            assert essence(read(form, pieces)) == expected, pieces
    thinking = f"Hm{closing}{sample.call}"
    assert essence(read(form, list(thinking), reasons=True)) == ("", "Hm", [KOELN], [])


def cut(sample: Sample) -> str:
    """The call, cut short inside of its arguments."""
    return sample.call[: sample.call.index("Köln") + 2]


@EACH
def test_what_cannot_be_read_says_why_and_keeps_its_text(sample: Sample) -> None:
    form = format_of(sample)
    [broken] = read(form, [cut(sample)]).invalid_tool_calls
    assert broken.name == "weather"
    assert "weather" in broken.error and "Write it again" in broken.error
    assert broken.arguments.endswith("Kö") and broken.arguments.strip() in cut(sample)
    unknown = form.write([("sun", {"city": "Köln"})])
    reply = read(form, [unknown])
    if form.syntax.is_bare and form.family == "llama4":
        unknown = unknown.removeprefix("<|python_start|>")  # without its mark nothing tells it from a list
        assert read(form, [unknown]).content == unknown
    [missing] = reply.invalid_tool_calls
    assert (missing.name, "There is no tool 'sun'" in missing.error) == ("sun", True)


# their calls have no mark of their own that ends them: a broken one takes those after it along
SWALLOWS = ("lfm2", "llama4", "olmo3", "mistral", "mistral_args", "llama3")


def broken_in_the_middle(form: ToolFormat, *calls: tuple[str, dict[str, Any]]) -> str:
    """Calls in one reply, in the first of which a quote or a tag is missing."""
    text, markup = several(form, *calls), form.syntax.arguments.markup
    quoted = f"city{markup[1]}" if len(markup) > 1 else f"{(*markup, '')[0] or chr(34)}Köln"
    assert quoted in text
    return text.replace(quoted, "city\n" if len(markup) > 1 else "Köln", 1)


@EACH
@pytest.mark.parametrize("spoken", ["", "\nSo."])
def test_a_broken_call_harms_no_other(sample: Sample, spoken: str) -> None:
    form = format_of(sample)
    text = broken_in_the_middle(form, ("weather", {"city": "Köln"}), EMPTY, KOELN)
    spoken = spoken * (form.family != "harmony")
    for pieces in ([text + spoken], list(text + spoken)):
        content, _, calls, [(name, raw)] = essence(read(form, pieces))
        assert name == "weather"
        if form.family not in SWALLOWS:
            assert (content, calls) == (spoken.strip(), [EMPTY, KOELN]), text
            assert raw.strip("[ ") in text and "now" not in raw
        else:
            assert set(dict(calls)) <= {"now"}


def names_of(*tools: tuple[str, dict[str, Any]], **more: Any) -> Conversation:
    """A conversation with these tools, of these arguments."""
    schemas = [(name, {"type": "object", "properties": properties, **more}) for name, properties in tools]
    return Conversation(
        messages=(),
        tools=tuple({"type": "function", "function": {"name": name, "parameters": s}} for name, s in schemas),
    )


@EACH
@pytest.mark.parametrize("more", ["_web", "-now", ".x", "2"])
def test_the_beginning_of_a_name_calls_nothing(sample: Sample, more: str) -> None:
    form = format_of(sample)
    talk = names_of(("search", {"q": {"type": "string"}}))
    reply = read(form, [form.write([(f"search{more}", {"q": "x"})])], talk)
    assert (reply.content, reply.tool_calls) == ("", ())
    assert [call.name for call in reply.invalid_tool_calls] == [f"search{more}"]


TAGGED = ("qwen3_coder", "glm4", "glm47", "seed", "minimax", "deepseek_v32", "deepseek_v4")
EACH_TAGGED = pytest.mark.parametrize("family", TAGGED)


@EACH_TAGGED
def test_a_call_that_is_cut_short_lacks_nothing_that_is_required(family: str) -> None:
    form = tool_format("", {}, family=family)
    properties = {"path": {"type": "string"}, "dry": {"type": "boolean"}}
    talk = names_of(("rm", properties), required=["path", "dry"])
    whole = form.write([("rm", {"path": "notes/a", "dry": True})])
    read_at = {}
    for end in range(whole.index("rm") + 2, len(whole) + 1):
        content, _, calls, invalid = essence(read(form, [whole[:end]], talk))
        assert content == "" and len(calls) + len(invalid) == 1
        assert calls in ([], [("rm", {"path": "notes/a", "dry": True})])
        read_at[end] = bool(calls)
    assert read_at[len(whole)] and not read_at[whole.index("dry")]
    assert "cut short" in read(form, [whole[: whole.index("dry")]], talk).invalid_tool_calls[0].error
    assert not read(form, [whole[: whole.index("path")]], names_of(("rm", properties))).tool_calls
    for given in ({}, {"path": "notes/a"}):  # what is ended is the model's own, and whoever calls the tool says so
        assert essence(read(form, [form.write([("rm", given)])], talk)) == ("", "", [("rm", given)], [])


@EACH_TAGGED
def test_a_broken_tag_is_no_name_and_nothing_may_follow_an_argument(family: str) -> None:
    form = tool_format("", {}, family=family)
    call = form.write([KOELN])
    arguments = form.syntax.arguments
    middle, close = arguments.markup[1], arguments.markup[-1]
    for wrong in (
        call.replace(f"city{middle}", "city\n", 1),
        call.replace(f"city{middle}", "", 1),
        call.replace(close, f"{close}oops", 1),
        call.replace(close, f"{close}Bonn{close}", 1),
    ):
        assert wrong != call
        content, _, calls, [(name, _)] = essence(read(form, [wrong]))
        assert (content, calls, name) == ("", [], "weather"), wrong


TEXT: dict[str, Any] = {"type": "string"}
OF_TEXT = {"x": TEXT}


@EACH_TAGGED
@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"x": {**TEXT, "enum": ["a", "b"]}}},
        {"properties": {"x": {"type": ["string", "null"], "enum": ["a"]}}},
        {"properties": {"x": {"const": "a"}}},
        {"properties": {"x": {**TEXT, "not": {"enum": ["a"]}}}},
        {"properties": {"x": {**TEXT, "if": {"minLength": 1}, "then": {"maxLength": 2}}}},
        {"properties": {"x": {"oneOf": [{**TEXT, "maxLength": 1}, {**TEXT, "minLength": 3}]}}},
        {"properties": {"x": {**TEXT, "allOf": [{"minLength": 1}, {"minLength": 2}]}}},
        {"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "properties": OF_TEXT}}},
        {"allOf": [{"properties": OF_TEXT}]},
        {"anyOf": [{"properties": OF_TEXT}, {"properties": {"x": {**TEXT, "maxLength": 1}}}]},
        {"additionalProperties": TEXT},
    ],
    ids=lambda schema: json.dumps(schema)[:60],
)
def test_what_the_schema_calls_a_text_is_one(family: str, schema: Any) -> None:
    form = tool_format("", {}, family=family)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", **schema}}}
    talk = Conversation(messages=(), tools=(tool,))
    for value in ("123", "1e5", "true", "null", "[1]", "1e999", "10115"):
        assert essence(read(form, [form.write([("f", {"x": value})])], talk))[2] == [("f", {"x": value})]


@pytest.mark.parametrize("family", ["gemma4", "functiongemma", "lfm2", "llama4", "olmo3"])
def test_a_text_that_lost_its_quotes_keeps_its_digits(family: str) -> None:
    form = tool_format("", {}, family=family)
    text = form.write([("weather", {"city": 17, "days": 17})]).replace("17", "007")
    assert essence(read(form, [text]))[2] == [("weather", {"city": "007", "days": 7})]


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("lfm2", "<|tool_call_start|>[now() oops]<|tool_call_end|>"),
        ("llama4", "<|python_start|>[now() oops]<|python_end|>"),
        ("olmo3", "<function_calls>\nnow() oops\n</function_calls>"),
        ("glm47", '<tool_call>now\n{"city": "Köln"}\n</tool_call>'),
        ("glm47", "<tool_call>weather\n<arg"),
    ],
)
def test_nothing_may_follow_the_arguments(family: str, text: str) -> None:
    content, _, calls, [_] = essence(read(tool_format("", {}, family=family), [text]))
    assert (content, calls) == ("", [])


@pytest.mark.parametrize(
    ("family", "text", "calls"),
    [
        ("llama4", '<|python_start|>[{"name": "now", "parameters": {}}]<|python_end|>', [EMPTY]),
        ("nemotron", '<TOOLCALL>[{"name": "now"}]</TOOLCALL>', [EMPTY]),
        ("nemotron", '<TOOLCALL>[{"name": "now", "arguments": null}]</TOOLC', [EMPTY]),
        ("hermes", '<tool_call>{"name": "now", "arguments": ""}</tool_call>', [EMPTY]),
        ("lfm2", "<|tool_call_start|>[now(), now()]<|tool_call_e", [EMPTY, EMPTY]),
    ],
)
def test_marks_and_keys_may_be_missing(family: str, text: str, calls: Any) -> None:
    assert essence(read(tool_format("", {}, family=family), [text])) == ("", "", calls, [])


HEAD = "<|channel|>commentary to=functions."
FINAL = "<|channel|>final<|message|>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"<|end|>foo{FINAL}x", ("foo\n\nx", "", [], [])),
        (f"{FINAL}a<|end|>b<|start|>assistant{HEAD}now<|message|>{{}}", ("a\n\nb", "", [EMPTY], [])),
        (f"{HEAD}now <|constrain|>json<|message|>", ("", "", [], [("now", "")])),
        ("today", ("today", "", [], [])),
    ],
)
def test_messages_of_gpt_oss(text: str, expected: Any) -> None:
    form = tool_format("", {}, family="harmony")
    assert essence(read(form, [text])) == essence(read(form, list(text))) == expected
    assert form.turn(TALK).reader(starts_in_reasoning=False).push("today")[0] == "today"


@EACH
@pytest.mark.parametrize(
    "text", ["", "<", "[", "{", "<tool_call>", "<|channel|>", "[[[[", "{" * 300, "<|tool_call>call:", "\x00\ufffd"]
)
def test_reading_never_fails(sample: Sample, text: str) -> None:
    form = format_of(sample)
    for garbled in (
        text,
        sample.call + text,
        sample.call[:-3] + text,
        text + sample.call,
        sample.call.replace("3", text),
    ):
        for conversation in (TALK, Conversation(messages=())):
            read(form, [garbled], conversation)
            read(form, list(garbled), conversation, reasons=True)


@EACH
def test_without_tools_nothing_is_a_call(sample: Sample) -> None:
    reply = read(format_of(sample), [sample.call], Conversation(messages=()))
    assert not reply.tool_calls and not reply.invalid_tool_calls
    assert "Köln" in reply.content


def test_a_tool_is_explained_in_the_familys_own_words_where_the_template_has_none() -> None:
    form = tool_format("<｜tool▁calls▁begin｜>", {})  # noqa: RUF001 - so it is written
    messages, _ = form.prepare(Conversation(messages=({"role": "user", "content": "x"},), tools=TOOLS))
    assert form.write([("function_name", {"argument_name": "value"})]) in messages[0]["content"]
    assert json.dumps(TOOLS[0]["function"]) in messages[0]["content"]


XML = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}<tool_call><function={{ c.function.name }}>"
    "{% for k, v in c.function.arguments | items %}<parameter={{ k }}>{{ v }}</parameter>{% endfor %}"
    "{% endfor %}{{ m.content }}{% endfor %}{{ tools }}"
)


def past(arguments: Any, **more: Any) -> Conversation:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    said = {"role": "assistant", "content": "So", "tool_calls": [call], **more}
    return Conversation(messages=({"role": "user", "content": "x"}, said), tools=TOOLS)


def test_arguments_that_a_template_prints_as_python_does_are_read() -> None:
    form = tool_format("<seed:tool_call>", {})
    text = form.write([("plan", {"stops": str(NESTED["stops"]), "mode": "rail"})])
    assert "[{'at': 'a \"b\"', 'open': True}, " in text
    assert essence(read(form, [text]))[2] == [("plan", {"stops": NESTED["stops"], "mode": "rail"})]
    note = form.write([("plan", {"stops": "[{'at': 'a'", "note": "['x']"})])
    assert essence(read(form, [note]))[2] == [("plan", {"stops": "[{'at': 'a'", "note": "['x']"})]


def test_a_tag_that_says_what_a_value_is_is_believed_where_the_schema_allows_it() -> None:
    form = tool_format("<｜DSML｜function_calls>", {})  # noqa: RUF001 - so it is written
    wrong = form.write([("weather", {"city": 3, "days": "3"})])
    assert essence(read(form, [wrong]))[2] == [("weather", {"city": "3", "days": 3})]
    any_value = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {}}}}}
    talk = Conversation(messages=(), tools=(any_value,))
    for value in ("3", "[1]", "null", 3, [1], None, '"q"'):
        assert essence(read(form, [form.write([("f", {"x": value})])], talk))[2] == [("f", {"x": value})]


@pytest.mark.parametrize("text", ["\n", " \n "])
def test_glm_may_break_lines_or_not(text: str) -> None:
    call = next(sample.call for sample in SAMPLES if sample.family == "glm47")
    broken = call.replace("><", f">{text}<").replace("weather<", f"weather{text}<")
    for family in ("glm4", "glm47"):
        for one in (call, broken):
            assert essence(read(tool_format("", {}, family=family), [one])) == ("", "", [KOELN], [])


def test_a_broken_call_of_an_earlier_turn_is_printed_by_templates_that_print_arguments_one_by_one() -> None:
    form = tool_format(XML, {})
    assert form.family == "qwen3_coder"
    codec = Codec(tiny_tokenizer(chat_template=XML))
    for given, printed in (('{"city": "Kö', "<parameter=arguments>{"), ({"city": "Köln"}, "<parameter=city>Köln<")):
        messages, arguments = form.prepare(past(given))
        assert printed in codec.decode(codec.encode_chat(messages, **arguments))


def test_ids_of_kimi_name_their_function_and_are_numbered_through_the_conversation() -> None:
    user, ids = {"role": "user", "content": "x"}, ("a", "b", "c")
    calls = [{"id": one, "type": "function", "function": {"name": "weather", "arguments": {}}} for one in ids]
    results = [{"role": "tool", "tool_call_id": one, "content": "sun"} for one in ids]
    said = [
        *(user, {"role": "assistant", "content": "", "tool_calls": calls[:2]}, *results[:2]),
        *(user, {"role": "assistant", "content": "", "tool_calls": calls[2:]}, *results[2:]),
    ]
    form = tool_format("{{ tools }}{{ m.tool_calls }}<|tool_calls_section_begin|>{% if m.role == 'tool' %}", {})
    messages, _ = form.prepare(Conversation(messages=said, tools=TOOLS))
    numbered = [f"functions.weather:{i}" for i in range(3)]
    assert [call["id"] for message in messages for call in message.get("tool_calls", ())] == numbered
    assert [message["tool_call_id"] for message in messages if message["role"] == "tool"] == numbered


def test_thoughts_of_mistral_stand_in_the_content_as_tokens() -> None:
    template = "{{ tools }}[TOOL_CALLS][ARGS][THINK][/THINK]{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer = tiny_tokenizer(chat_template=template)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    codec = Codec(tokenizer)
    messages, _ = codec.tool_format.turn(past({}, reasoning_content="hm [THINK]")).prepare(own)
    tokens = codec.encode_chat([*messages, {"role": "user", "content": "y"}])
    opening = tokenizer.convert_tokens_to_ids("[THINK]")
    assert "[THINK]hm [THINK][/THINK]So" in codec.decode(tokens)
    assert tokens.count(opening) == 2  # the template's own, and the mark; what the model thought is text


@EACH
@pytest.mark.parametrize("kind", ["space", "space before a name", "space in a name", "arguments", "quotes", "begins"])
def test_no_text_takes_long(sample: Sample, kind: str) -> None:
    """With a search that begins again at every letter, each of these takes minutes for some family: the suite's limit
    ends it."""
    form = format_of(sample)
    call = form.write([("weather", {"city": "x"})])
    before, middle, after = call.partition("weather")
    texts = {
        "space": " " * 500_000 + "x",
        "space before a name": before + " " * 500_000 + "x",
        "space in a name": before + middle + after[: after.find("city")] + "city" + " " * 500_000,
        "arguments": form.write([("weather", {f"k{i}": "v" for i in range(25_000)})]),
        "quotes": before + '"' * 100_000,
        "begins": before * 2000,
    }
    form.turn(TALK).reader(starts_in_reasoning=False, salt="").push(texts[kind])
    form.read(texts[kind], [tool["function"]["name"] for tool in TOOLS])
