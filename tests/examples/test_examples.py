"""The examples run, as they are, on the embedded model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"  # this folder comes first, so that its long tests do not come last


def run(name: str, *arguments: str) -> str:
    """What an example prints; its warnings are errors."""
    command = [sys.executable, "-W", "error::UserWarning", str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_chain_under_four_samplers() -> None:
    shown = run("langchain_chain.py")
    assert "Metropolis-Hastings, " in shown
    assert "Paris" in shown
    assert shown.count("Planet(name=") == 2


def test_agents_call_their_tool() -> None:
    shown = run("langchain_agent.py")
    assert "create_agent: 2 turns" in shown
    assert shown.count("weather({'city': ") == 2
    assert shown.count("tool ") == 2


def test_a_file_switches_the_sampler(tmp_path: Path) -> None:
    file = EXAMPLES / "power_sampling.yaml"
    shown = run("langchain_rag.py", str(file))
    assert shown.startswith("metropolis_hastings, alpha 4")
    assert "Ada" in shown
    plain = tmp_path / "plain.yaml"
    plain.write_text(file.read_text().replace("sampler: {name: metropolis_hastings", "sampler: {name: ancestral} # {"))
    assert run("langchain_rag.py", str(plain)).startswith("ancestral")


def test_a_query_engine_follows_the_file_too() -> None:
    shown = run("llamaindex_query_engine.py")
    assert shown.startswith("metropolis_hastings, alpha 4")
    assert "Ada" in shown


def test_llamaindex_agents_call_their_tool() -> None:
    shown = run("llamaindex_agent.py")
    assert shown.count("predict_and_call: ") == 1
    assert shown.count("FunctionAgent: weather({'city': ") == 1


def test_structured_predictions_are_objects() -> None:
    shown = run("llamaindex_structured.py")
    assert shown.count("Lighthouse(keeper=") == 4
