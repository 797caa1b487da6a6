"""The text of models that see: most of them are no causal language models to transformers. A few are loaded by name; of
every architecture a tiny one is exact, or refused with a reason.

python -m tests.models.test_multimodal       prints the list of docs/models.md
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from power_sampling import InputError, PowerSampler
from tests.support.architectures import SEEING, build_seeing, full_pass
from tests.support.seeing import NOT_SEEN, SEEN, UNSEEN, tiny_seeing
from tests.support.tiny import tiny_tokenizer
from tests.support.verdicts import judged

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


@pytest.mark.slow
@pytest.mark.parametrize("model_type", [x for x in SEEN if x not in NOT_SEEN])
def test_every_architecture_that_sees_is_exact_or_refused(model_type: str) -> None:
    verdict = judged(tiny_seeing(model_type))
    assert verdict.is_exact != bool(verdict.refused), verdict
    assert bool(verdict.refused) == (model_type in UNSEEN), verdict


def lines() -> list[str]:
    """Of the page."""
    exact = [f"`{x}`" for x in SEEN if x not in UNSEEN and x not in NOT_SEEN]
    refused = [f"`{x}` ({UNSEEN[x]})" for x in SEEN if x in UNSEEN]
    built = [f"`{x}` ({NOT_SEEN[x]})" for x in SEEN if x in NOT_SEEN]
    found = [f"Of transformers' {len(SEEN)} architectures that see and write, the text of {len(exact)} is exact: "]
    return [
        found[0] + f"{', '.join(exact)}.",
        "",
        f"Refused: {', '.join(refused)}.",
        "",
        f"Not tried: {', '.join(built)}.",
    ]


if __name__ == "__main__":
    print("\n".join(lines()))
