"""How a chat template is to be given the calls of earlier turns, found out by trying.

Templates print the arguments of calls as JSON, go through them, or add them to a text as they are; some print calls
only where there is no content, and some leave out what was said beside them. The first form that loses
nothing is taken.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

from power_sampling.text.formats.messages import Messages

__all__ = ["CallForm", "call_form", "shaped_calls"]

NAME, KEY, VALUE, SAID = "nqzx", "kqzx", "vqzx", "sqzx"
_TOOL = {
    "type": "function",
    "function": {"name": NAME, "description": "", "parameters": {"type": "object", "properties": {}}},
}
_CALL = {"id": "abcdefgh1", "type": "function", "function": {"name": NAME, "arguments": {KEY: VALUE}}}


class CallForm(NamedTuple):
    """What a chat template needs."""

    is_written: bool = False  # arguments are a text
    is_none: bool = False  # where nothing was said, the content is no text
    is_apart: bool = False  # what was said is a message of its own


def call_form(render: Callable[..., str | None]) -> CallForm:
    """`render` gives what the template makes of messages and `tools`, None where it refuses. Where it knows no role for
    results, they are the user's words."""
    return _shown(render, "tool") or _shown(render, "user") or CallForm()


def _shown(render: Callable[..., str | None], results: str) -> CallForm | None:
    """The form in which calls are printed, where results have this role; None: in none."""

    def rendered(form: CallForm, said: str = "") -> str:
        talk: Messages = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": said, "tool_calls": [_CALL]},
            {"role": results, "name": NAME, "tool_call_id": _CALL["id"], "content": "r"},
            {"role": "assistant", "content": "y"},
            {"role": "user", "content": "z"},
        ]
        return render(shaped_calls(talk, form), tools=[_TOOL]) or ""

    def shows(form: CallForm, said: str = "") -> bool:
        prompt = rendered(form, said)
        return all(word in prompt for word in (NAME, KEY, VALUE, said))

    forms = [CallForm(is_written, is_none) for is_written, is_none in product((False, True), repeat=2)]
    showing = [form for form in forms if shows(form)]
    wrong = (f'\\"{KEY}', f"'{KEY}'")  # quoted twice, or as Python quotes it
    if not showing:
        return None
    form = next((form for form in showing if not any(word in rendered(form) for word in wrong)), showing[0])
    apart = form._replace(is_apart=True)
    return apart if not shows(form, SAID) and shows(apart, SAID) else form


def shaped_calls(messages: Messages, form: CallForm) -> Messages:
    """The messages as a template of this form takes them."""
    result: Messages = []
    for message in messages:
        if not message.get("tool_calls"):
            result.append(message)
            continue
        calling = {
            **message,
            "tool_calls": [_written(call) if form.is_written else call for call in message["tool_calls"]],
        }
        if form.is_apart and message["content"]:
            said = {key: value for key, value in message.items() if key != "tool_calls"}
            result.append(said)
            calling = {key: value for key, value in calling.items() if key != "reasoning_content"} | {"content": ""}
        if form.is_none and not calling["content"]:
            calling["content"] = None
        result.append(calling)
    return result


def _written(call: dict[str, Any]) -> dict[str, Any]:
    given = call["function"]["arguments"]
    written = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": written}}
