"""Pages name all there is: a table with a row missing is noticed here."""

from __future__ import annotations

import re

from power_sampling.samplers import BY_NAME
from tests.support.pages import page


def first_cells(name: str) -> list[str]:
    """What stands in backquotes at the beginning of a row of a table."""
    return re.findall(r"^\| `(\w+)`.*\|$", page(name), flags=re.MULTILINE)


def test_every_sampler_has_a_row() -> None:
    table = page("docs/samplers.md").split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)`.*\|.+\|.+\|.+\|$", table, flags=re.MULTILINE)
    assert sorted(rows) == sorted(["sampler", *BY_NAME])
