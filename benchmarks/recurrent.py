"""What it costs that recurrent states cannot be cut: tokens fed by Metropolis-Hastings on a hybrid.

    python benchmarks/recurrent.py [HORIZON]

A random model of the size and kind of Qwen 3.5, one layer of two recurrent, with 0 to 16 snapshots of a row; beside it
what the same chains would be fed if states could be cut anywhere, as those of attention. Counted, not timed, so it is
the same on every machine.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import transformers

from power_sampling.config import GenerationConfig
from power_sampling.engines.stepped.snapshots import SNAPSHOTS
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.samplers import MetropolisHastings, NumpyRng
from power_sampling.testing import drive, run_draws
from power_sampling.types import Termination

SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 200,
    "pad_token_id": None,
    "initializer_range": 0.3,  # a law that is not flat, so that proposals are rejected
}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}


PROMPT = (1, 2, 3, 4, 5)
CHAINS = 4


def hybrid() -> Any:
    config = transformers.Qwen3_5TextConfig(**SIZE, **DELTA, layer_types=["linear_attention", "full_attention"])
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def fed(lm: TorchLM, horizon: int) -> tuple[int, int]:
    """Tokens that go through a model for some chains at the default settings, one after another; and those that would
    if states could be cut: prompts, and a token of every row at every step."""
    for seed in range(CHAINS):
        handle = lm.open(PROMPT, Termination(frozenset({0})))
        run = MetropolisHastings().run(GenerationConfig().law(), horizon, NumpyRng(seed), lambda: False)
        drive(run, lambda current, handle=handle: run_draws(lm, handle, current.draws))
    return lm.cost.row_steps + lm.cost.prefilled_tokens, lm.cost.row_steps + CHAINS * len(PROMPT)


def main() -> None:
    transformers.logging.set_verbosity_error()
    horizon = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    model = hybrid()
    print(f"completions of at most {horizon} tokens")
    for snapshots in (0, 2, 4, SNAPSHOTS, 12, 16):
        tokens, least = fed(TorchLM(model, snapshots=snapshots), horizon)
        mark = "  (default)" if snapshots == SNAPSHOTS else ""
        print(f"{snapshots:2} snapshots: {tokens} tokens fed, {tokens / least:.2f} times {least}{mark}", flush=True)


if __name__ == "__main__":
    main()
