"""A data set of traces rewritten: what becomes of the rows, when it was stopped or killed too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from power_sampling import ConfigurationError, PowerSampler
from power_sampling.cli import app
from power_sampling.evaluation import Bounds, rewrite
from tests.support.law import ALPHA, HORIZON, TABLE, assert_law, exact_law, table_tokenizer
from tests.support.tiny import tiny_model, tiny_tokenizer

MH: Any = {"name": "metropolis_hastings", "num_steps": 1, "prefetch": 0}


def table(**fields: Any) -> PowerSampler:
    given = {"sampler": MH, "alpha": ALPHA, "max_new_tokens": HORIZON, **fields}
    return PowerSampler.from_model(TABLE, table_tokenizer(), **given)


def traces(path: Path, completions: list[str], **further: Any) -> Path:
    rows = [{"prompt": "a", "completion": text, "id": i, **further} for i, text in enumerate(completions)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_traces_of_the_law_stay_traces_of_the_law(tmp_path: Path) -> None:
    """See `assert_law` for the probability of a false alarm."""
    law = exact_law(ALPHA)
    given = np.random.default_rng(3).choice(list(law), size=60, p=list(law.values())).tolist()
    told: list[tuple[int, int, int]] = []
    source = traces(tmp_path / "traces.jsonl", given)
    found = rewrite(table(), source, tmp_path / "out.jsonl", listener=lambda *numbers: told.append(numbers))
    rows = read(tmp_path / "out.jsonl")
    assert (found.done, found.total, found.failed) == (60, 60, 0) and told[-1] == (60, 60, found.tokens)
    assert [row["id"] for row in rows] == list(range(60)) and {row["prompt"] for row in rows} == {"a"}
    assert_law([row["completion"] for row in rows], law)
    assert any(row["completion"] != text for row, text in zip(rows, given, strict=True))
    assert found.tokens == sum(row["rewriting"]["tokens_decoded"] for row in rows)


def test_stopped_or_killed_at_any_moment_it_ends_with_the_same_rows(tmp_path: Path) -> None:
    source = traces(tmp_path / "traces.jsonl", ["ab", "b", "", "cab", "a", "bb"] * 3)
    rewrite(table(seed=4), source, tmp_path / "whole.jsonl")
    whole, out = read(tmp_path / "whole.jsonl"), tmp_path / "out.jsonl"
    few = rewrite(table(seed=4), source, out, bounds=Bounds(tokens=1, in_flight=2))
    assert 0 < few.done < few.total and read(out) == [row for row in whole if row in read(out)]
    log = tmp_path / "out.jsonl.run" / "log.jsonl"
    for size in (len(log.read_bytes()) - 30, 40, 0):
        log.write_bytes(log.read_bytes()[:size])
        assert rewrite(table(seed=4), source, out).done == 18
        assert read(out) == whole
    again = rewrite(table(seed=4), source, out, bounds=Bounds(seconds=0.0))
    assert again.done == 18 and read(out) == whole, "nothing is left to do"
    assert read(tmp_path / "whole.jsonl") != _under_another_seed(source, tmp_path)
    with pytest.raises(ConfigurationError, match="other settings"):
        rewrite(table(seed=4, alpha=3.0), source, out)
    traces(source, ["a"])
    with pytest.raises(ConfigurationError, match="other settings"):
        rewrite(table(seed=4), source, out)


def _under_another_seed(source: Path, folder: Path) -> list[dict[str, Any]]:
    rewrite(table(seed=5), source, folder / "other.jsonl")
    return read(folder / "other.jsonl")


def test_a_row_that_cannot_be_rewritten_stays_and_says_why(tmp_path: Path) -> None:
    source = traces(tmp_path / "traces.jsonl", ["ab", "abcabc"])
    found = rewrite(table(), source, tmp_path / "out.jsonl")
    kept = read(tmp_path / "out.jsonl")[1]
    assert found.failed == 1 and kept["completion"] == "abcabc"
    assert kept["rewriting"]["error"].startswith("InputError: start: it has 6 tokens")


@pytest.mark.parametrize("row", [{"prompt": "a"}, {"completion": "a"}, {"messages": "a", "completion": "b"}], ids=str)
def test_rows_that_are_no_traces_are_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    (tmp_path / "traces.jsonl").write_text(json.dumps(row))
    with pytest.raises(ConfigurationError, match="row 1: expected a text"):
        rewrite(table(), tmp_path / "traces.jsonl", tmp_path / "out.jsonl")
    with pytest.raises(ConfigurationError, match="makes no steps"):
        rewrite(table(sampler="best_of_n"), traces(tmp_path / "t.jsonl", ["a"]), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_the_command(tmp_path: Path) -> None:
    tiny_model(layers=1).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    source = traces(tmp_path / "traces.jsonl", ["it may be", "no"])
    chat = {"messages": [{"role": "user", "content": "hello"}], "completion": "it is"}
    with source.open("a") as file:
        file.write(json.dumps(chat) + "\n")
    asked = ["rewrite", str(source), "--out", str(tmp_path / "out.jsonl"), "--model", str(tmp_path / "model")]
    sampler = ["--sampler", "{name: metropolis_hastings, num_steps: 2}", "--alpha", "1.5"]
    result = CliRunner().invoke(app(), [*asked, *sampler, "--seed", "3"])
    assert result.exit_code == 0, result.output
    assert "3 of 3 rows" in result.stderr and "3 of 3 answers" in result.stderr and not result.stdout
    rows = read(tmp_path / "out.jsonl")
    assert all(row["rewriting"]["length"] <= 10 for row in rows), "as long as the longest trace"
    assert rows[2]["messages"] == chat["messages"]
    for out in ("/proc/out.jsonl", str(tmp_path)):
        refused = CliRunner().invoke(app(), [*asked, *sampler, "--out", out])
        assert refused.exit_code == 1 and refused.stderr.startswith("error: --out: ") and out in refused.stderr
    other = tmp_path / "other.jsonl"
    other.write_text("kept")
    missing = ["--out", str(other), "--model", "nobody/x", "--max-new-tokens", "4"]
    assert CliRunner().invoke(app(), [*asked, *missing]).exit_code == 1 and other.read_text() == "kept"
    refused = CliRunner().invoke(app(), [*asked, "--sampler", "ancestral"])
    assert refused.exit_code == 1 and "makes no steps" in refused.stderr
