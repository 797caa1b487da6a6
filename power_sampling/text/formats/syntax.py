"""A family's syntax as data, and what follows from it: how calls are written, read, and admitted by a grammar.

    begin open  head NAME middle ARGUMENTS tail  between  head NAME middle ARGUMENTS tail  close end

Where `is_each`, every call stands between a `begin` and an `end` of its own:

    begin open  head NAME middle ARGUMENTS tail  close end  between  begin open  head NAME ...

To add a family: a file with a subclass of `SyntaxFormat` that says this, and its place in `FAMILIES`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

from power_sampling.text.arguments import Arguments, JsonArguments, owned
from power_sampling.text.calls import Call, decode_json, ends_inside, unread_call
from power_sampling.text.formats.base import ToolFormat
from power_sampling.text.formats.messages import Calls, Own
from power_sampling.text.lark import literal, marked
from power_sampling.types import ToolCall

__all__ = ["Syntax", "SyntaxFormat"]

BLANKS = r"\s*"
_UNKNOWN = re.compile(r"[^\s<>(){}\[\]=:\"',|]+")  # the name of a tool that is not on offer
_UNKNOWN_CALL = re.compile(rf"(?={_UNKNOWN.pattern})[^\s(){{}}]+\s*[({{]")
_CALL_NUMBER = re.compile(r"\s*:\s*\d+")
_NO_TOOL = ValueError("there is no such tool")
_CUT = "it was cut short"


@dataclass(frozen=True)
class Syntax:
    """How a row of calls is written. Blanks count when it is written, and not when it is read."""

    begin: str
    end: str = ""
    open: str = ""
    close: str = ""
    head: str = ""
    middle: str = ""
    tail: str = ""
    between: str = ""
    is_each: bool = False
    is_numbered: bool = False
    """A colon and the number of the call, from 0 on, follow its name."""
    quotes_names: bool = False
    """Names are JSON texts, and `head` and `tail` the rest of a JSON object."""
    arguments: Arguments = field(default_factory=JsonArguments)
    is_bare: bool = False
    """`begin` may be missing, where `open` and the name of a tool follow each other."""
    also: tuple[str, ...] = ()
    """What a model may write around calls beside, and means nothing."""

    @property
    def markup(self) -> tuple[str, ...]:
        """All that may be control tokens."""
        own = (self.begin, self.end, self.open, self.close, self.head, self.middle, self.tail, self.between)
        return tuple(piece for piece in (*own, *self.also, *self.arguments.markup) if piece.strip())

    # ------------------------------------------------------------ written

    def write(self, calls: Calls, own: Own = str) -> str:
        """Calls as text. Arguments that are a text already stand as they are."""
        written = [self._written(i, name, arguments, own) for i, (name, arguments) in enumerate(calls)]
        begin, end = owned(f"{self.begin}{self.open}", own), owned(f"{self.close}{self.end}", own)
        if self.is_each:
            return owned(self.between, own).join(f"{begin}{call}{end}" for call in written)
        return f"{begin}{owned(self.between, own).join(written)}{end}"

    def _written(self, number: int, name: str, arguments: Mapping[str, Any] | str, own: Own) -> str:
        called = json.dumps(name, ensure_ascii=False) if self.quotes_names else name
        called += f":{number}" * self.is_numbered
        given = arguments if isinstance(arguments, str) else self.arguments.write(arguments, own)
        return f"{owned(self.head, own)}{called}{owned(self.middle, own)}{given}{owned(self.tail, own)}"

    # ------------------------------------------------------------ admitted

    def calls_rule(self, ids: Mapping[str, int], *, may_be_many: bool) -> str:
        """Right-hand side of a Lark rule: the calls after the first `begin`."""
        begin, end = marked(self.begin, ids), marked(self.close + self.end, ids)
        opened, between = marked(self.open, ids), marked(self.between, ids)
        if self.is_each:
            more = f" ({between} {begin} {opened} call {end})*" if may_be_many else ""
            return f"{opened} call {end}{more}"
        more = f" ({between} call)*" if may_be_many else ""
        return f"{opened} call{more} {end}"

    def call_rule(self, name: str, arguments: str, ids: Mapping[str, int]) -> str:
        called = json.dumps(name, ensure_ascii=False) if self.quotes_names else name
        head, middle, tail = (marked(piece, ids) for piece in (self.head, self.middle, self.tail))
        number = r'":" /[0-9]{1,4}/' if self.is_numbered else ""
        return f"{head} {literal(called)} {number} {middle} {arguments} {tail}"

    # ------------------------------------------------------------ read

    def read(self, text: str, names: Collection[str]) -> tuple[list[Call], str]:
        """All calls of a text, and what is content beside them."""
        calls: list[Call] = []
        outside, at = [], 0
        while found := self._begins(names).search(text, at):
            outside.append(text[at : found.start()])
            at = found.end()
            while True:
                call, at = self._one(text, at, names)
                calls.append(call)
                if (after := self._follows(text, at, names)) is None:
                    break
                at = after
            at = self.past_end(text, at)
        outside.append(text[at:])
        return calls, "\n".join(piece.strip("\n") for piece in outside if piece.strip())

    def openings(self, names: Collection[str]) -> tuple[str, ...]:
        """What begins calls in a reply."""
        bare = [f"{self.open}{name}{self._first_mark}" for name in names] if self.is_bare else []
        return self.begin, *bare

    @property
    def _first_mark(self) -> str:
        """What follows a name."""
        return self.middle or getattr(getattr(self.arguments, "notation", None), "opening", "")

    def _begins(self, names: Collection[str]) -> re.Pattern[str]:
        opened = f"(?:{BLANKS}{_words(self.open)})?" if self.open.strip() else ""
        bare = "|".join(re.escape(name + self._first_mark) for name in names) if self.is_bare else ""
        # blanks are looked at from their first one on: from each of them, a long row would be looked at again and again
        begin = rf"(?:(?<!\s)\s*)?{_words(self.begin)}"
        return re.compile(begin + opened + (f"|{re.escape(self.open)}(?={bare})" if bare else ""))

    def _one(self, text: str, start: int, names: Collection[str]) -> tuple[Call, int]:
        """The call at a position, and where it ends."""
        name = None
        try:
            at = _past(text, start, self.head)
            name, at = self._name(text, at, names)
            tools = names if isinstance(names, Mapping) else {}
            arguments, at = self._arguments(text, at, tools.get(name, {}).get("parameters") or {})
            at = self._past_tail(text, at, names)
            call = ToolCall(name=name, arguments=arguments, id="")
            return (call if name in names else unread_call(text[start:at].strip(), _NO_TOOL, name, names)), at
        except ValueError as error:
            end = self._broken_end(text, start)
            raw = text[start:end].strip()
            return unread_call(raw, error, name, names), end

    def _name(self, text: str, at: int, names: Collection[str]) -> tuple[str, int]:
        if self.quotes_names:
            name, at = decode_json(text, at)
            if not isinstance(name, str):
                raise ValueError("the name of a tool must be a text")
            return name, _past(text, at, self.middle)
        for name in sorted(names, key=len, reverse=True):
            end = self._past_number(text, at + len(name))
            found = _loose(self.middle).match(text, end) if text.startswith(name, at) else None
            if found and (self.middle.strip() or not _UNKNOWN.match(text, end)):  # else it begins another name
                return name, found.end()
        if found := _UNKNOWN.match(text, at):
            return found[0], _past(text, self._past_number(text, found.end()), self.middle)
        raise ValueError(f"expected the name of a tool near {text[at : at + 30]!r}")

    def _arguments(self, text: str, at: int, schema: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        arguments, at = self.arguments.read(text, at, schema)
        if self._is_cut(text, at) and self.arguments.lacks(arguments, schema):
            raise ValueError(_CUT)
        return arguments, at

    def _past_number(self, text: str, at: int) -> int:
        found = _CALL_NUMBER.match(text, at) if self.is_numbered else None
        return found.end() if found else at

    def _past_tail(self, text: str, at: int, names: Collection[str]) -> int:
        """After a call: what ends it may be half written, or forgotten where the text or the calls end."""
        if self.tail.strip() and (found := _loose(self.tail).match(text, at)):
            return found.end()
        if self._is_cut(text, at):
            return len(text)
        if self._ends().match(text, at) or (self.is_each and _loose(self.begin).match(text, at)):
            return at
        if not self.tail.strip() and self._follows(text, at, names) is not None:
            return at
        if any(ends_inside(text, at, mark) for mark in self.arguments.markup):
            raise ValueError(_CUT)
        if expected := self.tail.strip() or self.close.strip() or self.end.strip():
            raise ValueError(f"expected {expected!r} near {text[at : at + 30]!r}")
        return at

    def _is_cut(self, text: str, at: int) -> bool:
        """Whether the text ends there, or inside of what ends the call."""
        return any(ends_inside(text, at, mark) for mark in (self.tail, self.close, self.end))

    def _follows(self, text: str, at: int, names: Collection[str]) -> int | None:
        """Where the next call of the same row begins, if there is one."""
        if self.is_each:
            return None
        found = re.compile(rf"[\s,;]*(?:{re.escape(self.between.strip())})?\s*").match(text, at)
        at = found.end() if found else at
        if at >= len(text) or self._ends().match(text, at):
            return None
        if self.head.strip():
            return at if _loose(self.head).match(text, at) else None
        return at if self._goes_on(text, at, names) else None

    def _goes_on(self, text: str, at: int, names: Collection[str]) -> bool:
        """Whether a name stands there that may be called, whatever is in it, or one that looks like a call."""
        is_known = any(text.startswith(name + self._first_mark, at) for name in names)
        return is_known or bool(_UNKNOWN_CALL.match(text, at))

    def _ends(self) -> re.Pattern[str]:
        marks = [mark for mark in (self.close + self.end, self.close, self.end) if mark.strip()]
        return re.compile("|".join(_loose(mark).pattern for mark in marks) or r"(?!)")

    def past_end(self, text: str, at: int) -> int:
        """Past what ends the calls: whole, half written or forgotten."""
        for mark in filter(str.strip, (self.close, self.end, *self.also)):
            if ends_inside(text, at, mark):
                return len(text)
            found = _loose(mark).match(text, at)
            at = found.end() if found else at
        return at

    def _broken_end(self, text: str, start: int) -> int:
        """Where a call that cannot be read ends: after its tail, or before what ends the calls or begins the next."""
        head = _loose(self.head).match(text, start)
        found = self._breaks().search(text, head.end() if head else start)
        return found.end() if found else len(text)

    def _breaks(self) -> re.Pattern[str]:
        before = [_words(mark) for mark in (self.begin, self.end) if mark.strip()]
        tail = _words(self.tail)
        if len(self.tail.strip()) > 1:
            before += [_words(self.head)] * (not self.is_each)
        else:  # a brace closes other things too
            tail += rf"(?={BLANKS}{_words(self.between, self.head)})" if tail else ""
            before += [_words(self.close, self.end) + r"\s*\Z" * (not self.end)] * bool(self.close)
        return re.compile("|".join([*[tail] * bool(tail), *(f"(?={mark})" for mark in before)]))


@lru_cache(512)
def _loose(*marks: str) -> re.Pattern[str]:
    """Marks one after the other, with any blanks around and where they have some; without marks, nothing."""
    words = _words(*marks)
    return re.compile(BLANKS + words if words else "")


def _words(*marks: str) -> str:
    """The same without the blanks before: in a search, a long row of them would be looked at from each one on."""
    return BLANKS.join(re.escape(word) for mark in marks for word in mark.split())


def _past(text: str, at: int, mark: str) -> int:
    found = _loose(mark).match(text, at)
    if found is None:
        if ends_inside(text, at, mark):
            raise ValueError(_CUT)
        raise ValueError(f"expected {mark.strip()!r} near {text[at : at + 30]!r}")
    spaces = re.compile(r"\s*").match(text, found.end())
    return spaces.end() if spaces else found.end()


class SyntaxFormat(ToolFormat):
    """A family that a `Syntax` describes."""

    syntax: ClassVar[Syntax]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "syntax" in cls.__dict__:
            cls.marker, cls.needs_marker = cls.syntax.begin, not cls.syntax.is_bare

    @property
    def markup(self) -> tuple[str, ...]:
        return (*super().markup, *self.syntax.markup)

    def openings(self, names: Collection[str]) -> tuple[str, ...]:
        return self.syntax.openings(names)

    def calls_rule(self, *, may_be_many: bool) -> str:
        return self.syntax.calls_rule(self.special_ids, may_be_many=may_be_many)

    def call_rule(self, name: str, arguments: str) -> str:
        return self.syntax.call_rule(name, arguments, self.special_ids)

    def arguments_rules(self, name: str, schema: Mapping[str, Any]) -> list[str]:
        return self.syntax.arguments.rules(name, schema, self.special_ids)

    def write(self, calls: Calls, own: Own = str) -> str:
        return self.syntax.write(calls, own)

    def read(self, text: str, names: Collection[str]) -> tuple[list[Call], str] | None:
        return self.syntax.read(text, names)
