"""A constraint that cannot be followed is refused, or ends its own request; whoever runs beside it never notices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from power_sampling import ConfigurationError, NoLegalCompletionError, PowerSampler, RequestFailedError
from power_sampling.text.guide import Guide
from power_sampling.text.stop import StopWatch
from tests.support.tiny import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


@pytest.fixture(scope="module")
def sampler() -> PowerSampler:
    return PowerSampler.from_model(tiny_model(layers=1), TOKENIZER, sampler="ancestral", max_new_tokens=24, seed=3)


def beside(sampler: PowerSampler, what: Any) -> tuple[Any, list[str], list[str]]:
    """What a call does while three requests run, and their texts then and alone."""
    alone = [sampler.complete(p, max_new_tokens=60).text for p in "abc"]
    streams = [sampler.stream(p, max_new_tokens=60) for p in "abc"]
    for stream in streams:
        next(iter(stream))
    try:
        outcome: Any = what()
    except Exception as error:  # noqa: BLE001 - its type is what is tested
        outcome = error
    texts = []
    for stream in streams:
        last = None
        for chunk in stream:
            last = chunk
        assert last is not None and last.completion is not None
        texts.append(last.completion.text)
    return outcome, texts, alone


REFUSED: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"json_schema": {"$ref": "#"}}, ConfigurationError),
    ({"regex": r"[^\s\S]"}, ConfigurationError),
    ({"regex": "x{99999999}"}, NoLegalCompletionError),
    ({"grammar": "start: start"}, ConfigurationError),
    ({"grammar": 'start: start "a"'}, ConfigurationError),
    ({"grammar": 'start: "a" start'}, NoLegalCompletionError),
    ({"grammar": "start: <|eos|>"}, ConfigurationError),
    ({"grammar": "start: <nobody>"}, ConfigurationError),
    ({"json_schema": {"type": "array", "minItems": 1, "items": {"$ref": "#"}}}, NoLegalCompletionError),
    ({"choices": ["x" * 2_000_000]}, ConfigurationError),
]


@pytest.mark.parametrize(("fields", "error"), REFUSED, ids=lambda v: f"{v!r:.40}")
def test_what_cannot_be_followed_is_refused_before_it_is_submitted(
    sampler: PowerSampler, fields: dict[str, Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = sampler._model.load().worker
    monkeypatch.setattr(worker, "submit_all", lambda _: pytest.fail("it was submitted"))
    with pytest.raises(error) as refused:
        sampler.complete("b", **fields)
    assert len(str(refused.value)) < 1200


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"choices": ["<|eos|>"]}, "<|eos|>"),
        ({"choices": ["x" * 5000, "y"]}, "y"),
        ({"choices": ["a/b\\n\n-[^{.&~#|*"], "max_new_tokens": 40}, "a/b\\n\n-[^{.&~#|*"),
        ({"grammar": 'start: <|end|> "a"'}, "a"),
        ({"grammar": 'start: start "a" | "b"', "max_new_tokens": 1}, "b"),
    ],
    ids=str,
)
def test_odd_constraints_that_can_be_followed(sampler: PowerSampler, fields: dict[str, Any], text: str) -> None:
    assert sampler.complete("b", **fields).text == text


def test_thousands_of_choices(sampler: PowerSampler) -> None:
    choices = [str(i) for i in range(3000)]
    assert sampler.complete("b", choices=choices).text in choices


class Panic(BaseException):
    """As libraries in other languages raise them."""


@pytest.mark.parametrize("fault", [ValueError("odd"), Panic("odd"), RecursionError("odd")], ids=repr)
@pytest.mark.parametrize("place", ["guide", "mask", "stop"])
def test_what_a_watch_raises_ends_its_own_request(
    sampler: PowerSampler, fault: BaseException, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise fault

    fields: dict[str, Any] = {"regex": "[ab]{3,9}"} if place != "stop" else {"stop": ["zz"]}

    def call() -> Any:
        with monkeypatch.context() as patched:
            sampler._model.load().rules._rule.cache_clear()
            if place == "stop":
                patched.setattr(StopWatch, "push", broken)
            else:
                sampler.complete("b", **fields)  # compiled and tried, so that it is the worker that meets the fault
                patched.setattr(Guide, "push" if place == "guide" else "allowed", broken)
            return sampler.complete("b", **fields)

    outcome, texts, alone = beside(sampler, call)
    assert isinstance(outcome, RequestFailedError) and "odd" in str(outcome), outcome
    assert texts == alone


def test_a_limit_that_is_not_proved_is_told() -> None:
    """A string of JSON could go on in more ways than can be walked through: it is closed in time, and said so."""
    runtime = PowerSampler.from_model(
        tiny_model(layers=1), TOKENIZER, sampler={"name": "metropolis_hastings", "num_steps": 2}, alpha=1.3, seed=1
    )
    schema = {"type": "string"}
    assert runtime.complete("a", json_schema=schema, max_new_tokens=6).diagnostics.exactness == "approximate"
    few = runtime.complete("a", choices=["yes", "no"], max_new_tokens=3)
    assert few.diagnostics.exactness == "asymptotic" and np.isfinite(few.logp)
