"""What tests share: the embedded model, loaded once, and tiny random models that are exact and fast."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from power_sampling import PowerSampler

pytest.register_assert_rewrite("tests.support")  # what asserts there says what it found, as in tests

torch.set_num_threads(1)  # tiny models spend their time waking threads up: four times faster on one


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own POWER_SAMPLING_* must not change what is tested."""
    for name in list(os.environ):
        if name.startswith("POWER_SAMPLING_") and name != "POWER_SAMPLING_CACHE":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def embedded() -> PowerSampler:
    """SmolLM2-135M-Instruct in float32. Held for the session, so the weights are loaded once."""
    return PowerSampler.from_pretrained("embedded", max_new_tokens=16)
