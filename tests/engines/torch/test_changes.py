"""A model that is changed between two requests answers as it is, not as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from power_sampling import PowerSampler
from power_sampling.engines.torch.changes import Changes
from power_sampling.engines.torch.cpu.layers import LlamaForward
from power_sampling.engines.torch.cpu.linear import PackedLinear
from tests.support.tiny import tiny_model, tiny_tokenizer

SETTINGS: dict[str, Any] = {"sampler": "ancestral", "max_new_tokens": 5, "seed": 2}
PROMPT = "a prompt that is remembered"


class Adapted(nn.Module):
    """A layer as peft wraps it: merging writes into the base layer through `.data`."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base_layer, self.merged_adapters, self._active_adapter = base, [], ["one"]
        self.scaling = {"one": 1.0, "two": 1.0}
        shape = base.out_features, base.in_features
        random = torch.Generator().manual_seed(1)
        self.adapters = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(shape, generator=random).to(base.weight)) for name in ("one", "two")}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.base_layer(x)
        for name in self._active_adapter:
            if name not in self.merged_adapters:
                y = y + self.scaling[name] * nn.functional.linear(x, self.adapters[name])
        return y

    def merge(self) -> None:
        for name in self._active_adapter:
            self.base_layer.weight.data += self.scaling[name] * self.adapters[name].data
            self.merged_adapters.append(name)


def adapted(model: Any) -> Any:
    layer = model.model.layers[0].mlp
    layer.down_proj = Adapted(layer.down_proj)
    return layer.down_proj


def in_place(model: Any) -> None:
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(-1)


def loaded_again(model: Any) -> None:
    model.load_state_dict(tiny_model(dtype=torch.float32, seed=5).state_dict())


def exchanged(model: Any) -> None:
    down = model.model.layers[1].mlp.down_proj
    down.weight = nn.Parameter(-down.weight.detach())


def another_tensor(model: Any) -> None:
    down = model.model.layers[1].mlp.down_proj
    down.weight.data = -down.weight.data


def adapter_added(model: Any) -> None:
    adapted(model)


CHANGES = [in_place, loaded_again, exchanged, another_tensor, adapter_added]


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_answer_at_once(change: Callable[[Any], None], packs: bool) -> None:
    model, same = (tiny_model(dtype=torch.float32) for _ in range(2))
    sampler = PowerSampler.from_model(model, tiny_tokenizer(), pack_weights=packs, **SETTINGS)
    before = sampler.complete(PROMPT)
    change(model)
    change(same)
    expected = PowerSampler.from_model(same, tiny_tokenizer(), pack_weights=False, **SETTINGS).complete(PROMPT)
    found = sampler.complete(PROMPT)
    assert found.tokens == expected.tokens != before.tokens
    assert found.token_logp == pytest.approx(expected.token_logp, abs=1e-4)


@pytest.mark.parametrize("packs", [False, True])
def test_adapters_that_are_switched_scaled_and_merged(packs: bool) -> None:
    def answer(model: Any) -> Any:
        sampler = PowerSampler.from_model(model, tiny_tokenizer(), check_model=False, **SETTINGS)
        return sampler.complete(PROMPT).token_logp

    model, same = (tiny_model(dtype=torch.float32) for _ in range(2))
    layers = [adapted(x) for x in (model, same)]
    sampler = PowerSampler.from_model(model, tiny_tokenizer(), pack_weights=packs, **SETTINGS)
    assert any(isinstance(x, PackedLinear) for x in model.modules()) == packs
    seen = [sampler.complete(PROMPT).token_logp]

    def switch(layer: Any) -> None:
        layer._active_adapter = ["two"]

    def scale(layer: Any) -> None:
        layer.scaling = {"one": 1.0, "two": 2.0}

    for change in (switch, scale, Adapted.merge):
        for layer in layers:
            change(layer)
        seen.append(sampler.complete(PROMPT).token_logp)
        fresh = tiny_model(dtype=torch.float32)
        fresh.load_state_dict(tiny_model(dtype=torch.float32).state_dict())
        own = adapted(fresh)
        own.base_layer.weight.data.copy_(layers[1].base_layer.weight.data)
        own.scaling, own._active_adapter = layers[1].scaling, layers[1]._active_adapter
        own.merged_adapters = list(layers[1].merged_adapters)
        assert seen[-1] == pytest.approx(answer(fresh), abs=1e-4)
    assert seen[0] != seen[1] != seen[2]
    assert seen[3] == pytest.approx(seen[2], abs=1e-4)  # merged, it is the same model


def test_what_nothing_counts_can_be_said() -> None:
    model, same = (tiny_model(dtype=torch.float32) for _ in range(2))
    sampler = PowerSampler.from_model(model, tiny_tokenizer(), pack_weights=True, **SETTINGS)
    engine: Any = sampler._model.load().engine
    forward = engine.backend._forward
    assert isinstance(forward, LlamaForward) and forward.nbytes > 0
    before = sampler.complete(PROMPT)
    for x in (model, same):
        x.model.layers[1].mlp.down_proj.weight.data.mul_(-1)
    sampler.invalidate()
    expected = PowerSampler.from_model(same, tiny_tokenizer(), **SETTINGS).complete(PROMPT)
    assert sampler.complete(PROMPT).tokens == expected.tokens != before.tokens
    assert forward.nbytes == 0
    PowerSampler.from_pretrained("not loaded").invalidate()


@pytest.mark.parametrize("name", ["llama", "gemma3", "mixtral"])
def test_passes_change_nothing(name: str) -> None:
    model = tiny_model(name)
    changes = Changes(model)
    PowerSampler.from_model(model, tiny_tokenizer(), **SETTINGS).complete(PROMPT)
    assert changes.noticed() == (False, False)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(1)
    assert changes.noticed() == (True, False)
    assert changes.noticed() == (False, False)


def test_tensors_of_inference_mode_do_not_count() -> None:
    with torch.inference_mode():
        model = tiny_model(dtype=torch.float32)
    assert model.lm_head.weight.is_inference()
    for packs in (False, True):
        sampler = PowerSampler.from_model(model, tiny_tokenizer(), pack_weights=packs, **SETTINGS)
        assert sampler.complete(PROMPT).tokens


def test_weights_of_another_kind_are_not_packed() -> None:
    class Coded(torch.Tensor):
        """As torchao's: whoever reads its bits reads something else."""

    model = tiny_model(dtype=torch.float32)
    for layer in model.model.layers:
        layer.mlp.down_proj.weight = nn.Parameter(layer.mlp.down_proj.weight.detach().as_subclass(Coded))
        assert type(layer.mlp.down_proj.weight) is not nn.Parameter
    sampler = PowerSampler.from_model(model, tiny_tokenizer(), pack_weights=True, **SETTINGS)
    assert not isinstance(model.model.layers[0].mlp.down_proj, PackedLinear)
    expected = PowerSampler.from_model(tiny_model(dtype=torch.float32), tiny_tokenizer(), **SETTINGS).complete(PROMPT)
    assert sampler.complete(PROMPT).tokens == expected.tokens
