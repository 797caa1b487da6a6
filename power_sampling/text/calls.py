"""Tool calls written as text, read: JSON values, in a row or alone. How one family writes them is in `formats/`.

Nothing here raises on what a model wrote: what looks like a call and is none comes back as an InvalidToolCall whose
error the model can act on. (`decode_json` raises ValueError, for those who read more than JSON.) The calls have no ids
yet: the reader of the reply gives them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from power_sampling.text.faults import cut_or_broken
from power_sampling.types import InvalidToolCall, ToolCall

__all__ = [
    "ARGS",
    "CALL",
    "CALL_END",
    "PYTHON_TAG",
    "TOOL_CALLS",
    "Call",
    "arguments_in",
    "broken_call",
    "call_of",
    "calls_of",
    "decode_json",
    "ends_inside",
    "fault_of",
    "looks_like_a_call",
    "rows_of_calls",
    "starts_like_a_call",
    "unquoted",
    "unread_call",
    "whole_json",
    "written",
]

Call = ToolCall | InvalidToolCall

CALL, CALL_END = "<tool_call>", "</tool_call>"  # Hermes, Qwen
PYTHON_TAG = "<|python_tag|>"  # Llama 3
TOOL_CALLS, ARGS = "[TOOL_CALLS]", "[ARGS]"  # Mistral

_BLANKS = re.compile(r"\s*")
_MARKS = rf"{re.escape(PYTHON_TAG)}|{re.escape(TOOL_CALLS)}"
_BEFORE = re.compile(rf"(?:\s|{_MARKS}|\[(?=\s*\{{))*")  # what may stand before a call
_AFTER = re.compile(rf"(?:[\s;,\]]|{_MARKS})*")  # what may stand after one
# a longer name is none: it would be looked for again behind every value of a long row
_NAMED = re.compile(r"([^\s{}\[\]](?:[^{}\[\]\n]{0,254}[^\s{}\[\]])?)\s*+(?:\[CALL_ID\]\w++)?(?:\[ARGS\])?\s*+(?=\{)")
_NAME = re.compile(r'[\[\s]*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"([^"\\]+)"')
_FIRST_KEYS = ('{"name"', '{"type"', '{"id"', '{"arguments"', '{"parameters"')


def call_of(value: Any, raw: str, names: Collection[str]) -> Call:
    """The call that a JSON value stands for; `raw` is its text."""
    if not isinstance(value, Mapping) or not isinstance(name := value.get("name"), str):
        return _invalid(None, raw, 'A call is a JSON object with the keys "name" and "arguments".')
    if name not in names:
        return _invalid(name, raw, _no_tool(name, names))
    given = value.get("arguments", value.get("parameters"))
    try:
        arguments = unquoted(given)
    except ValueError as error:
        return _invalid(name, raw, f"The arguments of {name!r} are {cut_or_broken(str(given), error)}")
    if not isinstance(arguments, dict):
        return _invalid(name, raw, f"The arguments of {name!r} must be a JSON object, not {type(arguments).__name__}.")
    return ToolCall(name=name, arguments=arguments, id="")


def unquoted(value: Any) -> Any:
    """The arguments that a JSON value stands for: itself, or what it quotes once more; none are an object too. Raises
    ValueError."""
    if isinstance(value, str):
        value = whole_json(value) if value.strip() else None
    return {} if value is None else value


def rows_of_calls(text: str, names: Collection[str], openings: Collection[str]) -> tuple[list[Call], str] | None:
    """The calls of all rows that begin with an opening, and what is content beside them; None where there are none."""
    calls: list[Call] = []
    outside, at, start = [], 0, 0
    opening = re.compile("|".join(map(re.escape, openings)))
    while found := opening.search(text, start):
        row, start = _row(text, found.start(), names)
        if row:
            calls += row
            outside.append(text[at : found.start()])
            at = start
        start = max(start, found.end())
    outside.append(text[at:])
    return (calls, "\n".join(piece.strip("\n") for piece in outside if piece.strip())) if calls else None


def _row(text: str, start: int, names: Collection[str]) -> tuple[list[Call], int]:
    """The calls at a position, and where they end; without any, where the value ends that is none.

    Objects or lists of objects with `name` and `arguments` (or `parameters`), between spaces, semicolons or commas, or
    names each followed by its arguments. What comes first after a marker is a call, without one only what looks like
    one; after a call, also what is cut short before it looks like one.
    """
    is_certain = text.startswith((PYTHON_TAG, TOOL_CALLS), start)
    calls: list[Call] = []
    end = start
    while (at := _end(_BEFORE, text, end)) < len(text):
        call, after = _one(text, at, names, is_certain=is_certain, follows=bool(calls))
        if call is None:
            return calls, end if calls else after
        calls.append(call)
        end = _end(_AFTER, text, after)
    return calls, end


def _one(text: str, at: int, names: Collection[str], *, is_certain: bool, follows: bool) -> tuple[Call | None, int]:
    """The call at a position, and where it ends, or where a value ends that is none."""
    named = _NAMED.match(text, at)
    if named and not is_certain and named[1] not in names:
        return None, at
    try:
        value, end = decode_json(text, named.end() if named else at)
    except ValueError as error:
        name = named[1] if named else name_in(text, at)
        is_cut = follows and starts_like_a_call(text, at)
        is_meant = is_certain and (not follows or named is not None or text[at] in "{[")
        if text[at] != "]" and (is_meant or is_cut or name in names):
            return broken_call(text[at:].strip(), error, name), len(text)
        return None, at
    if named:
        value = {"name": named[1], "arguments": value}
    if value == [] or not (is_certain or looks_like_a_call(value)):
        return None, end
    return call_of(value, text[at:end].strip(), names), end


def looks_like_a_call(value: Any) -> bool:
    """Whether a JSON value is a call, of whatever tool."""
    return (
        isinstance(value, dict) and isinstance(value.get("name"), str) and bool({"arguments", "parameters"} & {*value})
    )


def starts_like_a_call(text: str, at: int = 0) -> bool:
    """Whether an object at a position begins as a call does, or is cut short before one can tell."""
    start = re.sub(r"\s+", "", text[at : at + 80])
    return any(key.startswith(start) or start.startswith(key) for key in _FIRST_KEYS)


def name_in(text: str, at: int = 0) -> str | None:
    """The name that a call begins with, however it goes on."""
    head = _NAME.match(text, at)
    return head[1] if head else None


def calls_of(value: Any, raw: str, names: Collection[str]) -> list[Call]:
    """The calls that a JSON value or a list of them stands for; `raw` is its text."""
    if isinstance(value, list):
        calls, at = [], raw.index("[") + 1
        for item in value:
            end = decode_json(raw, at)[1]
            calls.append(call_of(item, raw[at:end].strip(), names))
            at = raw.find(",", end) + 1
        return calls
    return [call_of(value, raw, names)]


def arguments_in(text: str, name: str | None) -> str:
    """Of a text that was meant for a call of the tool `name`, the arguments alone, where they can be told apart.

    What is told as arguments comes back as such, and a whole call would be shown to the model as one inside another."""
    try:
        value = whole_json(text)
    except ValueError:
        return text
    if name is None or not isinstance(value, Mapping) or value.get("name") != name:
        return text
    arguments = value.get("arguments", value.get("parameters", {}))
    if not isinstance(arguments, str):
        return written(arguments)
    return arguments.encode(errors="backslashreplace").decode()  # halves of characters as JSON escapes them


def written(value: Any) -> str:
    """A value as JSON, as far as it is any; in ASCII, for it may hold halves of characters. Nothing, where it is nested
    more deeply than Python writes."""
    try:
        return json.dumps(value, default=str)
    except RecursionError:
        return ""


def broken_call(raw: str, error: ValueError, name: str | None = None) -> InvalidToolCall:
    """A call that is no JSON; `error` is what the decoder said of it."""
    name = name or name_in(raw)
    whose = f"The call of {name!r}" if name else "The call"
    return _invalid(name, raw, f"{whose} is {cut_or_broken(raw, error)}")


def unread_call(raw: str, error: ValueError, name: str | None, names: Collection[str]) -> InvalidToolCall:
    """A call that could not be read, in whatever syntax; `error` says where reading ended."""
    if name is not None and name not in names:
        return _invalid(name, raw, _no_tool(name, names))
    if isinstance(error, json.JSONDecodeError):
        return broken_call(raw, error, name)
    whose = f"The call of {name!r}" if name else "The call"
    return _invalid(name, raw, f"{whose} cannot be read: {error}. Write it again.")


def fault_of(text: str, names: Collection[str], name: str | None = None) -> str:
    """What is wrong with a text that was meant for a call of the tool `name`, or for its arguments alone.

    Nothing, where nothing is, and of a text that does not begin as JSON: not every family writes that."""
    if name and names and name not in names:
        return _no_tool(name, names)
    if text.strip() and text.lstrip()[0] not in '{["':
        return ""
    try:
        value, end = decode_json(text)
    except ValueError as error:
        return broken_call(text, error).error
    if text[end:].strip():
        return broken_call(text, ValueError("there is more after it")).error
    if isinstance(value, str):  # a text that somebody has quoted, to keep it as it is
        return fault_of(value, names, name)
    if isinstance(value, Mapping) and not {"name", "arguments", "parameters"} & {*value}:
        return ""
    return "".join(call.error for call in calls_of(value, text, names) if isinstance(call, InvalidToolCall))


def _no_tool(name: str, names: Collection[str]) -> str:
    return f"There is no tool {name!r:.80}; the tools are: {', '.join(sorted(names))}."


def _invalid(name: str | None, raw: str, error: str) -> InvalidToolCall:
    return InvalidToolCall(name=name, arguments=raw, id="", error=error)


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


_DECODER = json.JSONDecoder(strict=False, parse_constant=_no_number)  # a bare line break in a string is forgiven


def decode_json(text: str, at: int = 0) -> tuple[Any, int]:
    """The JSON value at a position, and where it ends. Raises ValueError."""
    try:
        return _DECODER.raw_decode(text, _end(_BLANKS, text, at))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def whole_json(text: str) -> Any:
    """The JSON value that a text is. Raises ValueError."""
    value, end = decode_json(text)
    if text[end:].strip():
        raise ValueError("there is more after it")
    return value


def ends_inside(text: str, at: int, mark: str) -> bool:
    """Whether a text ends at a position, or inside of a mark that begins there; blanks count for nothing."""
    mark = mark.strip()
    start = _end(_BLANKS, text, at)
    begun = text[start : start + len(mark)].rstrip()
    return begun != mark and mark.startswith(begun) and _end(_BLANKS, text, start + len(begun)) == len(text)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at
