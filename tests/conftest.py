"""What tests share: the embedded model, loaded once, and tiny random models that are exact and fast."""

from __future__ import annotations

import os
import random
import secrets

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from power_sampling import PowerSampler

pytest.register_assert_rewrite("tests.support")  # what asserts there says what it found, as in tests

torch.set_num_threads(1)  # tiny models spend their time waking threads up: four times faster on one


SEED = os.environ.get("TEST_SEED", "0")


def pytest_report_header() -> str:
    return f"TEST_SEED={SEED} (another value: other draws in every test)"


@pytest.fixture(autouse=True)
def _the_same_draws_in_every_run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests without a seed of their own get theirs from the test's name: who changes nothing sees nothing fail by
    chance, and what failed fails again. Not so: other processes, fixtures of a module, the order of threads."""
    monkeypatch.setattr(secrets, "randbits", random.Random(f"{SEED} {request.node.nodeid}").getrandbits)


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
