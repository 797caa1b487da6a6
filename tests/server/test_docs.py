"""What docs/server.md prints runs as printed, and its tables name all there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from power_sampling.server import Limits, app
from tests.support.scripted import ANSWER
from tests.support.server import listening, spoken

PAGE = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
OWN = PAGE.partition("### Other frameworks")[0]  # test_frameworks.py runs what stands under that heading
SNIPPETS = re.findall(r"```python\n(.*?)```", OWN, flags=re.DOTALL)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening(app(spoken(lambda _: [ANSWER]), name="M")) as url:
        yield url


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("code", SNIPPETS, ids=["openai", "langchain", "llamaindex", "http"])
def test_snippets_run(url: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(code, {"BASE_URL": f"{url}/v1"})
    assert ANSWER in capsys.readouterr().out


def test_limits_paths_and_metrics_have_their_rows(url: str) -> None:
    rows = "\n".join(re.findall(r"^\|.*\|$", PAGE, flags=re.MULTILINE))
    assert all(f"`{name}`" in rows for name in Limits.model_fields)
    for path in httpx.get(f"{url}/openapi.json").json()["paths"]:
        assert path.partition("/{")[0] in rows
    text = httpx.get(f"{url}/metrics").text
    for name in set(re.findall(r"^# HELP (power_sampling_\w+?)(?:_created)? ", text, flags=re.MULTILINE)):
        assert name.replace("requests_waiting", "requests_running") in rows, name
