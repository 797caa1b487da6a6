"""Whatever the OpenAPI document allows, and much that it does not, is answered or refused, and never by a 5xx."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error

from power_sampling import PowerSampler
from power_sampling.server import Limits, app
from tests.support.server import is_idle, until
from tests.support.tiny import tiny_model, tiny_tokenizer

LIMITS = Limits(max_n=3, max_tokens=4, max_effort=4, max_seconds=20)
EXAMPLES: Any = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "derandomize": True,
    "database": None,
    "phases": [Phase.explicit, Phase.generate],
}


def check(num_examples: int) -> Counter[int]:
    """How many answers had which status, over all operations of the server's own document."""
    sampler = PowerSampler.from_model(
        tiny_model(layers=1), tiny_tokenizer(), sampler="ancestral", alpha=1.5, max_new_tokens=4
    )
    application = app(sampler, name="M", limits=LIMITS)
    schema = schemathesis.openapi.from_asgi("/openapi.json", application)
    seen: Counter[int] = Counter()
    for result in schema.get_all_operations():
        operation: Any = result.ok()

        @given(case=operation.as_strategy())
        @settings(max_examples=num_examples, **EXAMPLES)
        def ask(case: Any) -> None:
            if isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = "M"  # else nearly all of them ask for another model
            response = case.call()
            seen[response.status_code] += 1
            case.validate_response(response, checks=[not_a_server_error])

        ask()
    until(lambda: is_idle(sampler))
    return seen


def test_no_request_is_answered_by_a_server_error() -> None:
    seen = check(10)
    assert seen[200] > 5 and seen[400] > 5, seen


@pytest.mark.slow
def test_no_request_of_many_is_answered_by_a_server_error() -> None:
    seen = check(600)
    assert seen[200] > 200 and seen[400] > 200, seen
