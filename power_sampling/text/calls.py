"""Tool calls written as text, read: JSON values, in a row or alone. How one family writes them is in `formats/`.

Nothing here raises on what a model wrote: what looks like a call and is none comes back as an InvalidToolCall whose
error the model can act on. (`decode_json` raises ValueError, for those who read more than JSON.)
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from power_sampling.types import InvalidToolCall, ToolCall

__all__ = [
    "ARGS",
    "CALL",
    "CALL_END",
    "PYTHON_TAG",
    "TOOL_CALLS",
    "Call",
    "broken_call",
    "call_of",
    "calls_of",
    "decode_json",
    "new_id",
    "plain_calls",
    "row_of_calls",
]

Call = ToolCall | InvalidToolCall

CALL, CALL_END = "<tool_call>", "</tool_call>"  # Hermes, Qwen
PYTHON_TAG = "<|python_tag|>"  # Llama 3
TOOL_CALLS, ARGS = "[TOOL_CALLS]", "[ARGS]"  # Mistral

_SEPARATOR = re.compile(rf"(?:[\s;,]|{re.escape(PYTHON_TAG)}|{re.escape(TOOL_CALLS)})*")
_NAMED = re.compile(r"([^\s{}\[\]](?:[^{}\[\]\n]*[^\s{}\[\]])?)\s*(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*(?=\{)")
_NAME = re.compile(r'[\[\s]*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"([^"\\]+)"')
_FENCE = re.compile(r"\s*```(?:json)?\s*(.*?)\s*```\s*", re.DOTALL)


def new_id() -> str:
    """Nine letters and digits: Mistral's templates want exactly that, the others take anything."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


def call_of(value: Any, raw: str, names: Collection[str]) -> Call:
    """The call that a JSON value stands for; `raw` is its text."""
    if not isinstance(value, Mapping) or not isinstance(name := value.get("name"), str):
        return _invalid(None, raw, 'A call is a JSON object with the keys "name" and "arguments".')
    if name not in names:
        return _invalid(name, raw, f"There is no tool {name!r}; the tools are: {', '.join(sorted(names))}.")
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = decode_json(arguments)[0]
        except ValueError as error:
            return _invalid(name, raw, f"The arguments of {name!r} are no valid JSON: {error}.")
    if not isinstance(arguments, dict):
        return _invalid(name, raw, f"The arguments of {name!r} must be a JSON object, not {type(arguments).__name__}.")
    return ToolCall(name=name, arguments=arguments, id=new_id())


def row_of_calls(text: str, names: Collection[str]) -> tuple[list[Call], str] | None:
    """The calls a text begins with, and what comes after them; None where it begins with none.

    Objects or lists of objects with `name` and `arguments` (or `parameters`), between spaces, semicolons or commas, or
    names each followed by its arguments. After a marker everything is a call, without one only what looks like one.
    """
    is_certain = text.startswith((PYTHON_TAG, TOOL_CALLS))
    calls: list[Call] = []
    at = _end(_SEPARATOR, text, 0)
    while at < len(text):
        found = _one_or_more(text, at, names, is_certain=is_certain)
        if found is None:
            break
        calls += found[0]
        at = _end(_SEPARATOR, text, found[1])
    return (calls, text[at:]) if calls else None


def plain_calls(text: str, names: Collection[str], *, single: bool) -> list[Call]:
    """The calls a text as a whole consists of, in a Markdown fence or not; none where it is anything else."""
    fenced = _FENCE.fullmatch(text)
    found = row_of_calls(fenced[1] if fenced else text.strip(), names)
    if found is None or found[1] or (single and len(found[0]) > 1):
        return []
    return found[0] if all(call.name in names for call in found[0]) else []


def _one_or_more(text: str, at: int, names: Collection[str], *, is_certain: bool) -> tuple[list[Call], int] | None:
    """The call or the list of calls at a position, and where it ends."""
    named = _NAMED.match(text, at)
    if named and not is_certain and named[1] not in names:
        return None
    try:
        value, end = decode_json(text, named.end() if named else at)
    except ValueError as error:
        head = named or _NAME.match(text, at)
        if is_certain or (head and head[1] in names):
            return [broken_call(text[at:].strip(), str(error), head[1] if head else None)], len(text)
        return None
    if named:
        value = {"name": named[1], "arguments": value}
    items = value if isinstance(value, list) else [value]
    if not items or not (is_certain or all(_is_call(item) for item in items)):
        return None
    return calls_of(value, text[at:end], names), end


def _is_call(value: Any) -> bool:
    return (
        isinstance(value, dict) and isinstance(value.get("name"), str) and bool({"arguments", "parameters"} & {*value})
    )


def calls_of(value: Any, raw: str, names: Collection[str]) -> list[Call]:
    """The calls that a JSON value or a list of them stands for; `raw` is its text."""
    if isinstance(value, list):
        return [call_of(item, json.dumps(item, ensure_ascii=False), names) for item in value]
    return [call_of(value, raw, names)]


def broken_call(raw: str, error: str, name: str | None = None) -> InvalidToolCall:
    """A call that is no JSON."""
    if name is None and (head := _NAME.match(raw)):
        name = head[1]
    return _invalid(name, raw, f"The call is no valid JSON, or it was cut short: {error}.")


def _invalid(name: str | None, raw: str, error: str) -> InvalidToolCall:
    return InvalidToolCall(name=name, arguments=raw, id=new_id(), error=error)


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


_DECODER = json.JSONDecoder(strict=False, parse_constant=_no_number)  # a bare line break in a string is forgiven


def decode_json(text: str, at: int = 0) -> tuple[Any, int]:
    """The JSON value at a position, and where it ends. Raises ValueError."""
    try:
        return _DECODER.raw_decode(text, _end(re.compile(r"\s*"), text, at))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at
