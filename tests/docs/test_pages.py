"""Pages name all there is: a table with a row missing is noticed here."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from power_sampling import Config, errors, load_config
from power_sampling.engines.options import ENGINES
from power_sampling.evaluation.tasks import TASKS
from power_sampling.samplers import BY_NAME
from power_sampling.text.formats import FAMILIES
from tests.support.pages import ROOT, page


def first_cells(name: str) -> list[str]:
    """What stands in backquotes at the beginning of a row of a table."""
    return re.findall(r"^\| `(\w+)`.*\|$", page(name), flags=re.MULTILINE)


def test_every_sampler_has_a_row() -> None:
    table = page("docs/samplers.md").split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)`.*\|.+\|.+\|.+\|$", table, flags=re.MULTILINE)
    assert sorted(rows) == sorted(["sampler", *BY_NAME])


def test_every_engine_has_a_row() -> None:
    assert set(first_cells("docs/engines.md")) >= set(ENGINES)


def test_every_format_and_every_task_has_a_row() -> None:
    rows = re.findall(r"^\| (`.*?) \|", page("docs/formats.md"), flags=re.MULTILINE)
    assert {family.family for family in FAMILIES} <= set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert set(first_cells("docs/evaluation.md")) >= set(TASKS)


def test_every_error_has_a_row_or_is_named_as_a_base() -> None:
    text = page("docs/troubleshooting.md")
    bases = {base.__name__ for each in vars(errors).values() if isinstance(each, type) for base in each.__bases__}
    public = {name for name in errors.__all__ if name.endswith("Error")}
    assert public - bases <= set(first_cells("docs/troubleshooting.md"))
    assert all(f"`{name}`" in text for name in public)


def test_the_settings_are_those_of_the_code() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "tools" / "configuration.py"))["written"]
    assert page("docs/configuration.md") == written(), "python docs/tools/configuration.py writes the page anew"


def test_the_settings_file_of_the_page_is_one(tmp_path: Path) -> None:
    (source,) = re.findall(r"```yaml\n(.*?)```", page("docs/configuration.md"), flags=re.DOTALL)
    (tmp_path / "power.yaml").write_text(source)
    config = load_config(tmp_path / "power.yaml")
    assert isinstance(config, Config) and config.model_fields_set == {"model", "sampler", "alpha", "max_new_tokens"}
