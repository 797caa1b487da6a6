"""`power-sampling serve` before it serves, and where its packages are missing."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from typer.testing import CliRunner

from power_sampling import PowerSampler
from power_sampling.cli import app as commands
from power_sampling.server import app
from tests.support.scripted import ANSWER
from tests.support.server import listening, spoken


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--host", "0.0.0.0"], "give --api-key, or --no-auth"),
        (["--host", "0.0.0.0", "--no-auth", "--api-key", "k"], "exclude each other"),
        (["--api-key", " "], "an empty key"),
        (["--api-key-file", "EMPTY"], "holds no key"),
        (["--api-key-file", "no-such-file"], "cannot read"),
        (["--api-key-file", "LATIN"], "is not UTF-8 (at byte 1)"),
        (["--alpha", "-1"], "alpha"),
        (["--sampler", "metropolis"], "Did you mean 'metropolis_hastings'?"),
        (["--set", "alhpa=2"], "Did you mean 'alpha'?"),
        (["--alpha", "2", "--set", "alpha=2"], "given twice"),
        (["--limit", "max_m=3"], "Did you mean 'max_n'?"),
        (["--limit", "max_n"], "expected NAME=VALUE"),
        (["--limit", "max_n=0"], "greater than or equal to 1"),
        (["--config", "no-such.yaml"], "Cannot read"),
        (["--port", "TAKEN"], "in use"),
        (["--host", "no.such.host.invalid", "--no-auth"], "give another one"),
        (["--host", "a" * 70, "--no-auth"], "give another one"),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_refused_before_anything_is_loaded(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "latin").write_bytes("ké".encode("latin-1"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = {name.upper(): str(tmp_path / name) for name in ("empty", "latin")}
        words |= {"TAKEN": str(taken.getsockname()[1])}
        named = [words.get(argument, argument) for argument in arguments]
        result = CliRunner().invoke(commands(), ["serve", "--model", "no/such", *named])
    assert result.exit_code == 1 and says in result.output.replace("\n", " ")


def test_without_its_packages_the_rest_works_and_the_error_says_what_to_install() -> None:
    code = """
import sys
sys.modules["starlette"] = sys.modules["uvicorn"] = None
from power_sampling import MissingDependencyError, server
from power_sampling.cli import app
app()
try:
    server.app
except MissingDependencyError as error:
    assert "pip install 'power-sampling[server]'" in str(error)
    sys.exit(7)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7


def test_it_can_be_mounted_elsewhere() -> None:
    sampler: PowerSampler = spoken(lambda _: [ANSWER])
    outer = Starlette(routes=[Mount("/llm", app(sampler, name="M", api_keys=["key"]))])
    with listening(outer) as url:
        assert httpx.get(f"{url}/llm/health").status_code == 200
        assert httpx.get(f"{url}/llm/v1/models").status_code == 401
        answer = httpx.get(f"{url}/llm/v1/models", headers={"authorization": "Bearer key"})
        assert answer.json()["data"][0]["id"] == "M"
