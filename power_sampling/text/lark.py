"""Pieces of Lark grammars of replies, in the dialect of llguidance.

A marker may be one token or the letters it is spelled with. Where the tokenizer has the token, both are allowed. `ids`
are the tokenizer's added tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

__all__ = ["either", "escaped", "literal", "rules_until", "text_without"]


def literal(text: str) -> str:
    """A Lark string."""
    return json.dumps(text, ensure_ascii=False)


def either(marker: str, ids: Mapping[str, int]) -> str:
    """A marker as a token, where it is one, or spelled out."""
    return f"(<[{ids[marker]}]> | {literal(marker)})" if marker in ids else literal(marker)


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
        f"{name}: {name}_spelled" + (f" | {terminal} <[{ids[marker]}]>" if marker in ids else ""),
        f"{name}_spelled[lazy]: {terminal}_SPELLED",
        f"{terminal}_SPELLED: {text_without(*without, starts=starts, up_to=marker)}",
    ]
    if marker in ids:
        rules.append(f"{terminal}: {text_without(marker, *without, starts=starts)}")
    return rules


def escaped(text: str) -> str:
    """Between slashes, every character for itself."""
    return re.sub(r"([^\w\s<>\"'=!%&,:;@`~-])", r"\\\1", text)
