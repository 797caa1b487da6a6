"""The LlamaIndex examples on the embedded model; their warnings are errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from llama_index.core import Settings

from tests.support.llamaindex import WORKFLOWS

pytestmark = WORKFLOWS


@pytest.fixture(autouse=True)
def _settings_as_before() -> Iterator[None]:
    before = Settings._llm, Settings._prompt_helper, Settings._embed_model
    yield
    Settings._llm, Settings._prompt_helper, Settings._embed_model = before


def test_a_query_engine_follows_the_file(run: Callable[..., str]) -> None:
    shown = run("llamaindex_query_engine.py")
    assert shown.startswith("metropolis_hastings, alpha 4")
    assert "Ada" in shown


def test_agents_call_their_tool(run: Callable[..., str]) -> None:
    shown = run("llamaindex_agent.py")
    assert shown.count("predict_and_call: ") == 1
    assert shown.count("FunctionAgent: weather({'city': ") == 1


def test_structured_predictions_are_objects(run: Callable[..., str]) -> None:
    shown = run("llamaindex_structured.py")
    assert shown.count("Lighthouse(keeper=") == 4


def test_a_query_engine_is_judged_plain_against_power(run: Callable[..., str]) -> None:
    shown = run("llamaindex_evaluate.py")
    assert "3 questions of jsonl" in shown and "What I would take" in shown
    assert "by LlamaIndex's runner: " in shown


def test_a_query_engine_votes(run: Callable[..., str]) -> None:
    shown = run("llamaindex_vote.py")
    assert shown.startswith("When was the lighthouse built? ") and "1871" in shown.splitlines()[0]
    assert " votes); as sure as " in shown and shown.rstrip().endswith("; approximate")
