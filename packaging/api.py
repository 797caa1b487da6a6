"""What changed in the public names since a tag. Exits with 1 where somebody's code would break, and names each place.

    python packaging/api.py [REVISION]      without one: the last tag

Public are the names in `__all__` of the modules below; where they are defined is nobody's business.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import griffe

ROOT = Path(__file__).parents[1]
PUBLIC = {
    "power_sampling": ("evaluation", "integrations", "server", "testing"),
    "langchain_power_sampling": ("testing",),
    "llamaindex_power_sampling": ("testing",),
}


def main(revision: str | None) -> int:
    against = revision or last_tag()
    if against is None:
        print("There is no tag yet, so there is nothing to compare with.")
        return 0
    num_breaks = 0
    for package, modules in PUBLIC.items():
        old = griffe.load_git(package, ref=against, repo=ROOT, resolve_aliases=True)
        new = griffe.load(package, search_paths=[ROOT], resolve_aliases=True)
        for one in (old, new):
            for name, module in one.modules.items():
                module.public = name in modules  # griffe takes every module for public that has no underscore
        for breakage in griffe.find_breaking_changes(old, new):
            num_breaks += 1
            print(breakage.explain(griffe.ExplanationStyle.ONE_LINE))
    print(f"{num_breaks} breaking changes of public names since {against}.")
    return int(num_breaks > 0)


def last_tag() -> str | None:
    found = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
