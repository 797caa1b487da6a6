"""Where a text gives its answer: the last box, number, letter or block of code. None where it gives none."""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["after", "code", "fenced", "formula", "last_boxed", "last_letter", "last_number", "number", "number_alone"]

MOST_DIGITS = 400  # of a number

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
    rf"(?:(?P<whole>\d+)\s+(?P<part>\d+)/(?P<of>\d+)|(?:(?P<whole_latex>\d+)\s*|\s{{0,4}}){LATEX_FRACTION}"
    rf"|(?P<plain>{PLAIN})(?:\s*/\s*(?P<under>{PLAIN}))?)"
)
FENCED = re.compile(r"```[ \t]*\w*[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL)
CODE = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
LETTER_SAID = re.compile(
    r"(?:answer|choice|option)\W{0,4}(?:is|:|=)?\W{0,8}(?:\\text\{|\\mathrm\{)?\(?\*{0,2}([A-Z])\b(?!['\u2019])",
    re.IGNORECASE,
)
# possessive: what is passed over is never tried again, however long it is
LETTER_ALONE = re.compile(r"^(?:\\boxed\{|\\text\{|\W)*+([A-Z])\W*+$|^\W*+([A-Z])[).:](?=\s)")
BRACE = re.compile(r"(?<!\\)[{}]")
BARE = re.compile(r"[^\s{}$.,]+")


def last_boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}` that is closed, braces balanced; also `\fbox{...}` and `\boxed 5`."""
    ends = _closing(text)
    for match in reversed(list(BOX.finditer(text))):
        start = match.end()
        if text[start : start + 1] != "{":
            if bare := BARE.match(text, start):
                return bare.group()
        elif start in ends:
            return text[start + 1 : ends[start]].strip()
    return None


def _closing(text: str) -> dict[int, int]:
    """Where every brace that is closed is closed, by its place; in one pass, however deep they are nested."""
    ends: dict[int, int] = {}
    opened: list[int] = []
    for match in BRACE.finditer(text):
        if match.group() == "{":
            opened.append(match.start())
        elif opened:
            ends[opened.pop()] = match.start()
    return ends


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
        whole, top, bottom = part["whole"], part["part"], part["of"]
    elif part["plain"] is None:
        whole, top, bottom = part["whole_latex"], part["top"] or part["one_top"], part["bottom"] or part["one_bottom"]
    else:
        whole, top, bottom = None, part["plain"], part["under"]
    first, over, under = _plain(whole or "0"), _plain(top), _plain(bottom or "1")
    if first is None or over is None or not under:
        return None
    value = first + over / under
    return -value if is_negative else value


def _plain(digits: str) -> Fraction | None:
    """None where there are more digits, or a larger exponent, than a number to compare has."""
    bare = re.sub(r"\\,|\{,\}|[,_\u2009\u202f\u00a0]", "", digits)
    mantissa, _, exponent = bare.lower().partition("e")
    if len(mantissa) > MOST_DIGITS or len(exponent) > len("+400") or abs(int(exponent or 0)) > MOST_DIGITS:
        return None
    return Fraction(bare)


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
