"""Programs compared as a whole, what they cost, and the graders in both frameworks' evaluators."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langsmith.evaluation import run_evaluator
from langsmith.schemas import Example, Run
from llama_index.core.base.response.schema import Response

from langchain_power_sampling import ChatPowerSampling
from langchain_power_sampling.evaluators import grading
from llamaindex_power_sampling.evaluators import GradingEvaluator
from power_sampling import ConfigurationError, PowerSampler, RequestTimeoutError, metered
from power_sampling.evaluation import load_task, run_programs
from power_sampling.evaluation.log import read_log
from power_sampling.evaluation.programs import answer_text
from power_sampling.evaluation.verdicts import verdict
from tests.support.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def sampler() -> PowerSampler:
    return PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=5, sampler="ancestral")


def sums(folder: Path) -> Any:
    rows = [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(12)]
    path = folder / "sums.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return load_task("jsonl", path, grader="numeric")


def right(question: str) -> str:
    return f"That is {int(question.split()[0]) + 1}."


def test_programs_of_any_kind_answer_the_same_questions(sampler: PowerSampler, tmp_path: Path) -> None:
    async def asked(question: str) -> AIMessage:
        (completion,) = await sampler.agenerate([question], seed=1)
        return AIMessage(f"{completion.text[:0]}12")

    def chain(question: str) -> dict[str, Any]:
        drawn = sampler.generate([question, question], seed=2)
        assert len(drawn) == 2
        return {"messages": [AIMessage("?"), AIMessage(right(question))]}

    table = run_programs(sums(tmp_path), {"chain": chain, "asked": asked, "free": right}, tmp_path / "run")
    by = {row.label: row for row in table.rows}
    assert by["chain"].accuracy.value == by["free"].accuracy.value == 1.0
    assert by["asked"].accuracy.value == pytest.approx(1 / 12)
    answers = read_log(tmp_path / "run").answers.values()
    for answer in answers:
        drawn = {"chain": 2, "asked": 1, "free": 0}[answer.method]
        assert drawn <= answer.tokens_decoded <= 5 * drawn
    assert any("Real: chain is better than asked" in sentence for sentence in verdict(table))


def test_a_run_goes_on_and_errors_of_ours_count_as_wrong(tmp_path: Path) -> None:
    calls: list[str] = []

    def late(question: str) -> str:
        calls.append(question)
        raise RequestTimeoutError("too late")

    def broken(question: str) -> str:
        raise ZeroDivisionError("a program's own fault")

    task = sums(tmp_path)
    table = run_programs(task, {"late": late}, tmp_path / "run", questions=3)
    assert table.rows[0].accuracy.value == 0 and table.rows[0].errors == 3
    run_programs(task, {"late": late}, tmp_path / "run", questions=4)
    assert len(calls) == 4, "what is in the log is not asked again"
    with pytest.raises(ZeroDivisionError, match="own fault"):
        run_programs(task, {"broken": broken}, tmp_path / "other", questions=2)
    with pytest.raises(ConfigurationError, match="expected names and callables"):
        run_programs(task, {}, tmp_path / "other")
    with pytest.raises(ConfigurationError, match="A program answered 3;"):
        run_programs(task, {"three": lambda _: 3}, tmp_path / "third", questions=1)


@pytest.mark.parametrize(
    "given",
    [
        "a",
        AIMessage("a"),
        {"output": "a"},
        {"messages": [AIMessage("b"), AIMessage("a")]},
        Response("a"),
        {"text": "a"},
    ],
    ids=lambda given: type(given).__name__,
)
def test_texts_of_answers(given: Any) -> None:
    assert answer_text(given) == "a"


def test_a_meter_counts_what_is_drawn_within_it_and_nothing_else(sampler: PowerSampler) -> None:
    sampler.complete("outside")
    with metered() as outer:
        one = sampler.complete("a", seed=1)
        with metered() as inner:
            list(sampler.stream("b", seed=2))
            asyncio.run(sampler.agenerate(["c", "d"], seed=3))
        with ThreadPoolExecutor() as pool:
            pool.submit(copy_context().run, sampler.complete, "e").result()
            pool.submit(sampler.complete, "in a thread that knows of no meter").result()
    sampler.complete("outside")
    assert (inner.completions, outer.completions) == (3, 5)
    assert outer.tokens_decoded > inner.tokens_decoded + one.diagnostics.tokens_decoded - 1
    chat = ChatPowerSampling.from_model(tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=3, sampler="ancestral")
    with metered() as cost:
        chat.batch(["a", "b", "c"])
    assert cost.completions == 3 and 3 <= cost.tokens_decoded <= 9


def test_langsmith_runs_the_graders() -> None:
    ids: dict[str, Any] = {"id": "00000000-0000-0000-0000-000000000001"}
    for outputs, score in (({"output": "So it is 4."}, True), ({"output": AIMessage("5")}, False)):
        run = Run(name="r", run_type="chain", start_time="2026-01-01T00:00:00", inputs={}, outputs=outputs, **ids)
        example = Example(inputs={}, outputs={"answer": "4"}, dataset_id=ids["id"], **ids)
        result: Any = run_evaluator(grading("numeric"))(run, example)
        assert (result.key, result.score) == ("numeric", score)
    graded = grading("choice", output_key="said", reference_key="letter")
    kept = {"letter": "B", "why": "x"}
    assert graded(outputs={"said": "The answer is (B).", "text": "A"}, reference_outputs=kept)["score"] is True
    with pytest.raises(ConfigurationError, match=r"reference_outputs: expected one value, got \['letter', 'why'\]"):
        grading()(outputs="a", reference_outputs=kept)
    with pytest.raises(ConfigurationError, match="reference_outputs: expected an answer"):
        grading()(outputs="a")
    with pytest.raises(ConfigurationError, match="there is no 'nobody'"):
        grading("nobody")


def test_llamaindex_runs_the_graders() -> None:
    passed = GradingEvaluator("numeric").evaluate(query="2 + 2?", response="It is 4.", reference="4")
    assert (passed.passing, passed.score, passed.feedback) == (True, 1.0, "The answer was read as '4'.")
    failed = GradingEvaluator("numeric").evaluate_response("2 + 2?", Response("Who knows?"), reference="4")
    assert (failed.passing, failed.score, failed.feedback) == (False, 0.0, "No answer was found.")
    with pytest.raises(ConfigurationError, match="give both"):
        GradingEvaluator().evaluate(query="a", response="b")
