"""Control tokens, and text that cannot become one.

What a user wrote is text, whatever it spells; what the chat template wrote may be control tokens. In a rendered prompt
the two look alike, so they are told apart before: in the template's own text every control token is replaced by a mark,
one character that no user may write. After rendering a mark is that token, and letters are letters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

__all__ = ["BREAK", "END", "RESERVED", "ControlTokens", "Marks", "own"]

_FIRST, _LAST = 0x108000, 0x10FFF0  # marks of tokens: half of the last private-use plane
_OWN, _OWN_END = "\U0010fff8", "\U0010fff9"
BREAK = "\U0010fffa"
"""Stands inside of letters that would become a token of their own, and is no token itself."""
END = "\U0010fffb"
"""Stands where the message ends that is to be continued."""
RESERVED = re.compile("[\U00108000-\U0010fffd]")
"""The characters that are kept for marks."""
_BUILT = re.compile(r"(\W+)(\w+)(\W+)")
_OWN_TEXT = re.compile(f"{_OWN}([^{_OWN_END}]*){_OWN_END}")


def own(text: str) -> str:
    """Text that this library writes into messages, and that is a control token where the tokenizer has it as one."""
    return f"{_OWN}{text}{_OWN_END}"


class ControlTokens:
    """The added tokens of a tokenizer, but for those that are words or blanks of its vocabulary.

    `added` are a tokenizer's added tokens by id, as `tokenizers.AddedToken`.
    """

    def __init__(self, added: Mapping[int, Any]) -> None:
        self.tokens: dict[str, int] = {str(token): i for i, token in added.items() if not _is_word(token)}
        self.ids = frozenset(self.tokens.values())
        self.words = frozenset(built[2] for token in self.tokens if (built := _BUILT.fullmatch(token)))
        """What stands inside of tokens that a template may put together around a word."""
        self._beginnings = re.compile("[" + "".join(re.escape(token[0]) for token in self.tokens) + "]")
        self._lengths = sorted({len(token) for token in self.tokens}, reverse=True)

    def found(self, text: str) -> Iterator[tuple[int, int]]:
        """Where letters spell a token."""
        at = 0
        while self.tokens and (beginning := self._beginnings.search(text, at)):
            start = beginning.start()
            length = next((n for n in self._lengths if text[start : start + n] in self.tokens), 0)
            if length:
                yield start, start + length
            at = start + max(1, length)

    def replaced(self, text: str, by: Callable[[str], str]) -> str:
        """A text with something else for every token that its letters spell."""
        pieces, at = [], 0
        for start, end in self.found(text):
            pieces += [text[at:start], by(text[start:end])]
            at = end
        return "".join([*pieces, text[at:]])

    def broken(self, value: Any) -> Any:
        """Messages and tools, keys included, with a BREAK in every spelled token."""
        if isinstance(value, str):
            return self.replaced(value, lambda token: token[0] + BREAK + token[1:])
        if isinstance(value, Mapping):
            return {self.broken(key): self.broken(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.broken(item) for item in value]
        return value


class Marks:
    """The marks for the control tokens that a chat template writes.

    `texts` are the pieces it is made of; `words` are roles, for some templates build a token around the role of a
    message: `'<|' + message['role'] + '|>'`.
    """

    def __init__(self, control: ControlTokens, texts: Collection[str] = (), words: Collection[str] = ()) -> None:
        whole = "\0".join(texts)
        tokens = [token for token in control.tokens if token in whole]
        begin, end = set[str](), set[str]()
        for token in control.tokens.keys() - set(tokens):
            built = _BUILT.fullmatch(token)
            if built is None or built[2] not in words:
                continue
            if any(text.endswith(built[1]) for text in texts) and any(text.startswith(built[3]) for text in texts):
                tokens.append(token)
                begin.add(built[1])
                end.add(built[3])
        free = map(chr, range(_FIRST, _LAST))
        self.of_token = dict(zip(tokens, free, strict=False))
        self._begin = dict(zip(sorted(begin, key=len, reverse=True), free, strict=False))
        self._end = dict(zip(sorted(end, key=len, reverse=True), free, strict=False))
        self._edges = {mark: edge for edges in (self._begin, self._end) for edge, mark in edges.items()}
        self._tokens = {mark: token for token, mark in self.of_token.items()}
        self._control = control

    def marked(self, text: str) -> str:
        """A piece of the template with a mark for every token."""
        text = self._control.replaced(text, lambda token: self.of_token.get(token, token))
        for edge, mark in self._begin.items():
            text = text.removesuffix(edge) + mark if text.endswith(edge) else text
        for edge, mark in self._end.items():
            text = mark + text.removeprefix(edge) if text.startswith(edge) else text
        return text

    def settled(self, rendered: str, roles: Collection[str]) -> str:
        """A rendered prompt that has no marks but those of tokens. `roles` are those of its messages."""

        def built(found: re.Match[str]) -> str:
            token = self._edges[found[1]] + found[2] + self._edges[found[3]]
            return self.of_token[token] if token in self.of_token and found[2] in roles else found[0]

        if self._edges:
            edge = _any_of(self._edges).pattern
            rendered = re.sub(rf"({edge})(\w+)({edge})", built, rendered)
            rendered = re.sub(edge, lambda found: self._edges[found[0]], rendered)
        return _OWN_TEXT.sub(lambda found: self.of_token.get(found[1], found[1]), rendered)

    def letters(self, text: str) -> str:
        """A marked text as it reads."""
        return _any_of(self._tokens).sub(lambda found: self._tokens[found[0]], text)

    def pieces(self, text: str) -> Iterator[tuple[str, bool]]:
        """The pieces of a marked text: what is text, and what is a token (True)."""
        for piece in re.split(f"({_any_of(self._tokens).pattern})", text):
            if piece:
                yield self._tokens.get(piece, piece), piece in self._tokens


def _is_word(token: Any) -> bool:
    """Whether an added token is a word or a run of blanks: a spelling, and nothing that stands for more."""
    text = str(token).strip()
    return not token.special and all(_is_letter(edge) for edge in (text[:1], text[-1:]) if edge)


def _is_letter(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] in "LMNZ" or category == "So"


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
