"""What is said of the project in more places than one is the same in all of them."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import llamaindex_power_sampling
import power_sampling

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("power_sampling", "langchain_power_sampling", "llamaindex_power_sampling")
LLAMA = ROOT / "packaging" / "llama-index-llms-power-sampling"


def script(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"tested_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def workflow(name: str) -> Any:
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))


def test_there_is_one_version() -> None:
    found = script(ROOT / "packaging" / "release_notes.py").versions()
    assert len(found) == 6 and set(found.values()) == {power_sampling.__version__}


def test_notes_of_a_release_are_its_section_of_the_changelog() -> None:
    notes = script(ROOT / "packaging" / "release_notes.py").notes
    changelog = "# C\n\n## [Unreleased]\n- x\n\n## [1.2.3] - 2026-12-01\n- y\n- z\n\n## [1.2.2]\n- w\n"
    assert (notes("1.2.3", changelog), notes("1.2.2", changelog)) == ("- y\n- z", "- w")
    with pytest.raises(ValueError, match="found nothing"):
        notes("1.2.4", changelog)


def test_there_is_one_address() -> None:
    home = PROJECT["urls"]["Homepage"]
    for path in (*ROOT.glob("packaging/*/*.*"), *ROOT.glob("packaging/*/listing/*"), ROOT / "CITATION.cff"):
        for found in re.findall(r"https://github\.com/[\w.-]+/power-sampling\b", path.read_text(encoding="utf-8")):
            assert found == home, path


def test_what_is_tested_is_what_is_promised() -> None:
    matrix = workflow("test")["jobs"]["default"]["strategy"]["matrix"]
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert matrix["python"] == promised and PROJECT["requires-python"] == f">={promised[0]}"
    assert len(matrix["os"]) == sum("Operating System" in line for line in PROJECT["classifiers"])


def test_workflows_call_targets_that_there_are() -> None:
    targets = set(re.findall(r"^([\w-]+(?: [\w-]+)*):(?! export)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    known = {name for line in targets for name in line.split()} | {"docs-test"}
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        called = set(re.findall(r"\bmake ([\w-]+)", path.read_text(encoding="utf-8")))
        assert called <= known, path.name


def test_every_dependency_has_a_lowest_version() -> None:
    """`make test-oldest` tries it."""
    asked = [*PROJECT["dependencies"], *(x for extra in PROJECT["optional-dependencies"].values() for x in extra)]
    without = {line for line in asked if ">=" not in line and not line.startswith(("power-sampling[", "types-"))}
    assert not without


def test_every_extra_is_tried_alone_or_said_to_be_tried_elsewhere() -> None:
    each = script(ROOT / "packaging" / "each_extra.py")
    assert sorted([*each.EXTRAS, *each.ELSEWHERE]) == sorted(PROJECT["optional-dependencies"])


def test_packages_say_that_they_are_typed() -> None:
    assert all((ROOT / package / "py.typed").is_file() for package in PACKAGES)
    assert (LLAMA / "llama_index" / "llms" / "power_sampling" / "py.typed").is_file()


def test_the_path_of_llamaindex_has_the_names_of_the_adapter() -> None:
    # namespaces, or the wheel would shadow LlamaIndex's own
    assert not list(LLAMA.glob("llama_index/__init__.py")) and not list(LLAMA.glob("llama_index/llms/__init__.py"))
    alias = script(LLAMA / "llama_index" / "llms" / "power_sampling" / "__init__.py")
    for name in alias.__all__:
        assert getattr(alias, name) is getattr(llamaindex_power_sampling, name)
    hub = tomllib.loads((LLAMA / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["llamahub"]
    assert hub["import_path"] == "llama_index.llms.power_sampling" and set(hub["class_authors"]) <= set(alias.__all__)


READMES = [
    (path, code)
    for path in sorted(ROOT.glob("packaging/*/README.md"))
    for code in (re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL))
]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "code"), READMES, ids=lambda x: x.parent.name if isinstance(x, Path) else "")
def test_snippets_of_the_doors_run(path: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import llama_index.llms

    monkeypatch.setattr(llama_index.llms, "__path__", [*llama_index.llms.__path__, str(LLAMA / "llama_index" / "llms")])
    exec(code, {})


@pytest.mark.slow
def test_the_guide_for_langchains_docs_runs() -> None:
    guide = (ROOT / "packaging/langchain-power-sampling/listing/chat.mdx").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for code in re.findall(r"^ *```python[^\n]*\n(.*?)```", guide, flags=re.DOTALL | re.MULTILINE):
        lines = code.split("\n")
        indent = len(lines[0]) - len(lines[0].lstrip())
        exec("\n".join(line[indent:] for line in lines), names)
    assert "Mars" in names["response"].text
