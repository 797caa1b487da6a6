"""Frameworks that reach the server by its address alone, each a program of its own in an environment of its own.

SERVED_GGUF names a GGUF file of an instruct model; the snippets are tried on it too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from power_sampling import PowerSampler
from power_sampling.server import app
from tests.support.scripted import ANSWER, example, hermes_call
from tests.support.server import is_idle, listening, spoken, until

ROOT = Path(__file__).parents[2]
CLIENTS = Path(__file__).parent / "clients"
PAGE = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
OTHERS = re.findall(r"```python\n(.*?)```", PAGE.partition("### Other frameworks")[2], flags=re.DOTALL)
NAMED = [re.findall(r"^(?:from|import) (\w+)", code, re.MULTILINE)[-1] for code in OTHERS]
FILE = os.environ.get("SERVED_GGUF", "")
ENVIRONMENT = Path(os.environ.get("CLIENTS_ENVIRONMENT", ROOT / ".venv-clients"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ENVIRONMENT.is_dir(), reason="make test-clients installs the frameworks and runs this"),
]


def rule(prompt: str) -> list[str]:
    """Calls those tools on offer that it has not called yet, one after the other, then answers."""
    said = "".join(turn.split("<|end|>")[0] for turn in prompt.split("<|assistant|>")[1:])
    new = [tool for tool in offered(prompt) if tool["name"] not in said]
    calls = [hermes_call(tool["name"], example(tool["parameters"])) for tool in new]
    answers = [ANSWER, '{"good": true, "marks": 3}']
    return [*calls, *(reversed(answers) if "JSON object" in prompt else answers)]


def offered(prompt: str) -> Iterator[dict[str, Any]]:
    """The functions behind `<tools>`, until something is no JSON."""
    rest = next((part for part in prompt.split("<tools>") if part.lstrip().startswith("{")), "")
    while rest.lstrip().startswith("{"):
        tool, end = json.JSONDecoder().raw_decode(rest.lstrip())
        yield tool["function"]
        rest = rest.lstrip()[end:]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    sampler = spoken(rule)
    with listening(app(sampler, name="M", api_keys=["key"])) as url:
        yield f"{url}/v1"
        until(lambda: is_idle(sampler))


@pytest.mark.parametrize("script", sorted(path.name for path in CLIENTS.glob("use_*")))
def test_a_program_of_another_framework(url: str, script: str) -> None:
    if script.endswith(".mjs"):
        (ENVIRONMENT / script).write_text((CLIENTS / script).read_text())  # packages are looked for beside the script
        command = ["node", str(ENVIRONMENT / script)]
    else:
        command = [str(ENVIRONMENT / "bin" / "python"), str(CLIENTS / script)]
    run([*command, url, ANSWER])


@pytest.mark.parametrize("code", OTHERS, ids=NAMED)
def test_a_snippet_of_the_page(url: str, code: str) -> None:
    assert ANSWER in run_snippet(url, code)


@pytest.fixture(scope="module")
def real_url() -> Iterator[str]:
    if not FILE:
        pytest.skip("SERVED_GGUF names no model")
    sampler = PowerSampler.from_pretrained(FILE, sampler="low_temperature", max_new_tokens=48, seed=1)
    with listening(app(sampler, name="M", api_keys=["key"])) as url:
        yield f"{url}/v1"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("code", OTHERS, ids=NAMED)
def test_a_snippet_of_the_page_on_a_real_model(real_url: str, code: str) -> None:
    assert "Paris" in run_snippet(real_url, code)


def run_snippet(url: str, code: str) -> str:
    keyed = code.replace('"none"', '"key"')
    return run([str(ENVIRONMENT / "bin" / "python"), "-c", f"BASE_URL = {url!r}\n{keyed}"])


def run(command: list[str]) -> str:
    """What a program prints. Nothing of ours is on its path; it asks nobody for prices of models, and remembers no
    answer of another server."""
    env = {**os.environ, "PYTHONPATH": "", "PYTHONWARNINGS": "ignore", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with tempfile.TemporaryDirectory() as empty:
        env["DSPY_CACHEDIR"] = empty
        ran = subprocess.run(command, capture_output=True, text=True, timeout=600, env=env)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    return ran.stdout
