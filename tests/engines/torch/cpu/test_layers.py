"""Layers that are written down answer as the model does; a model that they do not fit is refused or left as it is."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from power_sampling import PowerSampler, UnsupportedModelError
from power_sampling.config import ModelConfig
from power_sampling.engines.torch import prepare as preparing
from power_sampling.engines.torch.cpu import layers
from power_sampling.engines.torch.cpu.kernels import Kernels, operators
from power_sampling.engines.torch.cpu.layers import LlamaForward
from power_sampling.engines.torch.cpu.operators import Operators
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.engines.torch.kv import BatchCache, KeyValues
from power_sampling.engines.torch.plain import PlainForward
from power_sampling.engines.torch.prepare import prepare
from power_sampling.engines.torch.trial import Gap
from power_sampling.models import serve
from power_sampling.testing import check_language_model
from tests.support.tiny import tiny_model, tiny_tokenizer

MH = {"name": "metropolis_hastings", "block_size": 6, "num_steps": 3}
SMC = {"name": "sequential_monte_carlo", "num_particles": 4, "block_size": 3}
# heads of a length that loops of our own take; Mistral sees five slots, and so do some layers of this Qwen
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    "mistral": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
}


def model_of(name: str, dtype: torch.dtype) -> Any:
    model = tiny_model(name, dtype=dtype, head_dim=16, intermediate_size=64, **MODELS[name])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            if "norm" in parameter or "bias" in parameter:  # transformers fills them with ones and zeros
                value.add_(0.3 * torch.randn(value.shape, generator=generator, dtype=dtype))
    return model


def fed(forward: Any, cache: BatchCache, tokens: torch.Tensor, keep: Any) -> torch.Tensor:
    positions = torch.tensor(cache.lengths)[:, None] + torch.arange(tokens.shape[1])
    found: torch.Tensor = forward(tokens, positions, torch.tensor(cache.pads)[:, None], cache, keep)
    return found


def passes(forward: Any) -> list[torch.Tensor]:
    """A prompt in two pieces, forks of several lengths behind it, then steps and a longer piece; and all states."""
    tokens = torch.randint(300, (3, 30), generator=torch.Generator().manual_seed(2))
    cache = BatchCache()
    cache.enter([KeyValues()])
    found = [fed(forward, cache, tokens[:1, :9], 9), fed(forward, cache, tokens[:1, 9:12], torch.tensor([0, 2]))]
    states = KeyValues().extended(cache.last(0, 12), 12)
    cache = BatchCache()
    cache.enter([states, states.head(7), states.head(1)])
    for at in range(12, 22):
        found.append(fed(forward, cache, tokens[:, at : at + 1], 1))
    found.append(fed(forward, cache, tokens[:, 22:28], 2))
    cache.leave([0])
    found.append(fed(forward, cache, tokens[1:, 28:29], 1))
    return found + [x for row in range(2) for layer in cache.last(row, 8) if layer for x in layer]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("name", list(MODELS))
def test_logits_and_states_are_the_models(name: str, packs: bool, dtype: torch.dtype) -> None:
    model = model_of(name, dtype)
    assert layers.refusal(model) is None
    plain = PlainForward(model)
    with torch.inference_mode():
        for found, expected in zip(passes(LlamaForward(model, plain, packs=packs)), passes(plain), strict=True):
            assert found.shape == expected.shape and found.dtype == expected.dtype
            # norms of transformers are computed in float32, also those of a model in float64; sums of float32 are in
            # another order on every processor
            assert (found - expected).abs().max() < (1e-5 if dtype == torch.float64 else 5e-5) * expected.abs().max()


def test_answers_are_the_plain_models_token_for_token() -> None:
    """Several samplers, prompts of several lengths, forks and rows that come and go."""
    prompts = ["hello", "hi", "a much longer prompt than the others", "x"]
    model = model_of("mistral", torch.float64)
    for sampler in ("ancestral", MH, SMC):
        fields: dict[str, Any] = {"sampler": sampler, "alpha": 3.0, "max_new_tokens": 12, "seed": 1}
        plain = PowerSampler.from_model(model, tiny_tokenizer(), **fields)
        same = PowerSampler.from_model(model, tiny_tokenizer(), compile_layers=True, **fields)
        for one, other in zip(plain.generate(prompts, n=3), same.generate(prompts, n=3), strict=True):
            assert one.tokens == other.tokens
            assert one.logp == pytest.approx(other.logp, abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_the_engine_keeps_its_laws_by_loops_of_our_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(name, torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.bfloat16())  # which half of the bits are enough for
    asked = Counter[bool]()
    takes = Kernels._takes
    monkeypatch.setattr(Kernels, "_takes", lambda *x: asked.update([found := takes(*x)]) or found)
    forward = prepare(model, pack_weights=True)
    assert isinstance(forward, LlamaForward)
    check_language_model(TorchLM(model, forward=forward), (5, 6, 7), tolerance=2e-3, num_draws=200)
    assert asked[False] == 0 and (asked[True] > 0 or type(operators()) is Operators)


@pytest.mark.parametrize("pack_weights", [False, True])
def test_changed_weights_are_noticed(pack_weights: bool) -> None:
    model, other = (model_of("llama", torch.float32) for _ in range(2))
    forward = prepare(model, pack_weights=pack_weights, compile_layers=True)
    with torch.no_grad():
        for changed in (model, other):
            changed.model.layers[1].self_attn.k_proj.weight.mul_(2)
            changed.model.layers[1].mlp.down_proj.bias.add_(0.5)
    with torch.inference_mode():
        for found, expected in zip(passes(forward), passes(PlainForward(other)), strict=True):
            assert (found - expected).abs().max() < 5e-5 * expected.abs().max()


def test_a_trial_finds_layers_that_compute_something_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    windows = layers._windows
    monkeypatch.setattr(layers, "_windows", lambda config: [3, *windows(config)[1:]])
    model = model_of("llama", torch.float32)
    with caplog.at_level(logging.WARNING):
        assert isinstance(prepare(model, pack_weights=True), PlainForward)
    assert "LlamaForCausalLM is computed as transformers does: logits of a trial differ by" in caplog.text
    with pytest.raises(UnsupportedModelError, match=r"compile_layers: LlamaForCausalLM .* a trial differ by \d"):
        prepare(model_of("llama", torch.float32), compile_layers=True)
    monkeypatch.setattr(preparing, "gap_of", lambda *_: Gap(float("nan"), 1e-3))
    assert isinstance(prepare(model_of("llama", torch.float32), pack_weights=True), PlainForward)


def test_what_is_not_written_down_is_refused_and_left_as_it_was() -> None:
    def refused(model: Any, match: str) -> None:
        with pytest.raises(UnsupportedModelError, match=match):
            prepare(model, compile_layers=True)
        assert isinstance(prepare(model, pack_weights=False, is_own=True), PlainForward)

    for name in ("mixtral", "gpt2", "gemma3"):
        refused(
            tiny_model(name, layers=1), "(ForCausalLM|LMHeadModel) .* its layers are not written down .* Leave it out"
        )
    refused(tiny_model(layers=1).to("meta"), "not all on a CPU")
    refused(tiny_model(layers=1, dtype=torch.bfloat16), r"its weights are torch\.bfloat16, not float32")
    refused(tiny_model(layers=1, hidden_act="gelu"), "its activation is gelu, not silu")
    eager = tiny_model(layers=1)
    eager.config._attn_implementation = "eager"
    refused(eager, "its attention is eager, not sdpa")
    adapted = tiny_model(layers=1)
    adapted.model.layers[0].self_attn.q_proj = nn.Sequential(adapted.model.layers[0].self_attn.q_proj)
    refused(adapted, "its modules are not transformers' own: Sequential")
    steered = tiny_model(layers=1)
    steered.model.layers[0].register_forward_hook(lambda *_: None)
    refused(steered, "hooks or other code are attached")
    own = tiny_model(layers=1)
    own.__class__ = type("LlamaForCausalLM", (type(own),), {"__module__": "elsewhere"})  # may do anything
    refused(own, "its layers are not written down")


def test_one_field_asks_for_it() -> None:
    asked, not_asked = (
        serve(model_of("llama", torch.float32), tiny_tokenizer(), config, is_own=False).engine
        for config in (ModelConfig(compile_layers=True), ModelConfig())
    )
    assert isinstance(asked, TorchLM) and isinstance(not_asked, TorchLM)
    assert isinstance(asked.backend._forward, LlamaForward) and isinstance(not_asked.backend._forward, PlainForward)
