"""The slips of `benchmarks/mutations.py` are slips in the code of today."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from mutations import SLIPS, Slip, place_of  # noqa: E402 - a script, and no package


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.what)
def test_every_slip_has_its_place_and_its_tests(slip: Slip) -> None:
    assert place_of(slip) == 1 and slip.wrong != slip.right
    for name in slip.tests:
        assert (ROOT / name).exists(), name


def test_no_two_have_one_description() -> None:
    assert len({slip.what for slip in SLIPS}) == len(SLIPS)
