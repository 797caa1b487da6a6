"""What is wrong with a call that is no JSON, told so that the model that wrote it can do better: where, and what."""

from __future__ import annotations

import json
import re

__all__ = ["cut_or_broken"]

_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"?|[{}\[\],:]', re.DOTALL)
WORDS_SHOWN = 30  # letters of the text around a fault


def cut_or_broken(text: str, error: ValueError) -> str:
    """The end of a sentence about a text that is no JSON: that it is cut short or wrong, in which argument, and how.

    `error` is what the decoder said: of a JSONDecodeError the position counts, in its own text.
    """
    if not isinstance(error, json.JSONDecodeError):
        return f"no valid JSON: {error}. Write it again."
    start = error.doc.rfind(text, 0, error.pos + len(text))  # the decoder may have had more before it
    at = error.pos - max(0, start)
    argument = _argument(text, at)
    place = f" in argument {argument!r}" if argument else ""
    if at >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        return f"no valid JSON: it was cut short{place}. Write it again, shorter, and close every bracket."
    around = text[max(0, at - WORDS_SHOWN) : at + WORDS_SHOWN].strip()
    return f"no valid JSON{place}: {error.msg} near {around!r}. Write it again."


def _argument(text: str, at: int) -> str:
    """The argument that stands at a position, with the keys and places inside of it: `cities.2.name`."""
    path: list[str | int] = []  # a key, or a place in a list, for every bracket that is open
    key, is_value = "", False
    for piece in _PIECE.finditer(text):
        if piece.start() > at:
            break
        mark = piece[0]
        if mark in "{[":
            path.append("" if mark == "{" else 0)
            is_value = False
        elif mark in "}]" and path:
            path.pop()
        elif mark == "," and path:
            last = path[-1]
            path[-1] = last + 1 if isinstance(last, int) else ""
            is_value = False
        elif mark == ":" and path and isinstance(path[-1], str):
            path[-1], is_value = key, True
        elif mark[0] == '"' and not is_value:
            key = mark.strip('"')
    while path and (isinstance(path[0], int) or path[0] in ("arguments", "parameters")):
        del path[0]
    return "" if path[:1] == ["name"] else ".".join(str(part) for part in path if part != "")
