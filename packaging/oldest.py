"""Prints constraints that hold every dependency of pyproject.toml at the oldest version it allows, all extras included.

python packaging/oldest.py [EXCEPT ...] > constraints.txt
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def oldest(pyproject: Path = PYPROJECT, *, without: Collection[str] = ()) -> Iterator[str]:
    """`name==version` for every dependency with a lower bound; where several are given, the highest of them."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    bounds: dict[str, Version] = {}
    for line in (*project["dependencies"], *(x for extra in project["optional-dependencies"].values() for x in extra)):
        requirement = Requirement(line)
        for part in requirement.specifier:
            if part.operator == ">=":
                found = Version(part.version)
                bounds[requirement.name] = max(found, bounds.get(requirement.name, found))
    return (f"{name}=={bound}" for name, bound in sorted(bounds.items()) if name not in without)


if __name__ == "__main__":
    print("\n".join(oldest(without=sys.argv[1:])))
