"""Two integrations under one conformance suite, side by side: a table of what became of each test."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest


class Outcomes:
    """A pytest plugin: what became of each test of a suite on each side; of one with parameters, the worst."""

    def __init__(self, suite: type, sides: Sequence[type]) -> None:
        self.suite, self.sides = suite, [side.__name__ for side in sides]
        self.found: dict[str, dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        _, side, test = report.nodeid.split("::")
        if report.when == "call" or report.failed or report.skipped:
            sides = self.found.setdefault(test.split("[")[0], {})
            if sides.get(side) != "failed":
                sides[side] = report.outcome

    def table(self) -> Iterator[str]:
        yield f"| asked for | {' | '.join(side.removeprefix('Test') for side in self.sides)} |\n|---|---|---|"
        for test, outcomes in self.found.items():
            asked = getattr(self.suite, test).__doc__.splitlines()[0].rstrip(".").replace("|", "\\|")
            shown = [outcomes.get(side, "?") for side in self.sides]
            yield f"| {asked} | {' | '.join(o if o == 'passed' else f'**{o}**' for o in shown)} |"
        passed = [[o.get(side) for o in self.found.values()].count("passed") for side in self.sides]
        yield f"| passed | {' | '.join(f'{n} of {len(self.found)}' for n in passed)} |"


def compare(file: str, suite: type, sides: Sequence[type], *, timeout: int) -> None:
    """Run the tests of a file and print the table. Ends the process: streams that hang hold threads."""
    outcomes = Outcomes(suite, sides)
    options = ["-q", f"--timeout={timeout}", "-p", "no:cacheprovider", "-o", "filterwarnings=", "-o", "addopts="]
    with contextlib.redirect_stdout(sys.stderr):
        pytest.main([*options, "--tb=line", file], plugins=[outcomes])
    print("\n".join(outcomes.table()), flush=True)
    os._exit(0)


@contextmanager
def broken_forward(model: Any) -> Iterator[None]:
    """A transformers model that raises RuntimeError("broken")."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("broken")

    whole, model.forward = model.forward, forward
    try:
        yield
    finally:
        model.forward = whole
