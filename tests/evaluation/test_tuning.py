"""Tuning: who stays, what is taken, what it may cost, and that its settings load everywhere."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from langchain_power_sampling import ChatPowerSampling
from llamaindex_power_sampling import PowerSamplingLLM
from power_sampling import ConfigurationError, PowerSampler, load_config
from power_sampling.cli import app
from power_sampling.evaluation import Bounds, load_task, parse_methods, suggest_alpha, tune, tune_alpha
from power_sampling.evaluation.tuning import CANDIDATES, settings_yaml
from tests.support.tiny import tiny_model, tiny_tokenizer

LETTERS = [chr(97 + i) for i in range(16)]
FEW = "greedy,ancestral,low_temperature(alpha=2),metropolis_hastings(alpha=2,num_steps=2)"


def begins_late(text: str, expected: str) -> bool:
    """Right by chance for about half of all answers."""
    return bool(text) and ord(text[0]) % 2 == ord(expected) % 2


def questions(path: Path, **fields: Any) -> Path:
    rows = [{"question": f"{letter}?", "id": letter, "answer": letter, **fields} for letter in LETTERS]
    path.write_text("".join(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def sampler() -> PowerSampler:
    return PowerSampler.from_model(
        tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=6, alpha=1.5, use_chat_template=False
    )


def labelled(folder: Path) -> Any:
    return load_task("jsonl", questions(folder / "q.jsonl"), grader="tests.evaluation.test_tuning:begins_late")


def test_half_of_them_answer_twice_as_many_questions(sampler: PowerSampler, tmp_path: Path) -> None:
    told: list[int] = []
    found = tune(
        sampler, labelled(tmp_path), tmp_path / "run", candidates=FEW, first=4, listener=lambda d, t, k: told.append(d)
    )
    answers: dict[str, int] = {}
    for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "answer":
            answers[record["method"]] = answers.get(record["method"], 0) + 1
    kept = {row.label for row in found.table.rows}
    assert set(answers.values()) <= {4, 8, 16} and len(answers) == 4
    assert len(kept) <= 3 and all(answers[label] == len(found.table.questions) for label in kept)
    assert any("(out)" in reason for reason in found.reasons) and "optimistic" in found.reasons[-1]
    assert found.method.label in kept
    cheapest = min(found.table.rows, key=lambda row: row.tokens)
    assert cheapest.label in kept, "the opponent is never left out"
    again = tune(sampler, labelled(tmp_path), tmp_path / "run", candidates=FEW, first=4)
    assert (again.method, again.reasons) == (found.method, found.reasons)


def test_the_candidates_are_valid(sampler: PowerSampler) -> None:
    assert len(parse_methods(CANDIDATES, sampler.generation)[0]) == 12


def test_limits(sampler: PowerSampler, tmp_path: Path) -> None:
    cheap = tune(sampler, labelled(tmp_path), tmp_path / "a", candidates=FEW, first=8, most_tokens=7.0)
    assert all(row.tokens <= 7 for row in cheap.table.rows if row.label == cheap.method.label)
    assert "metropolis" not in cheap.method.label
    with pytest.raises(ConfigurationError, match=r"the cheapest candidate, .* raise the limit"):
        tune(sampler, labelled(tmp_path), tmp_path / "b", candidates=FEW, first=2, most_tokens=0.5)
    more = f"{FEW},low_temperature(alpha=3),best_of_n(num_completions=2)"
    short = tune(sampler, labelled(tmp_path), tmp_path / "c", candidates=more, first=2, bounds=Bounds(tokens=50))
    assert "The limit was reached." in " ".join(short.reasons)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"candidates": "ancestral"}, "at least two candidates, got 1"),
        ({"candidates": f"{FEW},vote"}, "a vote is no setting"),
        ({"first": 0}, "1 to 16 questions, got 0"),
        ({"first": 17}, "1 to 16 questions, got 17"),
        ({"candidates": "ancestral,nobody"}, "there is no 'nobody'"),
    ],
    ids=str,
)
def test_bad_searches(sampler: PowerSampler, tmp_path: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        tune(sampler, labelled(tmp_path), tmp_path / "run", **options)


@pytest.mark.parametrize("label", ["low_temperature(alpha=2)", "greedy", "sequential_monte_carlo(num_particles=3)"])
def test_the_settings_load_everywhere(sampler: PowerSampler, tmp_path: Path, label: str) -> None:
    (method,), _ = parse_methods(label, sampler.generation)
    file = tmp_path / "power.yaml"
    file.write_text(settings_yaml(PowerSampler.from_pretrained("embedded"), method.generation, ["why"]))
    assert file.read_text().startswith("# why\nmodel: embedded\n")
    loaded = load_config(file)
    assert loaded.generation_part() == method.generation and loaded.model == "embedded"
    assert ChatPowerSampling.from_config(file).alpha == method.generation.alpha
    assert PowerSamplingLLM.from_config(file).alpha == method.generation.alpha


def test_what_was_set_is_written_and_prefetching_comes_back(sampler: PowerSampler) -> None:
    (method,), _ = parse_methods("metropolis_hastings(alpha=2,num_steps=3)", sampler.generation)
    text = settings_yaml(PowerSampler.from_pretrained("embedded"), method.generation)
    assert "num_steps: 3" in text and "prefetch" not in text and "timeout" not in text


def exact_slope(pool: list[tuple[str, float]], alpha: float) -> float:
    """The covariance written out as sums."""
    raw = [math.exp((alpha - 1) * p) for _, p in pool]
    w = [each / sum(raw) for each in raw]
    v = [sum(a == b for b, _ in pool) - 1 for a, _ in pool]
    v = [each / (len(pool) - 1) for each in v]
    mean_v, mean_p = (
        sum(x * y for x, y in zip(w, v, strict=True)),
        sum(x * p for x, (_, p) in zip(w, pool, strict=True)),
    )
    return sum(x * (y - mean_v) * (p - mean_p) for x, y, (_, p) in zip(w, v, pool, strict=True))


def test_the_power_goes_up_while_likelier_samples_agree_more() -> None:
    agree = [("a", -1.0), ("a", -1.1), ("b", -1.9), ("c", -2.0), ("a", -1.2), ("d", -2.1)]
    found = suggest_alpha([agree, agree], alphas=(1.0, 2.0, 4.0))
    for alpha, slope, votes in found.slopes:
        assert slope == pytest.approx(exact_slope(agree, alpha)) and 1 <= votes <= 6 + 1e-9
    assert found.alpha == 4.0 and "heuristic" in found.reasons[-1]
    disagree = [(answer, -p) for answer, p in agree]
    assert suggest_alpha([disagree]).alpha == 1.0
    one_decides = [("a", 0.0), ("a", -50.0), ("b", -60.0)]
    assert suggest_alpha([one_decides]).alpha == 1.0, "one sample is no agreement"
    with pytest.raises(ConfigurationError, match="three plain samples"):
        suggest_alpha([[("a", 0.0)]])


def test_without_answers_their_agreement_is_looked_at(sampler: PowerSampler, tmp_path: Path) -> None:
    task = load_task("jsonl", questions(tmp_path / "q.jsonl", answer=None))
    assert not task.is_labelled and all(question.expected == "" for question in task.questions)
    found = tune_alpha(sampler, task, tmp_path / "run", samples=3)
    assert found.alpha in {alpha for alpha, _, _ in found.slopes} and np.isfinite([s for _, s, _ in found.slopes]).all()
    with pytest.raises(ConfigurationError, match=r"have no answers; use tune_alpha"):
        tune(sampler, task, tmp_path / "other")
    with pytest.raises(ConfigurationError, match="at least 3 samples, got 2"):
        tune_alpha(sampler, task, tmp_path / "other", samples=2)


@pytest.mark.parametrize("answer", ["numeric", None])
def test_the_command_writes_settings(tmp_path: Path, answer: str | None) -> None:
    folder = tmp_path / "model"
    tiny_model(layers=1).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    data = questions(tmp_path / "q.jsonl", answer=answer and "3")
    words = ["tune", "jsonl", "--data", str(data), "--out", str(tmp_path / "run"), "--model", str(folder), "--raw"]
    words += ["--max-tokens", "2000", "--samplers", FEW, "--first", "2", "--max-new-tokens", "4", "--samples", "3"]
    ran = CliRunner().invoke(app(), words)
    assert ran.exit_code == 0, ran.output
    assert ("optimistic" if answer else "heuristic") in ran.output
    assert load_config(tmp_path / "run" / "power.yaml").model == str(folder)


def test_outputs_for_another_judge(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_model(layers=1).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    rows = [{"instruction": "Greet.", "dataset": "own"}, {"instruction": "Leave.", "dataset": "own"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    words = ["evaluate", "alpaca", "--data", str(tmp_path / "a.json"), "--out", str(tmp_path / "run"), "--raw"]
    words += ["--model", str(folder), "--samplers", "greedy,low_temperature(alpha=2)", "--max-new-tokens", "4"]
    ran = CliRunner().invoke(app(), words)
    assert ran.exit_code == 0 and "outputs for another judge" in ran.output
    for name in ("greedy", "low_temperature-alpha=2"):
        outputs = json.loads((tmp_path / "run" / f"outputs-{name}.json").read_text())
        assert sorted(each["instruction"] for each in outputs) == ["Greet.", "Leave."]
        assert {each["dataset"] for each in outputs} == {"own"} and all(each["output"] for each in outputs)
        assert {each["generator"] for each in outputs} == {name.replace("-alpha=2", "(alpha=2)")}
    assert not (tmp_path / "run" / "report.html").exists()
