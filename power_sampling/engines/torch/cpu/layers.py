"""The decoder layers of Llama and its like, written down for a processor: few operators, over packed weights.

A step of one token for a few rows is bound by reading weights, and by telling torch about hundreds of small operations.
Here a layer is eight calls, its keys and values go straight into their slots, and the projections that are fed one
tensor are one product. It is the model of transformers, whose weights and frequencies it reads, up to the rounding of
sums in another order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from power_sampling.engines.torch.changes import version
from power_sampling.engines.torch.cpu.kernels import operators
from power_sampling.engines.torch.cpu.linear import Linear
from power_sampling.engines.torch.cpu.operators import EVERYTHING, Sight
from power_sampling.engines.torch.forward import Forward, kept
from power_sampling.engines.torch.kv import BatchCache

__all__ = ["LlamaForward", "refusal"]

# Qwen 2 has biases before its heads, Qwen 3 norms on them; a configuration may let layers see a window only
FAMILY = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


class _Pass(NamedTuple):
    """What all layers of a pass share."""

    cache: BatchCache
    turns: tuple[torch.Tensor, torch.Tensor]  # cos and sin of the new positions
    sight: Sight


class _Norm:
    def __init__(self, norm: Any) -> None:
        self._weight, self._eps = norm.weight.detach(), norm.variance_epsilon
        self._apply = operators().norm

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._apply(x, self._weight, self._eps)


class _Attention:
    """Attention of new positions to themselves and to all before them."""

    def __init__(self, module: Any, index: int, window: int, *, packs: bool) -> None:
        self._index, self._window, self._scale, self._dim = index, window, module.scaling, module.head_dim
        self._heads, self._groups = (x.out_features // self._dim for x in (module.q_proj, module.k_proj))
        self.open = Linear([module.q_proj, module.k_proj, module.v_proj], packs=packs)
        self.close = Linear([module.o_proj], packs=packs)
        self._norms = (_Norm(module.q_norm), _Norm(module.k_norm)) if hasattr(module, "q_norm") else None
        self._attend = operators().attend

    def __call__(self, x: torch.Tensor, onto: torch.Tensor, step: _Pass) -> torch.Tensor:
        states = self.open(x).view(step.sight.rows, step.sight.new, -1, self._dim)
        if self._norms is not None:
            query, key, value = states.split_with_sizes((self._heads, self._groups, self._groups), 2)
            states = torch.cat([self._norms[0](query), self._norms[1](key), value], 2)
        keys, values = step.cache.buffers(self._index, self._groups, states)
        found = self._attend(states, step.turns, keys, values, step.sight, self._window, self._scale)
        return self.close(found.flatten(0, 1), onto)


class _FeedForward:
    def __init__(self, module: Any, *, packs: bool) -> None:
        self.open = Linear([module.gate_proj, module.up_proj], packs=packs)
        self.close = Linear([module.down_proj], packs=packs)
        self._gate = operators().gate

    def __call__(self, x: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
        return self.close(self._gate(self.open(x)), onto)


class _Layer:
    def __init__(self, module: Any, index: int, window: int, *, packs: bool) -> None:
        self._first, self._second = _Norm(module.input_layernorm), _Norm(module.post_attention_layernorm)
        self.attention = _Attention(module.self_attn, index, window, packs=packs)
        self.feed_forward = _FeedForward(module.mlp, packs=packs)

    def __call__(self, x: torch.Tensor, step: _Pass) -> torch.Tensor:
        """The new positions of all rows, one after another, (rows * new, width); written over."""
        x = self.attention(self._first(x), x, step)
        return self.feed_forward(self._second(x), x)


class LlamaForward:
    """A model of this family. Weights may be changed in place later on: `plain` answers from then on. Tensors, modules
    and hooks that are exchanged are not noticed."""

    def __init__(self, model: PreTrainedModel, plain: Forward, *, packs: bool) -> None:
        self._plain, decoder = plain, model.model
        self._embed, self._turn = decoder.embed_tokens, decoder.rotary_emb
        windows = _windows(model.config)
        self._layers = [_Layer(x, i, windows[i], packs=packs) for i, x in enumerate(decoder.layers)]
        self._norm, self._head = _Norm(decoder.norm), Linear([model.lm_head], packs=packs)
        self._parameters = list(model.parameters())
        self._versions = self._current_versions()

    @property
    def nbytes(self) -> int:
        """Bytes of the copies of weights."""
        parts = [part for x in self._layers for part in (x.attention, x.feed_forward)]
        return self._head.nbytes + sum(part.open.nbytes + part.close.nbytes for part in parts)

    def __call__(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        pads: torch.Tensor,
        cache: BatchCache,
        keep: int | torch.Tensor,
    ) -> torch.Tensor:
        if self._versions != self._current_versions():
            return self._plain(tokens, positions, pads, cache, keep)
        rows, new = tokens.shape
        cache.reserve(new)
        hides = min(cache.lengths) != max(cache.lengths)
        x = self._embed(tokens)
        sight = Sight(rows, new, cache.left, cache.cursor, pads.flatten(), hides=hides)
        step = _Pass(cache, self._turn(x, positions), sight)
        x = x.view(rows * new, -1)
        for layer in self._layers:
            x = layer(x, step)
        cache.advance(new)
        ends = kept(x.view(rows, new, -1), keep)
        return self._head(self._norm(ends.flatten(0, 1))).view(*ends.shape[:2], -1)

    def forget(self) -> None:
        """Leave it to the plain model from now on, and the copies of weights with it."""
        self._versions, self._layers, self._head.product = [-1], [], None

    def _current_versions(self) -> list[int]:
        return [version(x) for x in self._parameters]


def _windows(config: Any) -> list[int]:
    """How many slots each layer sees."""
    window = getattr(config, "sliding_window", None) or EVERYTHING
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else EVERYTHING for kind in types]


def refusal(model: PreTrainedModel) -> str | None:
    """Why this model is not one that is written down here; None if it is."""
    config, name = model.config, type(model).__name__
    if name not in FAMILY or not type(model).__module__.startswith("transformers."):
        return f"its layers are not written down for a processor; those of {', '.join(FAMILY)} are"
    if {x.device.type for x in model.parameters()} != {"cpu"} or hasattr(model, "_hf_hook"):
        return "it is not all on a CPU (a GPU has cuda_graphs)"
    if {x.dtype for x in model.parameters()} not in ({torch.float32}, {torch.float64}):
        return f"its weights are {model.dtype}, not float32"
    if foreign := {type(x).__name__ for x in model.parameters() if type(x) is not nn.Parameter}:
        return f"its weights are of a kind of their own: {', '.join(sorted(foreign))}"
    if config._attn_implementation != "sdpa":
        return f"its attention is {config._attn_implementation}, not sdpa"
    if config.hidden_act not in ("silu", "swish"):
        return f"its activation is {config.hidden_act}, not silu"
    if foreign := {type(x).__name__ for x in model.modules() if not _is_original(x)}:
        return f"its modules are not transformers' own: {', '.join(sorted(foreign))}"
    if any(x._forward_hooks or x._forward_pre_hooks or "forward" in vars(x) for x in model.modules()):
        return "hooks or other code are attached to its modules"
    return None


def _is_original(module: nn.Module) -> bool:
    origin = type(module).__module__
    plain = nn.Linear, nn.Embedding, nn.ModuleList, nn.SiLU
    return type(module) in plain or origin.startswith(("transformers.models.", "transformers.activations"))
