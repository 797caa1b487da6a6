"""Imports point one way, and importing the packages loads no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import langchain_power_sampling
import llamaindex_power_sampling
import power_sampling

ROOT = Path(__file__).parent.parent
PACKAGES = ("power_sampling", "langchain_power_sampling", "llamaindex_power_sampling")

# a file may import from files of lower rank and, within the folders, from its own
RANK = {
    "errors": 0,
    "types": 0.5,
    "cache": 1,
    "settings": 1,
    "files": 1,
    "text": 1,
    "engines.options": 2,
    "samplers": 2,
    "names": 1,
    "potentials": 2,
    "fields": 3,
    "vote": 1,
    "config": 3,
    "sources": 4,
    "engines": 4,
    "serving": 5,
    "models": 6,
    "metering": 1,
    "progress": 1,
    "frames": 1,
    "base_law": 4,
    "prepared": 6.5,
    "configured": 6.7,
    "reading": 6.7,
    "resuming": 6.8,
    "runtime": 7,
    "tracing": 7.5,
    "integrations": 8,
    "testing": 8,
    "evaluation": 8,
    "compat": 8,
    "server": 8.5,
    "cli": 9,
    "__main__": 10,
    "__init__": 9,
}
PUBLIC = {
    "power_sampling.evaluation",
    "power_sampling.integrations",
    "power_sampling.testing",
}  # beside power_sampling itself
FRAMEWORKS = {"langchain_core", "langchain", "llama_index"}


def modules() -> list[tuple[str, Path]]:
    return [(package, path) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
    return found


def part(module: str) -> str:
    pieces = module.split(".")
    if pieces[1:3] == ["engines", "options"]:  # settings, which the configuration is made of
        return "engines.options"
    return pieces[1] if len(pieces) > 1 else "__init__"


@pytest.mark.parametrize(("package", "path"), modules(), ids=lambda x: x if isinstance(x, str) else x.name)
def test_imports_point_one_way(package: str, path: Path) -> None:
    names = imported(path)
    if package != "power_sampling":  # adapters use the engine's public names only, and never each other
        others = {p for p in PACKAGES if p not in (package, "power_sampling")}
        assert not {n for n in names if n.split(".")[0] in others}
        assert not {n for n in names if n.startswith("power_sampling.")} - PUBLIC
        return
    assert not {n for n in names if n.split(".")[0] in FRAMEWORKS | set(PACKAGES[1:])}
    own = part(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for name in names:
        if name.split(".")[0] == "power_sampling" and part(name) != own:
            assert RANK[part(name)] < RANK[own], f"{path.name} imports {name}"
    if own in ("samplers", "serving", "engines.options") or "stepped" in path.parts or path.parent.name == "engines":
        assert not {n for n in names if n.split(".")[0] in ("torch", "transformers")}


def test_no_test_module_imports_another() -> None:
    """What several share lies in tests/support."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for name in imported(path):
            if name.split(".")[0] == "tests":
                assert f"{name}.".startswith("tests.support."), f"{path.relative_to(ROOT)} imports {name}"


def names_of_modules() -> dict[str, Path]:
    found = {}
    for _, path in modules():
        pieces = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(pieces[:-1] if pieces[-1] == "__init__" else pieces)] = path
    return found


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Not even for a type. A package's `__init__` gathers the names of its files, and is no part of a circle."""
    paths = names_of_modules()
    imports = {name: imported(path) & paths.keys() for name, path in paths.items() if path.stem != "__init__"}
    open_ones: list[str] = []
    done: set[str] = set()

    def visit(name: str) -> None:
        assert name not in open_ones, " imports ".join([*open_ones[open_ones.index(name) :], name])
        if name not in done:
            open_ones.append(name)
            for other in imports.get(name, ()):
                visit(other)
            done.add(open_ones.pop())

    for name in imports:
        visit(name)


CONSTRUCTED = {
    "power_sampling": "PowerSampler.from_pretrained('no/such', alpha=2.0)",
    "langchain_power_sampling": "PowerSamplingLLM(model='no/such'), ChatPowerSampling(model='no/such', alpha=2.0)",
    "llamaindex_power_sampling": "PowerSamplingLLM(model='embedded').to_json()",
}


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_and_constructing_load_no_torch(package: str) -> None:
    code = f"import sys\nfrom {package} import *\n{CONSTRUCTED[package]}\n"
    code += "sys.exit({'torch', 'transformers', 'langchain', 'starlette', 'uvicorn'} & set(sys.modules) or None)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_exist_and_are_documented() -> None:
    for package in (power_sampling, langchain_power_sampling, llamaindex_power_sampling):
        for name in package.__all__:
            assert hasattr(package, name), name
            if name != "__version__":
                assert getattr(package, name).__doc__, name


@pytest.mark.parametrize(("package", "path"), modules(), ids=lambda x: x if isinstance(x, str) else x.name)
def test_a_file_and_a_class_can_be_read_at_one_go(package: str, path: Path) -> None:
    """Under 400 lines; at most 20 methods, properties and overloads aside."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            methods = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
            asides = {"property", "overload", "cached_property"}
            plain = [m for m in methods if not asides & {ast.unparse(d).split(".")[-1] for d in m.decorator_list}]
            assert len(plain) <= 20, f"{node.name} has {len(plain)}"
