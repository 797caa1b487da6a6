"""What the pages print as Python runs as printed. Snippets of one page share their names, as in a reader's session."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from power_sampling import PowerSampler
from tests.support.pages import ROOT, run, snippets
from tests.support.tiny import tiny_model, tiny_tokenizer

HELD = {"README.md", "docs/server.md"}
"""Of these other tests run the snippets: test_readme.py, and those of the server."""

PAGES = sorted(
    name
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    if (name := str(path.relative_to(ROOT))) not in HELD and snippets(name)
)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What pages name without having made it: a model of the reader's, and files beside the program."""
    shutil.copy(ROOT / "examples" / "power_sampling.yaml", tmp_path)
    asked = [{"question": "What is 1 + 1?", "answer": "2"}, {"question": "What is 2 + 2?", "answer": "4"}]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, asked)))
    monkeypatch.chdir(tmp_path)
    return {"__name__": "page", "transformers_model": tiny_model(layers=1), "tokenizer": tiny_tokenizer()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")  # LangChain's
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_as_printed(page: str, names: dict[str, Any], embedded: PowerSampler) -> None:
    for snippet in snippets(page):
        shown = run(snippet, names)
        assert snippet.output is None or shown == snippet.output, f"{page}:{snippet.line}"
