"""Checks that a tag may be released, and prints its notes: what CHANGELOG.md says under its version.

python packaging/release_notes.py v1.2.3
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOORS = ("langchain-power-sampling", "llama-index-llms-power-sampling")


def versions() -> dict[str, str]:
    """The version as every file that names it has it."""
    code = (ROOT / "power_sampling" / "__init__.py").read_text(encoding="utf-8")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    found = {
        "power_sampling/__init__.py": _only(r'^__version__ = "(.+)"$', code),
        "CITATION.cff": _only(r"^version: (.+)$", citation),
    }
    for name in DOORS:
        project = tomllib.loads((ROOT / "packaging" / name / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        found[f"packaging/{name}"] = project["version"]
        found[f"packaging/{name}, its dependency"] = _only(r"==(.+)$", project["dependencies"][0])
    return found


def notes(version: str, changelog: str) -> str:
    """The section of a version. Raises ValueError where there is none."""
    return _only(rf"(?ms)^## \[{re.escape(version)}\][^\n]*\n(.*?)(?=^## |\Z)", changelog).strip()


def _only(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise ValueError(f"expected something like {pattern!r}, found nothing")
    return found[1]


if __name__ == "__main__":
    released = sys.argv[1].removeprefix("v")
    others = {place: version for place, version in versions().items() if version != released}
    if others:
        sys.exit(f"The tag says {released}, but {others}.")
    try:
        print(notes(released, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")))
    except ValueError:
        sys.exit(f"CHANGELOG.md has no heading '## [{released}] - DATE'.")
