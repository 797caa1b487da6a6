"""The skeleton of a tool format runs as it stands: written, read at every split, admitted by its grammar.

A family of `FAMILIES` needs no file like this one: a row in `tests/support/calls.py` brings it all the tests.
"""

from __future__ import annotations

from typing import Any

from power_sampling.text.codec import Codec
from power_sampling.text.formats import FAMILIES
from power_sampling.types import Conversation, Reply
from tests.support.calls import TOOLS
from tests.support.skeletons import skeleton
from tests.support.tiny import tiny_tokenizer

form: Any = skeleton("format_skeleton").YourFamily()
CALL = '<call>\nweather{"city": "Köln", "days": 3}\n</call>'
KOELN = ("weather", {"city": "Köln", "days": 3})
TALK = Conversation(messages=(), tools=TOOLS, tool_choice="weather")


def read(*pieces: str) -> Reply:
    reader = form.turn(TALK).reader(starts_in_reasoning=False, salt="")
    for piece in pieces:
        reader.push(piece)
    _, reply = reader.finish()
    assert isinstance(reply, Reply)
    return reply


def test_it_writes_what_it_reads() -> None:
    assert form.write([KOELN]) == CALL
    for at in range(len(CALL)):
        reply = read(CALL[:at], CALL[at:])
        assert [(call.name, call.arguments) for call in reply.tool_calls] == [KOELN] and not reply.content
    assert [call.name for call in read(form.write([KOELN, ("now", {})])).tool_calls] == ["weather", "now"]
    assert read(f"Wait.\n{CALL}").content == "Wait."


def test_its_grammar_admits_valid_calls_and_nothing_else() -> None:
    codec = Codec(tiny_tokenizer())
    lark = form.turn(TALK).grammar(None, starts_in_reasoning=False)
    constraint = codec.grammars(codec.vocab_size).constraint(lark, 200, None)
    assert constraint.accepts(CALL)
    assert not constraint.accepts(CALL.replace("3", "99")) and not constraint.accepts("No.")


def test_it_is_told_from_every_family_there_is() -> None:
    assert form.fits("{{ tools }}<call>") and not any(family.fits("{{ tools }}<call>") for family in FAMILIES)
