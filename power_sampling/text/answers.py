"""Where a text gives its answer: the last box, number, letter or block of code. None where it gives none."""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["after", "code", "fenced", "formula", "last_boxed", "last_letter", "last_number", "number", "number_alone"]

BOX = re.compile(r"\\f?box(?:ed)?\s*")
# digits with thousands separators (comma, thin or plain space, underscore), a decimal part, an exponent
DIGITS = r"(?:\d{1,3}(?:(?:,|\\,|_|\{,\}|[\u2009\u202f\u00a0])\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
PLAIN = rf"(?:{DIGITS})(?:[eE][+-]?\d+)?"
SIGN = r"[-+\u2212\u2013]?"
LATEX_FRACTION = (  # \frac12 is one half
    r"\\[dt]?frac\s*(?:\{\s*(?P<top>-?\d+)\s*\}|(?P<one_top>\d))"
    r"\s*(?:\{\s*(?P<bottom>\d+)\s*\}|(?P<one_bottom>\d))"
)
NUMBER = re.compile(
    rf"(?P<sign>(?<![\w.)]){SIGN}\s?)\$?\\?\$?(?P<money>{SIGN})"
    rf"(?:(?P<whole>\d+)\s+(?P<part>\d+)/(?P<of>\d+)|(?P<whole_latex>\d+)?\s*{LATEX_FRACTION}"
    rf"|(?P<plain>{PLAIN})(?:\s*/\s*(?P<under>{PLAIN}))?)"
)
FENCED = re.compile(r"```[ \t]*\w*[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL)
CODE = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
LETTER_SAID = re.compile(
    r"(?:answer|choice|option)\W{0,4}(?:is|:|=)?\W{0,8}(?:\\text\{|\\mathrm\{)?\(?\*{0,2}([A-Z])\b(?!['\u2019])",
    re.IGNORECASE,
)
LETTER_ALONE = re.compile(r"^\W*(?:\\boxed\{|\\text\{)*\W*([A-Z])(?:\}|\W)*$|^\W*\(?([A-Z])[).:](?=\s)")


def last_boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}` that is closed, braces balanced; also `\fbox{...}` and `\boxed 5`."""
    for match in reversed(list(BOX.finditer(text))):
        if text[match.end() : match.end() + 1] != "{":
            if bare := re.match(r"[^\s{}$.,]+", text[match.end() :]):
                return bare.group()
            continue
        depth = 0
        for i in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[i], 0) if text[i - 1] != "\\" else 0
            if depth == 0:
                return text[match.end() + 1 : i].strip()
    return None


def after(marker: str, text: str) -> str | None:
    """The rest of the line after the last marker that something follows."""
    for rest in reversed(text.split(marker)[1:]):
        if line := rest.strip().split("\n")[0].strip():
            return line
    return None


def number(text: str) -> Fraction | None:
    """The number that a text is, its unit or currency aside; None where it is none, or holds two."""
    found = [match for match in NUMBER.finditer(text) if _value(match) is not None]
    return _value(found[0]) if len(found) == 1 else None


def number_alone(text: str) -> Fraction | None:
    """The number that a text is and nothing else."""
    match = NUMBER.fullmatch(text.strip())
    return None if match is None else _value(match)


def last_number(text: str) -> str | None:
    """The last number of a text, as it stands."""
    found = [match.group().strip() for match in NUMBER.finditer(text) if _value(match) is not None]
    return found[-1] if found else None


def _value(match: re.Match[str]) -> Fraction | None:
    part = match.groupdict()
    is_negative = any(sign in (part[name] or "") for name in ("sign", "money") for sign in "-\u2212\u2013")
    if part["whole"]:
        top, bottom = _plain(part["part"]), _plain(part["of"])
        value = _plain(part["whole"]) + top / bottom if bottom else None
    elif part["plain"] is None:
        top, bottom = Fraction(part["top"] or part["one_top"]), Fraction(part["bottom"] or part["one_bottom"])
        value = Fraction(part["whole_latex"] or 0) + top / bottom if bottom else None
    else:
        bottom = _plain(part["under"] or "1")
        value = _plain(part["plain"]) / bottom if bottom else None
    return value if value is None or not is_negative else -value


def _plain(digits: str) -> Fraction:
    return Fraction(re.sub(r"\\,|\{,\}|[,_\u2009\u202f\u00a0]", "", digits)[:400])


def last_letter(text: str, letters: str) -> str | None:
    """The letter of the choice that a text settles on: in a box, after "answer is", or alone on its last line."""
    box = last_boxed(text)
    for place in ([box] if box is not None else []) + [line for line in reversed(text.strip().split("\n")) if line][:1]:
        if (alone := LETTER_ALONE.match(place.strip())) and (letter := alone[1] or alone[2]) in letters:
            return letter
    said = [match[1].upper() for match in LETTER_SAID.finditer(text) if match[1].isupper() and match[1] in letters]
    return said[-1] if said else None


def fenced(text: str) -> list[str]:
    """The blocks of code of a text, whatever their language; the last one may be open."""
    return FENCED.findall(text)


def code(text: str, name: str) -> str:
    """The block of code that defines `name`, else the longest one, else the whole text."""
    blocks: list[str] = CODE.findall(text)
    if not blocks:
        return text
    defining = [block for block in blocks if re.search(rf"^\s*def\s+{re.escape(name)}\b", block, re.MULTILINE)]
    return defining[-1] if defining else max(blocks, key=len)


def formula(text: str) -> str:
    """A formula without its space and sizes."""
    return re.sub(r"\\left|\\right|\\[,;:! ]|\s|\$|\.$", "", text).replace("dfrac", "frac").replace("tfrac", "frac")
