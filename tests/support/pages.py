"""The snippets of a Markdown page, with the output that is printed behind them.

A block ```python is a snippet; a block ```text right behind it is what it prints. A block ```py is not run: it says why
in its words, or names things of the reader's.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]

_FENCES = re.compile(r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


class Snippet(NamedTuple):
    """Of a page: its code, and what it prints; None: the page does not say."""

    page: str
    line: int
    code: str
    output: str | None


def page(name: str) -> str:
    """The text of a page of the project, by its path."""
    return (ROOT / name).read_text(encoding="utf-8")


def snippets(name: str) -> list[Snippet]:
    """Every snippet of a page, in order."""
    text = page(name)
    return [
        Snippet(name, text[: found.start()].count("\n") + 2, found[1], found[2])
        for found in _FENCES.finditer(text if text.endswith("\n") else text + "\n")
    ]


def run(snippet: Snippet, names: dict[str, Any]) -> str:
    """Run it under these names, to which its own are added, and return what it printed."""
    shown = io.StringIO()
    padded = "\n" * (snippet.line - 1) + snippet.code  # so that a traceback names the page's own lines
    with contextlib.redirect_stdout(shown):
        exec(compile(padded, str(ROOT / snippet.page), "exec"), names)
    return shown.getvalue()
