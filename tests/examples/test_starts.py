"""The example of traces that are rewritten."""

from __future__ import annotations

from collections.abc import Callable


def test_traces_are_rewritten_and_gone_on_from(run: Callable[..., str]) -> None:
    shown = run("rewrite_traces.py")
    assert "2 of 2 rows" in shown and "after 2 steps" in shown and "effective steps of the last 4" in shown
