"""The names of well-known scripts give what PowerSampler gives, on tiny random models in float64."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from power_sampling import (
    ConfigurationError,
    ContextOverflowError,
    InputError,
    ModelNotFoundError,
    PowerSampler,
    batch_power_sample,
    load_model_and_tokenizer,
    power_sample,
)
from power_sampling.engines.torch.engine import TorchLM
from tests.support.tiny import gather, tiny_model, tiny_tokenizer

PROMPT = "hello"  # five tokens
QUICK: dict[str, Any] = {"block_size": 6, "steps": 3, "max_len": 17}


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    return tiny_model(layers=1), tiny_tokenizer()


def expected(pair: tuple[Any, Any], max_new_tokens: int, prompt: str = PROMPT, **fields: Any) -> str:
    moves = {"name": "metropolis_hastings", "block_size": 6, "num_steps": 3}
    sampler = PowerSampler.from_model(*pair, **{"sampler": moves, "alpha": 4.0, **fields})
    return sampler.complete(prompt, max_new_tokens=max_new_tokens).text


def test_is_the_completion_alone_and_the_same_for_a_seed(pair: tuple[Any, Any]) -> None:
    text = power_sample(*pair, PROMPT, **QUICK, seed=3)
    assert text == power_sample(*pair, PROMPT, **QUICK, seed=3) == expected(pair, 12, seed=3)
    assert len({power_sample(*pair, PROMPT, **QUICK, seed=seed) for seed in range(4)}) > 1


def test_alpha_and_temperature_are_of_the_base_law(pair: tuple[Any, Any]) -> None:
    text = power_sample(*pair, PROMPT, alpha=2.0, temperature=1.5, **QUICK, seed=0)
    assert text == expected(pair, 12, alpha=2.0, temperature=1.5, seed=0)
    with pytest.raises(ConfigurationError, match="num_steps"):
        power_sample(*pair, PROMPT, steps=0)


def test_moves_are_accepted(pair: tuple[Any, Any]) -> None:
    """With one block the chain starts at the draw of `low_temperature` for the same seed, and must leave it."""
    plain = PowerSampler.from_model(*pair, sampler="low_temperature", alpha=4.0, max_new_tokens=12)
    moved = [
        power_sample(*pair, PROMPT, steps=6, max_len=17, seed=s) != plain.complete(PROMPT, seed=s).text
        for s in range(4)
    ]
    assert sum(moved) >= 2


def test_eos_in_the_prompt_ends_nothing(pair: tuple[Any, Any]) -> None:
    prompt = "<|eos|>a<|eos|>b"
    assert power_sample(*pair, prompt, **{**QUICK, "max_len": 12}, seed=1) == expected(pair, 8, prompt, seed=1) != ""


def test_max_len_counts_the_prompt_and_the_window_bounds_it(pair: tuple[Any, Any]) -> None:
    model, tokenizer = tiny_model(layers=1), pair[1]
    model.config.max_position_embeddings = 20
    moves: dict[str, Any] = {"block_size": 6, "steps": 3, "seed": 2}
    assert power_sample(model, tokenizer, PROMPT, **moves) == expected((model, tokenizer), 15, seed=2)
    assert power_sample(model, tokenizer, PROMPT, max_len=6, **moves) == expected((model, tokenizer), 1, seed=2)
    with pytest.raises(ContextOverflowError, match="5 tokens; max_len is 5, the context window 20"):
        power_sample(model, tokenizer, PROMPT, max_len=5, **moves)
    with pytest.raises(ContextOverflowError, match="max_len is 2048, the context window 20"):
        power_sample(model, tokenizer, "a" * 20, **moves)


def test_a_batch_is_decoded_together_and_equals_its_single_calls(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ["hello", "hi", "good morning"]  # max_len leaves each another horizon
    holder = PowerSampler.from_model(*pair)
    engine = cast(TorchLM, holder._model.load().engine)

    def steps_of(call: Any) -> tuple[Any, int]:
        before = engine.cost.serial_steps
        return call(), engine.cost.serial_steps - before

    singles, serial = steps_of(lambda: [power_sample(*pair, prompt, **QUICK, seed=5) for prompt in prompts])
    gather(engine, len(prompts), monkeypatch)
    batch, together = steps_of(lambda: batch_power_sample(*pair, prompts, **QUICK, seed=5))
    assert batch == singles
    assert together < 0.7 * serial
    assert batch_power_sample(*pair, [], **QUICK) == []


def test_a_batch_refuses_before_it_runs(pair: tuple[Any, Any]) -> None:
    holder = PowerSampler.from_model(*pair)
    before = holder._model.load().engine.cost
    with pytest.raises(ContextOverflowError):
        batch_power_sample(*pair, ["fits", "a" * 17], **QUICK)
    with pytest.raises(InputError, match="power_sample takes that"):
        batch_power_sample(*pair, "one text")
    assert holder._model.load().engine.cost == before


def test_calls_share_a_worker_and_leave_no_threads(pair: tuple[Any, Any]) -> None:
    def workers() -> set[int | None]:
        return {t.ident for t in threading.enumerate() if t.name == "power-sampling"}

    before = workers()
    for seed in range(5):
        power_sample(*pair, PROMPT, **{**QUICK, "max_len": 7}, seed=seed)
    deadline = time.monotonic() + 10
    while len(workers() - before) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(workers() - before) <= 1

    holder = PowerSampler.from_model(*pair, max_new_tokens=1)
    holder.complete(PROMPT)
    thread = holder._model.load().worker._thread
    power_sample(*pair, PROMPT, **{**QUICK, "max_len": 7})
    assert holder._model.load().worker._thread is thread


def test_progress_is_shown_when_asked_for(pair: tuple[Any, Any], capsys: pytest.CaptureFixture[str]) -> None:
    batch_power_sample(*pair, [PROMPT, "hi"], **QUICK)
    assert capsys.readouterr().err == ""
    batch_power_sample(*pair, [PROMPT, "hi"], **QUICK, show_progress=True)
    shown = capsys.readouterr().err
    assert "1/2" in shown
    assert "2/2 100%" in shown
    assert "logp=" in shown


def test_loads_a_pair(pair: tuple[Any, Any], tmp_path: Path) -> None:
    for part in pair:
        part.save_pretrained(tmp_path)
    model, tokenizer = load_model_and_tokenizer(str(tmp_path), device=torch.device("cpu"), dtype=torch.float64)
    assert model.dtype == torch.float64
    assert power_sample(model, tokenizer, PROMPT, **QUICK, seed=3) == power_sample(*pair, PROMPT, **QUICK, seed=3)
    assert load_model_and_tokenizer(str(tmp_path), "cpu", "float32")[0].dtype == torch.float32
    with pytest.raises(ModelNotFoundError):
        load_model_and_tokenizer(str(tmp_path / "nothing"))
