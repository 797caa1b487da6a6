"""What the README prints runs as printed, and prints what it says."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from power_sampling import PowerSampler
from power_sampling.samplers import BY_NAME
from tests.support.pages import Snippet, page, run, snippets

README = page("README.md")


@pytest.mark.slow
@pytest.mark.parametrize("snippet", snippets("README.md"), ids=["langchain", "llamaindex"])
def test_snippets_print_what_they_are_said_to(snippet: Snippet, embedded: PowerSampler) -> None:
    assert run(snippet, {}) == snippet.output


@pytest.fixture
def console() -> list[tuple[list[str], str]]:
    """The commands of the README's session with a server, each with what it prints."""
    (session,) = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
    spoken = re.findall(r"^\$ (.*?[^,])\n(.*?)(?=^\$ |\Z)", session, flags=re.DOTALL | re.MULTILINE)
    return [(shlex.split(command), output) for command, output in spoken]


@pytest.fixture
def url(console: list[tuple[list[str], str]]) -> Iterator[str]:
    """Of a server that the README's command started, at another port, once it says that it serves."""
    (command, said), _ = console
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "power_sampling", *command[1:], "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        told = next(line for line in process.stderr if line.startswith("serving"))
        assert told.replace(str(port), "8000") == said
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.slow
def test_the_server_answers_as_printed(console: list[tuple[list[str], str]], url: str) -> None:
    _, (curl, said) = console
    body, reader = json.loads(curl[curl.index("-d") + 1]), curl[curl.index("|") + 1 :]
    assert curl[:3] == ["curl", "-s", "http://127.0.0.1:8000/v1/chat/completions"]
    assert reader == ["jq", "-r", ".choices[0].message.content"]
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300).json()
    assert answer["choices"][0]["message"]["content"] + "\n" == said


def test_its_samplers_are_samplers() -> None:
    section = README.split("## Take this sampler when")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (.*?) \|", section, flags=re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert named - {"sampler"} <= set(BY_NAME) and "metropolis_hastings" in named


def test_its_length_is_that_of_a_readme() -> None:
    lines = README.splitlines()
    assert len(lines) <= 100 and max(map(len, lines)) <= 140
