"""Compiled layers answer as the model does, and a model that cannot be compiled is refused and left as it was."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from typing import Any

import pytest
import torch

from power_sampling import PowerSampler, UnsupportedModelError
from power_sampling.config import ModelConfig
from power_sampling.engines.torch.cpu import attention, compiled, packed
from power_sampling.engines.torch.cpu.compiled import compile_layers
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.models import serve
from power_sampling.testing import check_language_model
from tests.support.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="compiling takes a C++ compiler"
)
MH = {"name": "metropolis_hastings", "block_size": 6, "num_steps": 3}
SMC = {"name": "sequential_monte_carlo", "num_particles": 4, "block_size": 3}


def is_compiled(model: Any) -> bool:
    return all(isinstance(vars(layer).get("forward"), compiled._Forward) for layer in model.model.layers)


def is_as_it_was(model: Any) -> bool:
    return not any("forward" in vars(layer) for layer in model.modules())


def exact_model() -> Any:
    """In float64, its norms too, which transformers computes in float32: rounding decides no token."""
    model = tiny_model(layers=4)  # two blocks of two
    for layer in model.model.layers:
        for name in ("input_layernorm", "post_attention_layernorm"):
            norm = torch.nn.RMSNorm(model.config.hidden_size, eps=1e-6, dtype=torch.float64)
            norm.load_state_dict(getattr(layer, name).state_dict())
            setattr(layer, name, norm)
    return model.eval()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one layer compile sooner."""
    monkeypatch.setattr(compiled, "BLOCK", 1)


@pytest.fixture(scope="module")
def exact() -> Any:
    model = exact_model()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "BLOCK", 2)
        compile_layers(model)
    return model


def test_answers_are_the_plain_models_token_for_token(exact: Any) -> None:
    """Several samplers, prompts of several lengths, forks and rows that come and go."""
    prompts = ["hello", "hi", "a much longer prompt than the others", "x"]
    for sampler in ("ancestral", MH, SMC):
        fields: dict[str, Any] = {"sampler": sampler, "alpha": 3.0, "max_new_tokens": 12, "seed": 1}
        plain, same = (PowerSampler.from_model(m, tiny_tokenizer(), **fields) for m in (exact_model(), exact))
        for one, other in zip(plain.generate(prompts, n=3), same.generate(prompts, n=3), strict=True):
            assert one.tokens == other.tokens
            assert one.logp == pytest.approx(other.logp, abs=1e-9)


def test_all_blocks_run_one_program_on_their_own_weights(exact: Any) -> None:
    layers = exact.model.layers[0].forward._layers
    assert sorted(layers.blocks) == [0, 2] and len(set(layers._kinds.values())) == 1
    assert len(layers._programs) == 4, "for steps and longer pieces, each of one row and of more"
    with torch.no_grad():
        tokens = torch.arange(6)[None]
        assert torch.allclose(exact(tokens).logits, exact_model()(tokens).logits), (
            "who else calls it finds it unchanged"
        )
    before = exact.model.layers[1].forward
    compile_layers(exact)
    assert exact.model.layers[1].forward is before, "nothing is compiled twice"


def test_the_engine_keeps_its_laws_with_packed_weights_two_kinds_of_layers_and_loops_of_our_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some of Gemma's layers see a window only."""
    model = tiny_model("gemma3", dtype=torch.float32, head_dim=16)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.bfloat16())  # which half of the bits are enough for
    if packed.can_pack():
        packed.pack(model, is_required=True)
    compile_layers(model)
    asked = Counter[bool]()
    takes = attention._takes
    monkeypatch.setattr(attention, "_takes", lambda *x: asked.update([found := takes(*x)]) or found)
    check_language_model(TorchLM(model), (5, 6, 7), tolerance=2e-3, num_draws=200)
    assert asked[False] == 0 and (asked[True] > 0 or attention._library() is None)


def test_changed_weights_are_noticed() -> None:
    model, other = tiny_model(dtype=torch.float32), tiny_model(dtype=torch.float32)
    if packed.can_pack():
        packed.pack(model, is_required=True)
    compile_layers(model)
    with torch.no_grad():
        for changed in (model, other):
            changed.model.layers[1].self_attn.k_proj.weight.mul_(2)
            changed.model.layers[1].mlp.down_proj.weight.mul_(0.5)
    logps = [
        PowerSampler.from_model(m, tiny_tokenizer(), sampler="ancestral", max_new_tokens=6, seed=0).complete("a").logp
        for m in (model, other)
    ]
    assert logps[0] == pytest.approx(logps[1], abs=1e-3)


def test_a_program_that_computes_something_else_is_found_by_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(layers=2)
    true_kind = compiled._kind_of
    model.model.layers[1].input_layernorm.variance_epsilon = 0.5
    monkeypatch.setattr(compiled, "_kind_of", lambda layer: true_kind(layer)[0])  # shapes alone
    with pytest.raises(UnsupportedModelError, match=r"cannot be compiled: log p of a trial differs by \d"):
        compile_layers(model)
    assert is_as_it_was(model)


def test_what_cannot_be_compiled_is_refused_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    eager = tiny_model(layers=1)
    eager.config._attn_implementation = "eager"
    with pytest.raises(UnsupportedModelError, match="its attention is eager, not sdpa"):
        compile_layers(eager)
    experts = tiny_model("mixtral", layers=1)
    with pytest.raises(UnsupportedModelError, match=r"MixtralForCausalLM cannot be compiled: .*Leave it out"):
        compile_layers(experts)
    positional = tiny_model("gpt2", layers=1)
    with pytest.raises(UnsupportedModelError, match="calls its layers in a way of its own"):
        compile_layers(positional)
    with pytest.raises(UnsupportedModelError, match="not all on a CPU"):
        compile_layers(tiny_model(layers=1).to("meta"))
    answers = tiny_model(layers=1)
    forward = type(answers.model.layers[0]).forward
    monkeypatch.setattr(type(answers.model.layers[0]), "forward", lambda *a, **k: (forward(*a, **k),))
    with pytest.raises(UnsupportedModelError, match="answers with a tuple"):
        compile_layers(answers)
    assert all(is_as_it_was(model) for model in (eager, experts, positional, answers))


def test_one_field_asks_for_it() -> None:
    asked, not_asked = tiny_model(layers=1), tiny_model(layers=1)
    serve(asked, tiny_tokenizer(), ModelConfig(compile_layers=True), is_own=False)
    serve(not_asked, tiny_tokenizer(), ModelConfig(), is_own=True)
    assert is_compiled(asked) and not is_compiled(not_asked)
