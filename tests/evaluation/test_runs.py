"""Runs: what is drawn, what is kept, and that nothing of it depends on when the run was killed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from power_sampling import ConfigurationError, GenerationConfig, PowerSampler
from power_sampling.evaluation import Bounds, Table, load_task, log, make_plan, parse_methods, run
from power_sampling.evaluation.log import Answer, Log, read_log
from power_sampling.evaluation.plan import request_seed
from tests.support.killed_run import evaluated
from tests.support.tiny import tiny_model, tiny_tokenizer


def numbers(table: Table) -> list[Any]:
    """What a table says, clocks and waiting aside; to 10 digits, since the rows beside an answer move its rounding."""
    clocks = {"serial_steps", "seconds"}
    rows = [{f.name: getattr(row, f.name) for f in fields(row) if f.name not in clocks} for row in table.rows]
    return [rounded([rows, table.frontier]), [question.id for question in table.questions]]


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [rounded(part) for part in value]
    return float(f"{value:.10g}") if isinstance(value, float) else value


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """An uninterrupted run."""
    return evaluated(tmp_path_factory.mktemp("run") / "whole")


def test_every_method_answers_the_same_questions(whole: Table) -> None:
    assert [row.label.split("(")[0].strip() for row in whole.methods] == [
        "greedy",
        "low_temperature",
        "metropolis_hastings",
        "sequential_monte_carlo",
        "ancestral",
    ]
    assert len(whole.questions) == 8
    for row in whole.rows:
        assert len(row.per_question) == 8 and row.accuracy.low <= row.accuracy.value <= row.accuracy.high
    greedy, plain = whole.methods[0], whole.methods[-1]
    assert greedy.samples == 1 and plain.samples > 2  # the pool has grown until a vote costs as much as the others
    assert plain.pass_at[1] == pytest.approx(plain.accuracy.value)
    assert max(row.tokens for row in whole.methods) <= max(r.tokens for r in whole.rows if r.votes) + plain.tokens
    assert not any(row.is_short for row in whole.rows)


def test_answers_are_those_of_their_seeds(whole: Table) -> None:
    """An answer is a function of its place in the plan: it can be had again by itself."""
    sampler = PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), use_chat_template=False)
    for answer in list(whole.answers.values())[::17]:
        method = next(m for m in whole.plan.methods if m.label == answer.method)
        question = next(q for q in whole.questions if q.id == answer.question)
        again = sampler.with_generation(method.generation).complete(question.text, seed=request_seed(answer.key))
        assert (again.text, again.logp) == (answer.text, pytest.approx(answer.logp))
    assert len({answer.request_seed for answer in whole.answers.values()}) == len(whole.answers)


def killed(folder: Path, kills: int, seed: int) -> None:
    script = [sys.executable, "-m", "tests.support.killed_run", str(folder), str(kills), str(seed)]
    subprocess.run(script, check=True, cwd=Path(__file__).parents[2])


@pytest.mark.slow
def test_a_run_that_was_killed_has_the_table_of_one_that_was_not(whole: Table, tmp_path: Path) -> None:
    killed(tmp_path / "killed", kills=3, seed=1)
    assert len(read_log(tmp_path / "killed").sessions) >= 2
    assert numbers(evaluated(tmp_path / "killed")) == numbers(whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_ten_kills_and_the_same_table(whole: Table, tmp_path: Path, seed: int) -> None:
    killed(tmp_path / "killed", kills=10, seed=seed)
    assert numbers(evaluated(tmp_path / "killed")) == numbers(whole)


def test_a_log_cut_at_any_byte_can_be_gone_on_with(whole: Table, tmp_path: Path) -> None:
    with Log(tmp_path / "a", {"task": "t"}, {"m": {"alpha": 2}}) as log:
        for i in range(2):
            log.add(Answer(method="m", question="q", seed=0, sample=i, text="caf\u00e9 \u2028 \ud800 \r\n\t"))
    written = (tmp_path / "a" / "log.jsonl").read_bytes()
    for size in (*range(0, len(written), 11), len(written) - 1, len(written)):  # lines of no multiple of it
        (tmp_path / "a" / "log.jsonl").write_bytes(written[:size])
        kept = read_log(tmp_path / "a").answers
        with Log(tmp_path / "a", {"task": "t"}, {"m": {"alpha": 2}}) as log:
            assert log.answers == kept
            log.add(Answer(method="m", question="r", seed=0, sample=0))
        again = read_log(tmp_path / "a")
        assert len(again.answers) == len(kept) + 1 and again.facts == {"task": "t"} and "m" in again.methods


def test_a_larger_run_goes_on_with_a_smaller_one(whole: Table, tmp_path: Path) -> None:
    smaller = evaluated(tmp_path / "run", "greedy,ancestral", questions=3, samples=1)
    assert [q.id for q in smaller.questions] == [q.id for q in whole.questions[:3]]  # the order is the same
    before = (tmp_path / "run" / "log.jsonl").read_bytes()
    assert numbers(evaluated(tmp_path / "run")) == numbers(whole)
    assert (tmp_path / "run" / "log.jsonl").read_bytes().startswith(before)


def test_what_another_process_adds_before_it_ends_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Log(tmp_path, {"task": "t"}, {}):
        pass

    def got_late(file: Any, folder: Path) -> None:
        with (folder / "log.jsonl").open("ab") as other:
            other.write(b'{"kind": "session", "time": "now"}\n')

    monkeypatch.setattr(log, "_lock", got_late)
    with Log(tmp_path, {"task": "t"}, {}):
        pass
    assert [session["time"] for session in read_log(tmp_path).sessions] == ["now"]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    facts, methods = {"task": "t", "model": {"model": "a"}}, {"m": {"alpha": 2.0}}
    with Log(tmp_path, facts, methods), pytest.raises(ConfigurationError, match="Another process"):
        Log(tmp_path, facts, methods)
    with Log(tmp_path, {**facts, "task": "u"}, {"m": {"alpha": 3.0}}):  # without an answer nothing is bound
        pass
    with Log(tmp_path, facts, methods) as log:
        log.add(Answer(method="m", question="q", seed=0, sample=0))
    with pytest.raises(ConfigurationError, match=r"settings: model.model was 'a' and is 'b'"):
        Log(tmp_path, {**facts, "model": {"model": "b"}}, methods)
    with pytest.raises(ConfigurationError, match=r"m: alpha was 2\.0 and is 4\.0"):
        Log(tmp_path, facts, {"m": {"alpha": 4.0}})
    for alpha in (4.0, 5.0):
        with Log(tmp_path, facts, {"n": {"alpha": alpha}}):  # one more is welcome, and has no answer yet
            pass
    assert (read_log(tmp_path).facts, read_log(tmp_path).methods) == (facts, {**methods, "n": {"alpha": 5.0}})
    (tmp_path / "log.jsonl").write_text("no JSON\n")
    with pytest.raises(ConfigurationError, match="line 1 is no record of a run"):
        Log(tmp_path, facts, methods)
    with pytest.raises(ConfigurationError, match="holds no run"):
        read_log(tmp_path / "other")


@pytest.fixture
def short(tmp_path: Path) -> Any:
    """A run of few tokens under bounds."""
    data = tmp_path / "q.jsonl"
    data.write_text("".join(json.dumps({"question": f"{i}?", "answer": "1"}) + "\n" for i in range(10)))
    sampler = PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=4, use_chat_template=False)
    task = load_task("jsonl", data)

    def go(samplers: str = "ancestral,low_temperature", bounds: Bounds | None = None, **plan: Any) -> Table:
        methods, votes = parse_methods(samplers, sampler.generation)
        return run(sampler, task, make_plan(task, methods, votes, **plan), tmp_path / "run", bounds=bounds)

    return go


def test_bounds_leave_whole_questions_in_their_order(short: Any) -> None:
    whole_order = [q.id for q in short(questions=1).plan.questions]
    table = short(bounds=Bounds(tokens=30, in_flight=3))
    assert 1 <= len(table.questions) < 10 and table.planned == 10
    assert whole_order[0] == table.questions[0].id
    decoded = sum(answer.tokens_decoded for answer in table.answers.values())
    assert 30 <= decoded <= 30 + 3 * 4  # those under way are finished
    assert len(short(bounds=Bounds(tokens=30)).questions) == len(table.questions)  # the bound is of all sessions
    with pytest.raises(ConfigurationError, match="no question yet"):
        table_without(short(), "ancestral")


def table_without(table: Table, label: str) -> Table:
    from power_sampling.evaluation.table import table_of

    return table_of(table.plan, {k: a for k, a in table.answers.items() if a.method != label}, "t")


def test_what_cannot_be_answered_counts_as_wrong_and_is_counted(short: Any) -> None:
    table = short("ancestral,ancestral(max_new_tokens=4000)", questions=3)
    good, bad = table.methods
    assert (good.errors, bad.errors) == (0, 3)
    assert not bad.per_question.any() and bad.logp is None
    assert all("ContextOverflowError" in (a.error or "") for q in table.questions for a in table.of(bad.label, q))


def test_a_question_behind_a_gap_does_not_count(whole: Table) -> None:
    plan = whole.plan
    gap = plan.keys_of(plan.methods[2], plan.questions[3])[0]
    answers = {key: answer for key, answer in whole.answers.items() if key != gap}
    assert plan.answered(answers) == plan.questions[:3]


BASE = GenerationConfig(alpha=3.0, max_new_tokens=7)


def test_samplers_by_name_and_with_settings() -> None:
    methods, votes = parse_methods("greedy, metropolis_hastings(alpha=2, num_steps=4),vote", BASE)
    greedy, moves, pool = methods
    assert greedy.is_deterministic and greedy.generation.max_new_tokens == 7
    assert moves.label == "metropolis_hastings(alpha=2, num_steps=4)" and moves.generation.alpha == 2
    assert moves.generation.sampler.num_steps == 4 and moves.generation.sampler.prefetch == 0  # type: ignore[attr-defined]
    assert pool.label == "ancestral" and votes == ("vote",) and pool.generation.alpha == 3
    (given,), _ = parse_methods("metropolis_hastings(prefetch=8)", BASE)
    assert given.generation.sampler.prefetch == 8  # type: ignore[attr-defined]
    own = replace_sampler(BASE, {"name": "sequential_monte_carlo", "num_particles": 5})
    (inherited,), _ = parse_methods("sequential_monte_carlo", own)
    assert inherited.generation.sampler.num_particles == 5  # type: ignore[attr-defined]


def replace_sampler(base: GenerationConfig, sampler: dict[str, Any]) -> GenerationConfig:
    return GenerationConfig.parse({**dict(base), "sampler": sampler})


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        ("greedi", "Did you mean 'greedy'"),
        ("ancestral,ancestral", "named once"),
        ("", "name at least one"),
        ("ancestral(alpha)", "expected name=value"),
        ("ancestral(alpha=2,alpha=3)", "each once"),
        ("ancestral(alhpa=2)", "Did you mean 'alpha'"),
        ("metropolis_hastings(num_steps=-1)", "num_steps"),
        ("greedy(alhpa=2)", "Did you mean 'alpha'"),
        ("metropolis_hastings(num_stps=2)", "there is no setting 'num_stps'. Did you mean 'num_steps'"),
        ("metropolis_hastings(num_steps=2", r"'\)' is missing"),
        ("metropolis_hastings(alpha=2, num_steps=2", r"'\)' is missing"),
        ("metropolis_hastings num_steps=2)", r"'\(' is missing"),
        ("ancestral(stop=[a)", "stop is not YAML"),
        ("ancestral(())", "expected name=value"),
        ("ancestral((", "is missing"),
    ],
)
def test_what_names_no_sampler(specs: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse_methods(specs, BASE)


def test_short_names_and_odd_brackets_of_samplers() -> None:
    (short, odd), _ = parse_methods("mh(num_steps=2),marginal(parser='regex:[(]([0-9]+)')", BASE)
    assert short.label == "mh(num_steps=2)" and short.generation.sampler.name == "metropolis_hastings"
    assert odd.generation.sampler.name == "marginal"


def test_what_is_no_plan(tmp_path: Path) -> None:
    data = tmp_path / "q.jsonl"
    data.write_text('{"question": "a", "answer": "a"}\n')
    task = load_task("jsonl", data)
    methods, votes = parse_methods("vote", BASE)
    for changes, words in (
        ({"questions": 2}, "has 1, got 2"),
        ({"questions": 0}, "at least 1"),
        ({"samples": 0}, "at least 1"),
        ({"seeds": ()}, "different whole numbers"),
        ({"seeds": (1, 1)}, "different whole numbers"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            make_plan(task, methods, votes, **changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="votes cannot be counted"):
        make_plan(replace(task, is_votable=False), methods, votes)


def test_votes_over_a_pool_are_those_of_disjoint_groups(whole: Table) -> None:
    """Recounted by hand from the answers in the log."""
    from collections import Counter

    pool = next(row for row in whole.methods if row.label == "ancestral")
    shares = []
    for question in whole.questions:
        group = whole.of("ancestral", question)[: pool.samples]
        right = []
        for start in range(0, pool.samples - 2, 3):
            part = group[start : start + 3]
            heads = Counter(a.answer for a in part if a.answer is not None) or Counter({None: 3})
            best = max(part, key=lambda a: (heads[a.answer], a.logp))
            right.append(best.is_right)
        shares.append(np.mean(right))
    three = next(accuracy for n, _, accuracy in whole.frontier["vote"] if n == 3)
    assert three.value == pytest.approx(np.mean(shares))


def test_a_vote_as_a_sampler_reads_the_answers_of_the_task(tmp_path: Path) -> None:
    sampler = PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=2, use_chat_template=False)
    data = tmp_path / "q.jsonl"
    data.write_text("".join(f'{{"question": "{i}?", "answer": "{i}", "id": "{i}"}}\n' for i in range(3)))
    methods, _ = parse_methods("ancestral,marginal(num_completions=3),marginal(parser=exact)", sampler.generation)
    plan = make_plan(load_task("jsonl", data, grader="numeric"), methods, ())
    assert [m.generation.model_dump()["sampler"].get("parser") for m in plan.methods] == [None, "numeric", "exact"]
    table = run(sampler, load_task("jsonl", data, grader="numeric"), plan, tmp_path / "run")
    one = next(row for row in table.methods if row.label == "marginal(num_completions=3)")
    assert one.tokens > 3 and one.ess is not None and 1 <= one.ess <= 3
    unclear = load_task("jsonl", data, grader="regex")
    with pytest.raises(ConfigurationError, match=r"cannot be told. Name a parser, as in marginal\(parser=numeric\)"):
        make_plan(unclear, methods, ())
    assert make_plan(unclear, methods[2:], ()).methods == methods[2:]
