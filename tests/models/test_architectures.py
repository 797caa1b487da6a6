"""Every architecture, tiny and random: exact in the engine's hands, or refused with a reason.

python -m tests.models.test_architectures       prints the table of docs/models.md
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.architectures import PEOPLE_USE, build
from tests.support.every import EVERY, NOT_BUILT, REFUSED, tiny
from tests.support.verdicts import judged, kept_by

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


# others stand for them
KIN = {"falcon_mamba", "zamba", "zamba2", "lfm2_moe", "lfm3", "qwen3_5_moe_text", "qwen4_exp_text", "kimi_linear"}
KIN |= {"bamba", "glm_moe_dsa (GLM-5)", "minimax (text-01, M1)", "rwkv (4)", "xlstm"}


@pytest.mark.parametrize("name", [pytest.param(x, marks=[pytest.mark.slow] * (x in KIN)) for x in PEOPLE_USE])
def test_what_people_use_is_exact(name: str) -> None:
    verdict = judged(build(name))
    assert verdict.is_exact, verdict
    assert verdict.gap < (1e-12 if "sharing" in name or "dense" in name else 1e-10), "nothing is left to rounding"


@pytest.mark.slow
@pytest.mark.parametrize("model_type", [x for x in EVERY if x not in NOT_BUILT])
def test_every_causal_architecture_is_exact_or_refused(model_type: str) -> None:
    verdict = judged(tiny(model_type))
    assert verdict.is_exact != bool(verdict.refused), verdict
    assert bool(verdict.refused) == (model_type in REFUSED), verdict


def lines() -> list[str]:
    """Of the table."""
    found = ["| architecture | layers keep | in the engine |", "|---|---|---|"]
    for name in PEOPLE_USE:
        model = build(name)
        found.append(f"| {name} | {kept_by(model)} | {judged(model)} |")
    exact = [f"`{x}`" for x in EVERY if x not in REFUSED and x not in NOT_BUILT]
    built = [f"`{x}`" for x in NOT_BUILT]
    refused = [f"`{x}`" for x in EVERY if x in REFUSED]
    found += ["", f"Of transformers' {len(EVERY)} causal architectures {len(exact)} are exact: {', '.join(exact)}.", ""]
    return [*found, f"Refused: {', '.join(refused)}.", "", f"Not tried, for no tiny one was built: {', '.join(built)}."]


def test_the_page_has_a_line_for_each() -> None:
    page = PAGE.read_text()
    with torch.device("meta"):  # no weights
        kept = {name: kept_by(build(name)) for name in PEOPLE_USE}
    assert [name for name, words in kept.items() if f"| {name} | {words} | exact |" not in page] == []


if __name__ == "__main__":
    print("\n".join(lines()))
