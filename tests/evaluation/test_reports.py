"""Verdicts in words on tables that are known, the report's files, and the command over all of it."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from power_sampling import GenerationConfig
from power_sampling.cli import app
from power_sampling.evaluation import Table, load_task, make_plan, parse_methods
from power_sampling.evaluation.figures import figures
from power_sampling.evaluation.log import Answer, read_log
from power_sampling.evaluation.page import html
from power_sampling.evaluation.report import csv_text, difference, markdown
from power_sampling.evaluation.table import table_of
from power_sampling.evaluation.verdicts import compare, verdict
from tests.support.tiny import tiny_model, tiny_tokenizer

FILES = {"log.jsonl", "report.html", "report.md", "table.csv", "accuracy.svg"}

BAD = '</script><img src=x onerror="alert(1)">'


def table(
    folder: Path,
    right: dict[str, float],
    tokens: dict[str, int],
    *,
    questions: int = 200,
    samples: int = 1,
    **facts: Any,
) -> Table:
    """A table of made-up answers: each method is right on its share of the questions, the easier ones first."""
    data = folder / "q.jsonl"
    data.write_text("".join(json.dumps({"question": f"{i}{BAD}", "answer": "1"}) + "\n" for i in range(questions)))
    methods, votes = parse_methods(list(right), GenerationConfig(alpha=2.0))
    plan = make_plan(load_task("jsonl", data), methods, votes, samples=samples)
    rng = np.random.default_rng(0)
    answers = {}
    for rank, question in enumerate(plan.questions):
        for method in plan.methods:
            for key in plan.keys_of(method, question):
                share = right.get(method.label, 0.5)
                is_right = rank / questions < share if samples == 1 else bool(rng.random() < share)
                answers[key] = Answer(
                    **key._asdict(),
                    text=f"so {BAD} {int(is_right)}",
                    answer=str(int(is_right)),
                    is_right=is_right,
                    logp=-3.0 - rng.random(),
                    length=5,
                    tokens_decoded=tokens.get(method.label, 10),
                    **facts,
                )
    return table_of(plan, answers, "made up")


MH = "metropolis_hastings"


def test_a_real_difference_is_told_and_the_cheapest_good_one_taken(tmp_path: Path) -> None:
    found = table(tmp_path, {"ancestral": 0.5, "low_temperature": 0.65, MH: 0.66}, {MH: 200})
    words = verdict(found)
    text = " ".join(words)
    assert words[0] == "200 questions of made up."
    assert re.search(
        r"Real: low_temperature is better than ancestral by 15\.0 points \(95% interval \+1.* to \+2", text
    )
    assert "less than 0.001 after allowing for 3 comparisons" in text
    assert f"No difference can be seen between {MH} and low_temperature (+1.0 points" in text
    taken = next(sentence for sentence in words if sentence.startswith("What I would take."))
    assert "From 10 tokens an answer on: low_temperature (65.0%)." in taken and MH not in taken
    (pair,) = [c for c in compare(found) if {c.first.label, c.second.label} == {MH, "low_temperature"}]
    assert pair.test == "McNemar" and pair.p == 0.5 and pair.needed > 20


def test_no_difference_is_said_to_be_none(tmp_path: Path) -> None:
    words = verdict(table(tmp_path, {"ancestral": 0.5, "low_temperature": 0.5}, {}, questions=20))
    assert "That is few" in words[0]
    assert "No difference between any two of them can be seen." in words
    assert any("Nothing that costs more is seen to be better" in sentence for sentence in words)


def test_where_nothing_varied_the_samplers_are_not_to_blame(tmp_path: Path) -> None:
    found = table(tmp_path, {"ancestral": 0.0, "low_temperature": 0.0}, {}, questions=20)
    wrong = verdict(found)
    assert [difference(c)[-1] for c in compare(found)] == [""]
    assert "the grader does not suit: of the first question it expects '1' and has read '0'" in wrong[1]
    assert not any("To see one of" in sentence for sentence in wrong)
    right = verdict(table(tmp_path, {"ancestral": 1.0, "low_temperature": 1.0}, {}, questions=20))
    assert right[1].startswith("Careful: every answer is right")
    mixed = verdict(table(tmp_path, {"ancestral": 0.0, "low_temperature": 0.1}, {}, questions=20))
    assert not any("Careful" in sentence for sentence in mixed)
    assert any("To see one of" in sentence for sentence in mixed)


def test_one_of_many_comparisons_is_no_proof(tmp_path: Path) -> None:
    """p = 0.031 alone: six questions of 200 differ, all one way."""
    several = {f"low_temperature(alpha={a})": 0.5 for a in (2, 3, 4)}
    found = table(tmp_path, {"ancestral": 0.53, **several}, {})
    assert any(sentence.startswith("There may be a difference, which 6 comparisons") for sentence in verdict(found))
    assert not any(c.is_real for c in compare(found))
    alone = table(tmp_path, {"ancestral": 0.53, "low_temperature": 0.5}, {})
    assert any(sentence.startswith("Real: ancestral is better") for sentence in verdict(alone))


def test_the_vote_at_equal_tokens_is_the_opponent(tmp_path: Path) -> None:
    found = table(tmp_path, {"ancestral": 0.8, MH: 0.6, "vote": 0}, {MH: 30}, samples=8, questions=120)
    vote = next(row for row in found.rows if row.votes is not None)
    assert (vote.votes, vote.tokens, vote.beside, vote.is_short) == (3, 30.0, (MH,), False)
    assert any(f"Real: vote of 3 is better than {MH}" in sentence for sentence in verdict(found))
    short = table(tmp_path, {"ancestral": 0.8, MH: 0.6, "vote": 0}, {MH: 300}, samples=2, questions=30)
    assert any("fewer than metropolis_hastings; draw a larger pool" in sentence for sentence in verdict(short))


def test_what_a_reader_has_to_know_is_said(tmp_path: Path) -> None:
    found = table(tmp_path, {"ancestral": 0.5}, {}, finish_reason="length", error="RequestTimeoutError: late")
    text = " ".join(verdict(found))
    assert "200 answers of ancestral could not be drawn" in text
    assert "100% of the answers of ancestral were cut off at max_new_tokens" in text


class Reader(HTMLParser):
    """What a browser would be told to fetch or to run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []
        self.data = ""
        self._is_data = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.outside += [value for name in ("src", "href") if (value := given.get(name)) and not value.startswith("#")]
        self._is_data = given.get("id") == "data"

    def handle_data(self, data: str) -> None:
        self.data += data if self._is_data else ""

    def handle_endtag(self, tag: str) -> None:
        self._is_data = False


def test_the_page_stands_alone_and_runs_nothing_that_a_model_says(tmp_path: Path) -> None:
    several = {"low_temperature(alpha=2)": 0.6, "low_temperature(alpha=4)": 0.5, "ancestral": 0.4, "vote": 0}
    found = table(tmp_path, several, {}, samples=3, questions=40)
    facts = {"model": BAD, "questions": "40 of 40 planned"}
    page = html(found, compare(found), verdict(found), facts, figures(found))
    reader = Reader(page)
    assert not reader.outside and "img" not in reader.tags and reader.tags.count("script") == 2
    assert not re.search(r"@import|url\((?!#)", page)
    questions = json.loads(reader.data)
    assert len(questions) == 40 and BAD in questions[0]["question"] and BAD in questions[0]["answers"][0]["text"]
    assert {answer["method"] for answer in questions[0]["answers"]} == {row.label for row in found.methods}
    # frontier, pass@k, alpha, log p, length
    assert reader.tags.count("svg") == 5 and "Accuracy against alpha" in page


def test_markdown_and_csv_hold_the_same_table(tmp_path: Path) -> None:
    found = table(tmp_path, {"ancestral": 0.5, MH: 0.75, "vote": 0}, {MH: 20}, samples=4, questions=40)
    text = markdown(found, compare(found), verdict(found), {"model": "m"})
    rows = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert [row["sampler"] for row in rows] == [row.label for row in found.rows]
    for row, said in zip(found.rows, rows, strict=True):
        assert float(said["accuracy"]) == row.accuracy.value
        assert f"| {row.label} | {row.accuracy.value:.1%} |" in text
    assert rows[0]["pass@4"] and "| k = 4 |" in text and "## vote by its size" in text
    for line in text.split("\n"):
        assert not line.startswith("|") or line.endswith(" |")


# ------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_model(layers=1).save_pretrained(path / "model")
    tiny_tokenizer().save_pretrained(path / "model")
    lines = [json.dumps({"question": f"{i}?", "answer": "1"}) for i in range(5)]
    (path / "q.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return path


def command(folder: Path, *arguments: str, task: str = "jsonl") -> Any:
    words = ["evaluate", task, "--data", str(folder / "q.jsonl"), "--model", str(folder / "model")]
    return CliRunner().invoke(app(), [*words, *arguments])


def test_the_command_from_a_task_to_a_verdict(folder: Path, tmp_path: Path) -> None:
    words = ("--samplers", "greedy,low_temperature(alpha=2),vote", "--max-new-tokens", "4", "--questions", "3")
    words += ("--grader", "numeric", "--seeds", "0,1", "--out", str(tmp_path), "--set", "temperature=1.5")
    result = command(folder, *words)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("3 questions of jsonl (q.jsonl, numeric).")
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert ElementTree.parse(tmp_path / "accuracy.svg").getroot().tag.endswith("svg")  # a file of its own
    contents = read_log(tmp_path)
    assert contents.methods["low_temperature(alpha=2)"]["temperature"] == 1.5
    assert {key.seed for key in contents.answers} == {0, 1}
    again = command(folder, *words)
    assert again.stdout == result.stdout and "answers," not in again.stderr  # nothing is left to draw
    other = command(folder, *words, "--set", "max_rows=8")
    assert other.exit_code == 1 and "other settings; settings: model.max_rows was 32 and is 8." in other.stderr


def test_what_passed_the_bound_is_told_and_how_a_stopped_run_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--out", str(tmp_path), "--samplers", "greedy", "--max-new-tokens", "3")
    passed = command(folder, *words, "--max-tokens", "1")
    assert passed.exit_code == 0 and re.search(
        r"(\d+) tokens decoded, \d+ over --max-tokens 1: up to 64", passed.stderr
    )

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("power_sampling.evaluation.run", interrupted)
    stopped = command(folder, *words)
    assert (stopped.exit_code, stopped.stderr) == (130, "Stopped. The same command goes on from here.\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--samplers", "greed"), "Did you mean 'greedy'"),
        (("--seeds", "a"), "--seeds: expected whole numbers"),
        (("--set", "alhpa=2"), "Did you mean 'alpha'"),
        (("--set", "alpha"), "--set: expected FIELD=VALUE"),
        (("--questions", "6"), "has 5, got 6"),
        (("--out", "/proc/run"), "error: --out: '/proc/run' cannot be written (No such file or directory)."),
        (("--out", __file__), "cannot be written (File exists)."),
    ],
)
def test_faults_are_told_in_one_line(folder: Path, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    result = command(folder, "--out", str(tmp_path / "run"), *arguments)
    assert result.exit_code == 1 and words in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_task_says_how_long_an_answer_may_be_where_nothing_else_does(folder: Path, tmp_path: Path) -> None:
    from power_sampling.cli.options import settings_of

    nothing = dict.fromkeys(("model", "engine", "alpha", "max_new_tokens", "device", "dtype", "use_chat_template"))
    nothing |= {"settings": None, "config": None}
    assert settings_of(nothing, max_new_tokens=512).max_new_tokens == 512
    assert settings_of({**nothing, "max_new_tokens": 7}, max_new_tokens=512).max_new_tokens == 7
    file = tmp_path / "a.yaml"
    file.write_text("max_new_tokens: 9\n", encoding="utf-8")
    assert settings_of({**nothing, "config": str(file)}, max_new_tokens=512).max_new_tokens == 9


def test_a_row_has_the_numbers_of_its_samples(tmp_path: Path) -> None:
    row = table(tmp_path, {"ancestral": 0.5}, {}, samples=2, questions=4).rows[0]
    assert row.samples == 2 and row.distinct is not None and row.confidence == pytest.approx(row.logp / 5)  # type: ignore[operator]
