"""The suite for LlamaIndex LLMs on ours: no skip but for text that settles at the end, no expected failure."""

from __future__ import annotations

from typing import Any, ClassVar

from tests.support.conformance import TinyTests
from tests.support.llamaindex import WORKFLOWS

pytestmark = WORKFLOWS


class TestAncestral(TinyTests):
    sampler: ClassVar[dict[str, Any]] = {"name": "ancestral"}


class TestMetropolisHastings(TinyTests):
    sampler: ClassVar[dict[str, Any]] = {"name": "metropolis_hastings", "block_size": 90, "num_steps": 1}
    streams_text_as_it_comes: ClassVar[bool] = False
