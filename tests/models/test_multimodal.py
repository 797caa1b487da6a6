"""The text of models that see, loaded by name: most of them are no causal language models to transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from power_sampling import InputError, PowerSampler
from tests.support.architectures import SEEING, build_seeing, full_pass
from tests.support.tiny import tiny_tokenizer

PROMPTS = ["a", "some longer text", "middle"]
FEW = ("mistral3", "qwen2_5_vl", "qwen3_5")


@pytest.mark.parametrize("name", [pytest.param(x, marks=[] if x in FEW else [pytest.mark.slow]) for x in SEEING])
def test_a_folder_is_served_as_text(name: str, tmp_path: Path) -> None:
    model = build_seeing(name)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    served = PowerSampler.from_pretrained(
        str(tmp_path),
        sampler="metropolis_hastings",
        alpha=2.0,
        max_new_tokens=8,
        seed=1,
        logprobs=True,
        dtype="float32",
    )
    for prompt, answer in zip(PROMPTS, served.complete(PROMPTS), strict=True):
        expected = full_pass(model, tuple(served.encode(prompt)), tuple(answer.tokens))
        assert np.abs(np.array(answer.token_logp) - expected).max() < 1e-4  # float32
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    with pytest.raises(InputError, match="image"):
        served.generate([[{"role": "user", "content": [image]}]])
