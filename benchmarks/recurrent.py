"""What it costs that recurrent states cannot be cut: tokens fed by Metropolis-Hastings, hybrid against attention.

    python benchmarks/recurrent.py [HORIZON]

Random models of one size: Qwen 3, whose states are cut anywhere, and Qwen 3.5, one layer of two recurrent, with 0 to 16
snapshots of a row. Counted, not timed, so it is the same on every machine.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import transformers

from power_sampling.engines.stepped.snapshots import SNAPSHOTS
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.samplers import MetropolisHastings, NumpyRng
from power_sampling.testing import drive, run_draws
from power_sampling.types import Law, Termination

SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 200,
    "pad_token_id": None,
}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}


def model(config: Any) -> Any:
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def fed(lm: TorchLM, horizon: int, chains: int = 4) -> int:
    """Tokens that go through a model for some chains at the sampler's default settings, one after another."""
    for seed in range(chains):
        handle = lm.open((1, 2, 3, 4, 5), Termination(frozenset({0})))
        run = MetropolisHastings().run(Law(2.0, 1.0, 0.5), horizon, NumpyRng(seed), lambda: False)
        drive(run, lambda current, handle=handle: run_draws(lm, handle, current.draws))
    return lm.cost.row_steps + lm.cost.prefilled_tokens


def main() -> None:
    transformers.logging.set_verbosity_error()
    horizon = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    attention = fed(TorchLM(model(transformers.Qwen3Config(**SIZE))), horizon)
    print(f"completions of at most {horizon} tokens; attention feeds {attention} tokens")
    layers = ["linear_attention", "full_attention"]
    hybrid = model(transformers.Qwen3_5TextConfig(**SIZE, **DELTA, layer_types=layers))
    for snapshots in (0, 2, 4, SNAPSHOTS, 12, 16):
        tokens = fed(TorchLM(hybrid, snapshots=snapshots), horizon)
        mark = "  (default)" if snapshots == SNAPSHOTS else ""
        print(f"hybrid, {snapshots:2} snapshots: {tokens} tokens, {tokens / attention:.2f} times as many{mark}")


if __name__ == "__main__":
    main()
