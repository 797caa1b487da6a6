"""The LangChain examples on the embedded model; their warnings are errors. One is started as a user starts it, too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.examples import EXAMPLES


def test_one_chain_under_four_samplers(run: Callable[..., str]) -> None:
    shown = run("langchain_chain.py")
    assert "Metropolis-Hastings, " in shown
    assert "Paris" in shown
    assert shown.count("Planet(name=") == 2


def test_agents_call_their_tool(run: Callable[..., str]) -> None:
    shown = run("langchain_agent.py")
    assert "create_agent: 2 turns" in shown
    assert shown.count("weather({'city': ") == 2
    assert shown.count("tool ") == 2


def test_a_file_says_how_it_is_sampled(run: Callable[..., str]) -> None:
    shown = run("langchain_rag.py")
    assert shown.startswith("metropolis_hastings, alpha 4")
    assert "Ada" in shown


def test_a_chain_is_judged_plain_against_power(run: Callable[..., str]) -> None:
    shown = run("langchain_evaluate.py")
    assert "plain: " in shown and "decoded tokens an answer" in shown
    assert "11 questions of jsonl" in shown and "What I would take" in shown


def test_a_judge_has_a_say(run: Callable[..., str]) -> None:
    free, particles, moves = run("langchain_potentials.py").splitlines()
    assert free.startswith("nobody judges: ")
    for judged in (particles, moves):
        assert not any(word in judged.lower() for word in ("blue", "vast")) and judged.partition(": ")[2]


def test_a_vote_gives_one_answer_and_tells_the_shares(run: Callable[..., str]) -> None:
    shown = run("langchain_vote.py")
    assert "Paris" in shown and shown.count(" votes); as sure as ") == 2
    assert shown.count("; approximate") == 2


def test_a_power_is_chosen_for_each_prompt(run: Callable[..., str]) -> None:
    shown = run("langchain_power_by_prompt.py")
    assert "Paris" in shown and shown.count(" answers; approximate") == 2
    assert len(set(re.findall(r"alpha (\d) answers", shown))) == 2


@pytest.mark.slow
def test_another_file_switches_the_sampler_of_a_process_of_its_own(tmp_path: Path) -> None:
    plain = tmp_path / "plain.yaml"
    text = (EXAMPLES / "power_sampling.yaml").read_text()
    plain.write_text(text.replace("sampler: {name: metropolis_hastings", "sampler: {name: ancestral} # {"))
    command = [sys.executable, "-W", "error::UserWarning", str(EXAMPLES / "langchain_rag.py"), str(plain)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ancestral")
