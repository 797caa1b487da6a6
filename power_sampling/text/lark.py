"""Pieces of Lark grammars of replies, in the dialect of llguidance.

A marker may be one token or the letters it is spelled with. Where the tokenizer has the token, both are allowed. `ids`
are the tokenizer's added tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

__all__ = ["either", "escaped", "literal", "marked", "rules_until", "text_until", "text_without"]


def literal(text: str) -> str:
    """A Lark string."""
    return json.dumps(text, ensure_ascii=False)


def either(marker: str, ids: Mapping[str, int]) -> str:
    """A marker as a token, where it is one, or spelled out."""
    return f"(<[{ids[marker]}]> | {literal(marker)})" if marker in ids else literal(marker)


def marked(text: str, ids: Mapping[str, int]) -> str:
    """A text whose markers may be tokens or spelled out; nothing, where it is empty."""
    return " ".join(either(piece, ids) for piece in _pieces(text, ids))


def _pieces(text: str, ids: Mapping[str, int]) -> list[str]:
    """A text cut at the tokens that it names."""
    names = sorted((name for name in ids if name and name in text), key=len, reverse=True)
    cut = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
    return [piece for piece in cut if piece]


def text_without(*texts: str, starts: Sequence[str] = (), up_to: str = "") -> str:
    """A terminal: text, up to a marker, that holds none of the texts and begins with no match of `starts`, for a reader
    would take them for what they are. One negation does it all: llguidance gives up on several."""
    held = [*(f"(?s:.*){escaped(text)}" for text in texts), *starts]
    anything = f"/(?s:.*){escaped(up_to)}/"
    return f"{anything} & ~/({'|'.join(held)})(?s:.*)/" if held else anything


def rules_until(
    name: str, marker: str, ids: Mapping[str, int], without: Sequence[str] = (), *, starts: Sequence[str] = ()
) -> list[str]:
    """Text up to the first marker, with it. Spelled out it is lazy: greedy text would run into the marker."""
    terminal = name.upper()
    rules = [
        f"{name}: {name}_spelled",
        f"{name}_spelled[lazy]: {terminal}_SPELLED",
        f"{terminal}_SPELLED: {text_without(*without, starts=starts, up_to=marker)}",
    ]
    if cut := _cut_at_token(marker, ids):
        before, token, rest = cut
        rules[0] += f" | {terminal} {rest}"
        rules.append(f"{terminal}: {text_without(token, *without, starts=starts, up_to=before)}")
    return rules


def text_until(
    name: str, marker: str, ids: Mapping[str, int], *, conditions: Sequence[str] = (), starts: Sequence[str] = ()
) -> list[str]:
    """Text up to the first marker, with it, where the text matches all conditions and begins with none of `starts`."""
    end, terminal = escaped(marker), name.upper()
    held = [f"(?s:.*){end}(?s:.+)", *(f"{start}(?s:.*)" for start in starts)]
    met = "".join(f" & /{condition}{end}/" for condition in conditions)
    rules = [
        f"{name}: {name}_spelled",
        f"{name}_spelled[lazy]: {terminal}_SPELLED",
        f"{terminal}_SPELLED: /(?s:.*){end}/{met} & ~/({'|'.join(held)})/",
    ]
    if cut := _cut_at_token(marker, ids):
        before, token, rest = cut
        rules[0] += f" | {terminal} {rest}"
        met = "".join(f" & /{condition}{escaped(before)}/" for condition in conditions)
        rules.append(f"{terminal}: {text_without(token, starts=starts, up_to=before)}{met}")
    return rules


def _cut_at_token(marker: str, ids: Mapping[str, int]) -> tuple[str, str, str] | None:
    """A marker that holds a token: what is spelled before it, the token, and from there on the rules."""
    pieces = _pieces(marker, ids)
    at = next((i for i, piece in enumerate(pieces) if piece in ids), None)
    if at is None:
        return None
    rest = [f"<[{ids[pieces[at]]}]>", *(either(piece, ids) for piece in pieces[at + 1 :])]
    return "".join(pieces[:at]), pieces[at], " ".join(rest)


def escaped(text: str) -> str:
    """Between slashes, every character for itself."""
    return re.sub(r"([\\.+*?()|\[\]{}^$#/])", r"\\\1", text)
