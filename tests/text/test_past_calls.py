"""A conversation with calls loses nothing on its way through a template, whatever the template wants."""

from __future__ import annotations

from typing import Any

import pytest

from power_sampling.text.codec import Codec
from power_sampling.text.control import own
from power_sampling.text.past_calls import CallForm
from power_sampling.types import Conversation
from tests.support.calls import TOOLS
from tests.support.tiny import tiny_tokenizer

ARGUMENTS = {"city": 'Köln "Süd"', "days": 3}
BODY = "{% for m in messages %}<{{ m.role }}>{BODY}{% endfor %}{{ tools | tojson }}<tool_call>"
CALLS = "{% for c in m.tool_calls or [] %}{{ c.function.name }} {ARGUMENTS};{% endfor %}"
AS_JSON = CALLS.replace("{ARGUMENTS}", "{{ c.function.arguments | tojson }}")
ADDED = CALLS.replace("{ARGUMENTS}", "{{ 'with ' + c.function.arguments }}")
EITHER = CALLS.replace("{ARGUMENTS}", "{{ c.function.arguments }}")  # prints a mapping as Python does
ONE_BY_ONE = CALLS.replace("{ARGUMENTS}", "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }} {% endfor %}")
IF_NONE = "{% if m.content is none %}{CALLS}{% else %}{{ m.content }}{% endif %}"
INSTEAD = "{% if m.tool_calls %}{CALLS}{% else %}{{ m.content }}{% endif %}"
BESIDE = "{{ m.content }}{CALLS}"
NO_RESULTS = (
    "{% for m in messages %}{% if m.role not in ('user', 'assistant') %}{{ raise_exception('no role') }}{% endif %}"
    "{% endfor %}"
)
ALTERNATING = (
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role in ('user', 'assistant') and not m.tool_calls %}"
    "{% if (m.role == 'user') != (ns.n % 2 == 0) %}{{ raise_exception('they must alternate') }}{% endif %}"
    "{% set ns.n = ns.n + 1 %}{% endif %}{% if m.role == 'tool' %}{% endif %}{% endfor %}"
)


def template(body: str, calls: str, before: str = "") -> str:
    return before + BODY.replace("{BODY}", body.replace("{CALLS}", calls))


def rendered(source: str, said: str = "") -> tuple[CallForm, str]:
    """How the template is given calls, and what it makes of a conversation."""
    codec = Codec(tiny_tokenizer(chat_template=source))
    calls = [{"id": "abcdefgh1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}]
    messages: tuple[dict[str, Any], ...] = (
        {"role": "user", "content": "Ask"},
        {"role": "assistant", "content": said, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "abcdefgh1", "content": "Sun"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "Next"},
    )
    shaped, arguments = codec.tool_format.turn(Conversation(messages=messages, tools=TOOLS)).prepare(own)
    text = codec.decode(codec.encode_chat(shaped, **arguments))
    return codec._chat(TOOLS).call_form, text


CASES = [
    (template(BESIDE, AS_JSON), CallForm()),
    (template(BESIDE, ONE_BY_ONE), CallForm()),
    (template(BESIDE, ADDED), CallForm(is_written=True)),
    (template(BESIDE, EITHER), CallForm(is_written=True)),
    (template(INSTEAD, AS_JSON), CallForm(is_apart=True)),
    (template(IF_NONE, ADDED), CallForm(is_written=True, is_none=True, is_apart=True)),
    (template(INSTEAD, ADDED, "{% for t in tools %}{% endfor %}"), CallForm(is_written=True, is_apart=True)),
    (template(BESIDE, ADDED, NO_RESULTS), CallForm(is_written=True)),
]


@pytest.mark.parametrize(("source", "form"), CASES)
@pytest.mark.parametrize("said", ["", "Wait"])
def test_calls_results_and_what_was_said_are_all_there(source: str, form: CallForm, said: str) -> None:
    found, text = rendered(source, said)
    assert found == form
    assert [text.count(word) for word in ("Ask", "Sun", "Yes", "Next")] == [1, 1, 1, 1]
    assert "weather " in text and said in text
    assert ('{"city": "Köln \\"Süd\\"", "days": 3}' in text) or 'city=Köln "Süd" days=3' in text


def test_a_template_that_takes_no_message_more_is_given_none() -> None:
    """What it leaves out beside a call it was made to leave out."""
    form, text = rendered(template(INSTEAD, AS_JSON, ALTERNATING), "Wait")
    assert form == CallForm()
    assert "weather " in text and "Wait" not in text


def test_a_text_that_was_meant_for_arguments_stays_as_it_is() -> None:
    codec = Codec(tiny_tokenizer(chat_template=template(BESIDE, ADDED)))
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Kö'}}
    messages = ({"role": "user", "content": "Ask"}, {"role": "assistant", "content": "", "tool_calls": [call]})
    assert 'with {"city": "Kö;' in codec.decode(codec.encode_chat(messages))


def test_templates_that_know_no_content_but_parts_are_given_parts() -> None:
    body = "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{CALLS}"
    for said in ("", "Wait"):
        _, text = rendered(template(body, AS_JSON), said)
        assert all(word in text for word in ("Ask", "weather ", "Sun", "Yes", "Next", said))
    codec = Codec(tiny_tokenizer(chat_template=template(body, AS_JSON)))
    open_turn = codec.decode(
        codec.encode_chat([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}])
    )
    assert open_turn.endswith("<assistant>y")


def test_what_a_template_joins_to_a_safe_text_is_not_escaped() -> None:
    safe = "{% set a = c.function.arguments | tojson | safe %}{{ '<a>' ~ a ~ '</a>' }}"
    _, text = rendered(template(BESIDE, CALLS.replace("{ARGUMENTS}", safe)))
    assert "<a>{" in text and "}</a>" in text and "&" not in text
