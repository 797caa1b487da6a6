"""Runs the examples, as they are, in this process: imports and the embedded model are shared.

This folder comes early, so that its long tests do not come last.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable

import pytest

from power_sampling import PowerSampler
from tests.support.examples import EXAMPLES


@pytest.fixture
def run(
    embedded: PowerSampler, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What an example prints."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def started(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return started
