"""Where models go by themselves, and the way of numbers on a device without float64, on CPU tensors."""

from __future__ import annotations

import pytest
import torch

from power_sampling.engines.torch import backend, load
from power_sampling.engines.torch.devices import choice_device, default_device
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.testing import check_language_model
from power_sampling.types import Law, Termination
from tests.support.tiny import tiny_model


@pytest.mark.parametrize(("cuda", "mps", "device"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert default_device() == load.default_device() == device


def test_tokens_are_chosen_where_there_is_float64() -> None:
    assert choice_device(torch.device("mps")) == torch.device("cpu")
    for name in ("cpu", "cuda:1"):
        assert choice_device(torch.device(name)) == torch.device(name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a device beside the processor")
def test_the_laws_hold_where_tokens_are_chosen_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "choice_device", lambda device: torch.device("cpu"))
    engine = TorchLM(tiny_model(vocab_size=8, layers=1).to("cuda"), lag=False)
    check_language_model(engine, (1, 0, 2), num_draws=100)
    found = list(engine.ranked(engine.open((1, 0, 2), Termination(frozenset())), (3, 4), Law(1.0, 1.0, 1.0), 2))
    assert [len(top) for piece in found for top in piece] == [2, 2]


def test_memory_that_runs_out_there_is_known_by_its_words() -> None:
    engine = TorchLM(tiny_model(vocab_size=8, layers=1))
    said = "MPS backend out of memory (MPS allocated: 17.50 GB, other allocations: 384.00 KB, max allowed: 18.13 GB)."
    assert engine.backend.is_out_of_memory(RuntimeError(said))
    assert not engine.backend.is_out_of_memory(RuntimeError("something else"))
