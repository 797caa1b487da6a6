"""The example with a GGUF file, on the embedded model's under llama.cpp; and on one that EXAMPLE_GGUF names."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import pytest

from tests.support.examples import EXAMPLES
from tests.support.gguf import NEEDS_LLAMA_CPP
from tests.support.llamaindex import WORKFLOWS

FILE = os.environ.get("EXAMPLE_GGUF", "")
pytestmark = [NEEDS_LLAMA_CPP, WORKFLOWS, pytest.mark.slow]


@pytest.mark.parametrize("file", ["", *([FILE] if FILE else [])], ids=lambda file: Path(file).stem or "embedded")
def test_both_adapters_answer_from_one_file(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gguf_file.py", *([file] if file else [])])
    runpy.run_path(str(EXAMPLES / "gguf_file.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert "MiB, ready by llama_cpp in " in shown and "Paris" in shown and "Capital(city=" in shown
