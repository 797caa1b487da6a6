"""The notebooks as `make docs` has run them: a cell that raises has ended it, and these are the answers."""

from __future__ import annotations

import re

import pytest

from tests.support.pages import ROOT

RUN = ROOT / ".cache" / "notebooks"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (RUN / ".made").exists(), reason="`make docs` has not run the notebooks"),
]


def output(name: str) -> str:
    """What the cells of a notebook have printed."""
    text = re.sub(r"```.*?```", "", (RUN / f"{name}.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    return "\n".join(re.findall(r"^    (.*)$", text, flags=re.MULTILINE))


def test_rag_finds_the_note_and_the_name() -> None:
    shown = output("rag")
    assert "Ada Quill" in shown.splitlines()[0]
    assert "from: The lighthouse of Harrow Point" in shown
    assert "'exactness': 'approximate'" in shown


def test_the_agent_calls_its_tool_and_answers() -> None:
    shown = output("agent")
    assert re.search(r"^human .*\nai +weather\({'city': '(Paris|Oslo|Lima)'}\)\ntool .*\nai +\S", shown, re.MULTILINE)
    assert "asymptotic" in shown


def test_the_target_is_invariant_and_the_slip_is_seen() -> None:
    shown = output("exactness")
    assert "the target stays as it is: True" in shown
    assert re.search(r"^ *1000 moves: 0\.0000$", shown, re.MULTILINE)
    assert float(re.findall(r"after 1000 moves: (.*)", shown)[0]) > 0.1
