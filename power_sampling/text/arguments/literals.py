"""Arguments as literals of a notation: Python's keyword arguments, or Gemma's JSON without quotes around names.

(city="Köln", days=3, tags=["a", "b"], exact=True)
{city:<|"|>Köln<|"|>,days:3,tags:[<|"|>a<|"|>,<|"|>b<|"|>],exact:true}
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from power_sampling.text.arguments.base import Arguments, Own, Schema, owned
from power_sampling.text.arguments.shapes import Shapes
from power_sampling.text.arguments.variants import Expected
from power_sampling.text.calls import decode_json
from power_sampling.text.lark import literal

__all__ = ["LiteralArguments", "Notation", "literal_value"]

DEEPEST = 64  # brackets inside of brackets
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_WORD = re.compile(r"\w+")
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_BARE = re.compile(r"[^\s{}()\[\]=:,\"'<>]+")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class Notation:
    """How values are written."""

    true: str
    false: str
    null: str
    quote: str  # around texts; the quotation mark also has the escapes of JSON, all others none
    comma: str
    colon: str
    opening: str  # of the arguments
    closing: str
    equals: str
    quotes_keys: bool  # of mappings inside

    def write(self, value: Any) -> str:
        if value is None or isinstance(value, bool):
            return {True: self.true, False: self.false, None: self.null}[value]
        if isinstance(value, str):
            return json.dumps(value, ensure_ascii=False) if self.quote == '"' else f"{self.quote}{value}{self.quote}"
        if isinstance(value, Mapping):
            pairs = [f"{self.written_key(key)}{self.colon}{self.write(item)}" for key, item in value.items()]
            return f"{{{self.comma.join(pairs)}}}"
        if isinstance(value, list | tuple):
            return f"[{self.comma.join(self.write(item) for item in value)}]"
        return json.dumps(value)

    def written_key(self, key: str) -> str:
        """A name inside of a mapping."""
        return json.dumps(key, ensure_ascii=False) if self.quotes_keys else key


@dataclass(frozen=True)
class LiteralArguments(Arguments):
    """Arguments in a notation."""

    notation: Notation

    @property
    def markup(self) -> tuple[str, ...]:
        return (self.notation.quote,)

    def write(self, arguments: Mapping[str, Any], own: Own = str) -> str:
        form = replace(self.notation, quote=owned(self.notation.quote, own))
        pairs = [f"{key}{form.equals}{form.write(value)}" for key, value in arguments.items()]
        return f"{form.opening}{form.comma.join(pairs)}{form.closing}"

    def read(self, text: str, at: int, schema: Schema) -> tuple[dict[str, Any], int]:
        form, expected = self.notation, Expected(schema)
        texts = {key for key in expected.names if {case.get("type") for case in expected.of(key)} == {"string"}}
        reader = _Reader(text, form.quote, texts)
        return reader.pairs(at, form.opening, form.closing, form.equals, expected.names, 0)

    def rules(self, name: str, schema: Schema, ids: Mapping[str, int]) -> list[str]:
        form = self.notation
        shapes = Shapes(name, form, schema, ids)
        whole = shapes.variants.resolved(schema)
        pairs = shapes.pairs(whole, form.equals, f"{name}_top", is_top=True)
        return [f"{name}: {literal(form.opening)} {pairs} {literal(form.closing)}", *shapes.rules]


def literal_value(text: str) -> Any:
    """The value that a text is, as Python writes it. Raises ValueError."""
    value, end = _Reader(text, '"').value(0, 0)
    if text[end:].strip():
        raise ValueError("there is more after it")
    return value


class _Reader:
    """Reads values of a notation from a text. Raises ValueError where there is none."""

    def __init__(self, text: str, quote: str, texts: Collection[str] = ()) -> None:
        self._text, self._quote = text, quote
        self._texts = texts  # arguments that are texts: a number there has lost its quotes

    def value(self, at: int, depth: int) -> tuple[Any, int]:
        if depth > DEEPEST:
            raise ValueError("it is nested too deeply")
        at = self._skip(at)
        begins = self._text[at : at + 1]
        if self._quote != '"' and self._text.startswith(self._quote, at):
            end = self._text.find(self._quote, at + len(self._quote))
            if end < 0:
                raise self._cut()
            return self._text[at + len(self._quote) : end], end + len(self._quote)
        if begins and begins in "\"'":
            return self._string(at)
        if begins == "{":
            return self.pairs(at, "{", "}", ":", (), depth + 1)
        if begins in ("[", "("):
            return self._items(at, "]" if begins == "[" else ")", depth + 1)
        if number := _NUMBER.match(self._text, at):
            return _number(number[0]), number.end()
        if (word := _WORD.match(self._text, at)) and word[0].lower() in _WORDS:
            return _WORDS[word[0].lower()], word.end()
        raise self._wrong("a value", at)

    def pairs(
        self, at: int, opening: str, closing: str, equals: str, known: tuple[str, ...], depth: int
    ) -> tuple[dict[str, Any], int]:
        """Names and values between brackets, and where they end."""
        at = self._expect(opening, at)
        found: dict[str, Any] = {}
        while not self._text.startswith(closing, at := self._skip(at)):
            if found:
                at = self._skip(self._expect(",", at))
                if self._text.startswith(closing, at):  # a comma after the last one
                    break
            key, start = self._key(at, equals, known)
            found[key], at = self.value(start, depth)
            if depth == 0 and key in self._texts and type(found[key]) in (int, float):
                found[key] = self._text[start:at].strip()
        return found, at + len(closing)

    def _key(self, at: int, equals: str, known: tuple[str, ...]) -> tuple[str, int]:
        for key in sorted(known, key=len, reverse=True):
            if self._text.startswith(key, at) and self._text.startswith(equals, end := self._skip(at + len(key))):
                return key, end + len(equals)
        if self._text[at : at + 1] in ("'", '"') or self._text.startswith(self._quote, at):
            key, at = self.value(at, 0)
        elif bare := _BARE.match(self._text, at):
            key, at = bare[0], bare.end()
        else:
            raise self._wrong("the name of an argument", at)
        return key, self._expect(equals, at)

    def _items(self, at: int, closing: str, depth: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        at += 1
        while not self._text.startswith(closing, at := self._skip(at)):
            if items:
                at = self._skip(self._expect(",", at))
                if self._text.startswith(closing, at):
                    break
            item, at = self.value(at, depth)
            items.append(item)
        return items, at + 1

    def _string(self, at: int) -> tuple[str, int]:
        mark = self._text[at]
        if mark == '"' and not self._text.startswith('"""', at):
            try:
                value, end = decode_json(self._text, at)
                return str(value), end
            except ValueError:  # with escapes of Python's
                pass
        quote = mark * 3 if self._text.startswith(mark * 3, at) else mark
        end = at + len(quote)
        while not self._text.startswith(quote, end):
            if end >= len(self._text):
                raise self._cut()
            end += 2 if self._text[end] == "\\" else 1
        return _ESCAPE.sub(_unescaped, self._text[at + len(quote) : end]), end + len(quote)

    def _skip(self, at: int) -> int:
        space = _SPACE.match(self._text, at)
        return space.end() if space else at

    def _expect(self, mark: str, at: int) -> int:
        at = self._skip(at)
        if not self._text.startswith(mark, at):
            raise self._wrong(repr(mark), at)
        return at + len(mark)

    def _wrong(self, expected: str, at: int) -> ValueError:
        if at >= len(self._text):
            return self._cut()
        return ValueError(f"expected {expected} near {self._text[max(0, at - 20) : at + 20]!r}")

    def _cut(self) -> ValueError:
        return ValueError("it was cut short")


def _number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)


def _unescaped(found: re.Match[str]) -> str:
    digits = found[1] or found[2] or found[3]
    if digits:
        number = int(digits, 16)
        return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else found[0]
    return _LETTERS.get(found[4], found[4] if found[4] in "\\'\"" else found[0])
