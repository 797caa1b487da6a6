"""What the README prints runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from power_sampling import Config, load_config
from power_sampling.samplers import BY_NAME

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python"), ids=["engine", "langchain", "llamaindex", "constraints"])
def test_snippets_run(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(code, {})
    assert capsys.readouterr().out.strip()


def test_the_configuration_file_is_one(tmp_path: Path) -> None:
    (source,) = blocks("yaml")
    (tmp_path / "power.yaml").write_text(source)
    config = load_config(tmp_path / "power.yaml")
    assert isinstance(config, Config) and config.model_fields_set == {"model", "sampler", "alpha", "max_new_tokens"}


def test_every_sampler_has_a_row_in_the_table() -> None:
    section = README.split("## Samplers")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)`.*\|.+\|.+\|.+\|$", section, flags=re.MULTILINE)
    assert sorted(rows) == sorted(["sampler", *BY_NAME]), "a row for each, under the heading"
