"""What the Dockerfile says is there: files, extras, versions, options, paths. It is not built here."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path

from typer.testing import CliRunner

from power_sampling.cache import CACHE_VARIABLE
from power_sampling.cli import app as commands
from power_sampling.server.documentation import openapi

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def instructions() -> list[tuple[str, str]]:
    """Its instructions with their arguments, in order, lines joined."""
    lines = [line for line in TEXT.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


def of(name: str) -> list[str]:
    return [rest for each, rest in instructions() if each == name]


def test_it_consists_of_instructions_that_docker_knows() -> None:
    known = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    names = [name for name, _ in instructions()]
    assert set(names) <= known and names[0] == "FROM" and names[-2:] == ["ENTRYPOINT", "CMD"]


def test_what_is_copied_is_there_and_not_kept_out() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for copied in of("COPY"):
        *sources, _ = copied.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    built = {"README.md", "LICENSE", *packages["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    assert built <= {source for copied in of("COPY") for source in copied.split()[:-1]}


def test_extras_and_versions_are_the_project_s() -> None:
    installed = " ".join(of("RUN"))
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", installed)
    assert {*extras.split(",")} <= PROJECT["optional-dependencies"].keys() and "server" in extras
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").split("\n")
    for pinned in re.findall(r"\b[\w-]+==[\d.]+", installed):
        assert pinned in constraints, pinned
    (python,) = re.findall(r"python:(\d+\.\d+)", of("FROM")[0])
    assert tuple(map(int, python.split("."))) >= (3, 11) and PROJECT["requires-python"] == ">=3.11"


def test_it_runs_as_nobody_special_and_keeps_what_it_loads_in_the_volume() -> None:
    names = [name for name, _ in instructions()]
    (user,) = of("USER")
    assert user not in ("root", "0") and f"useradd --create-home --uid 10001 {user}" in TEXT
    assert names.index("USER") > max(i for i, name in enumerate(names) if name in ("RUN", "COPY"))
    (volume,), (environment,) = of("VOLUME"), of("ENV")
    variables = dict(pair.split("=", 1) for pair in shlex.split(environment))
    assert variables.keys() == {"HF_HOME", CACHE_VARIABLE}
    assert all(fnmatch(path, f"{volume}/*") for path in variables.values())


def test_its_command_is_one_of_ours_and_its_health_a_path_of_ours() -> None:
    (entry,), (default,), (health,), (port,) = of("ENTRYPOINT"), of("CMD"), of("HEALTHCHECK"), of("EXPOSE")
    script, command, *options = [*json.loads(entry), *json.loads(default)]
    assert script in PROJECT["scripts"]
    told = CliRunner().invoke(commands(), [command, "--help"], env={"COLUMNS": "300", "TERM": "dumb"})
    assert told.exit_code == 0
    for option in options:
        assert not option.startswith("--") or option in told.output, option
    assert options[options.index("--port") + 1] == port and "--host" in options
    (address,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", health)
    assert address == (port, "/health") and "/health" in openapi()["paths"]
    program = json.loads(health[health.index("[") :])
    assert program[:2] == ["python", "-c"]
    compile(program[2], "health", "exec")


def test_the_page_says_how_to_run_it() -> None:
    page = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
    section = page[page.index("## In a container") :]
    key = json.loads(of("CMD")[0])[-1]
    assert key in section and "docker build" in section and "not been built" in section
