"""Where a family keeps its recurrent states: in a cache of transformers, or in its modules, in an argument, in a cache
class of its own.

The states are the batch's (`recurrent.py`) all the same. Those kept elsewhere are put where the model looks for them
before a pass, and taken back after it.
"""

from __future__ import annotations

from threading import Lock
from types import SimpleNamespace
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, LinearAttentionLayer

__all__ = ["Keeper", "keeper_of", "under_every_name"]

KIND = "recurrent_states"


def under_every_name(cache: Any) -> dict[str, Any]:
    """What models call the cache that they are handed: `cache` from transformers 5.24 on."""
    return dict.fromkeys(("past_key_values", "cache_params", "cache"), cache)


class Keeper:
    """In the cache that a model is handed: most families."""

    is_elsewhere = False

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    @property
    def layers(self) -> list[Any]:
        """Those of a cache of transformers that holds what the model keeps."""
        return list(DynamicCache(config=self._model.config).layers)

    def logits(self, batch: Any, arguments: dict[str, Any]) -> torch.Tensor:
        """Of a pass over new tokens of the rows of `batch`, whose states are then those after these tokens."""
        logits: torch.Tensor = self._model(**arguments).logits
        return logits

    def _zeros(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Of a type that a model's own code gives states: float32, but for a model in float64."""
        like = self._model.get_input_embeddings().weight
        wide = torch.float64 if like.dtype == torch.float64 else torch.float32
        return torch.zeros(shape, dtype=dtype or wide, device=like.device)


class InModules(Keeper):
    """RecurrentGemma: attributes of its blocks. One pass at a time, whichever engine's it is."""

    is_elsewhere = True
    _turn = Lock()

    def logits(self, batch: Any, arguments: dict[str, Any]) -> torch.Tensor:
        blocks = [(batch.layers[i], x.temporal_block) for i, x in enumerate(self._model.model.layers)]
        blocks = [(layer, block) for layer, block in blocks if hasattr(block, "rg_lru")]
        rows = len(arguments["input_ids"])
        with self._turn:
            try:
                for layer, block in blocks:
                    if states := layer.states():
                        block.conv1d_state, block.rg_lru.recurrent_states = states["conv_states", 0], states[KIND, 0]
                    else:
                        block._setup_cache(rows, block.linear_x.weight.device, block.linear_x.weight.dtype)
                logits = super().logits(batch, arguments)
                for layer, block in blocks:
                    layer.put("conv_states", 0, block.conv1d_state)
                    layer.put(KIND, 0, block.rg_lru.recurrent_states)
            finally:
                for _, block in blocks:
                    block.conv1d_state = block.rg_lru.recurrent_states = None
        return logits


class InArgument(Keeper):
    """RWKV: five tensors that are handed in and written to, (rows, hidden, layers). In transformers a step of one token
    spreads over the rows beside it, so each takes it alone."""

    is_elsewhere = True

    @property
    def layers(self) -> list[Any]:
        return [LinearAttentionLayer(number_of_states=5)]

    def logits(self, batch: Any, arguments: dict[str, Any]) -> torch.Tensor:
        tokens, states = arguments["input_ids"], self._states(batch.layers[0], len(arguments["input_ids"]))
        parts = tokens.split(1 if tokens.shape[1] == 1 else len(tokens))
        start, found = 0, []
        for part in parts:
            own = [state[start : start + len(part)] for state in states]  # views: what is written is the batch's
            found.append(super().logits(batch, {**arguments, "input_ids": part, "state": own}))
            start += len(part)
        for i, state in enumerate(states):
            batch.layers[0].put(KIND, i, state)
        return torch.cat(found)

    def _states(self, layer: Any, rows: int) -> list[torch.Tensor]:
        if present := layer.states():
            return [present[KIND, i] for i in range(5)]
        config, own = self._model.config, self._model.get_input_embeddings().weight.dtype
        shape = rows, config.hidden_size, config.num_hidden_layers
        states = [self._zeros(*shape, dtype=own if i < 2 else None) for i in range(5)]
        states[4] -= 1e30  # the largest exponent so far
        return states


class InOwnCache(Keeper):
    """xLSTM: three tensors of every layer, in a cache of its own that its code writes to."""

    is_elsewhere = True

    @property
    def layers(self) -> list[Any]:
        return [LinearAttentionLayer(number_of_states=3) for _ in range(self._model.config.num_hidden_layers)]

    def logits(self, batch: Any, arguments: dict[str, Any]) -> torch.Tensor:
        states = [self._states(layer, len(arguments["input_ids"])) for layer in batch.layers]
        cache = SimpleNamespace(rnn_state=dict(enumerate(states)), seqlen_offset=0)
        logits = super().logits(batch, _with_cache(arguments, cache))
        for layer, own in zip(batch.layers, states, strict=True):
            for i, state in enumerate(own):
                layer.put(KIND, i, state)
        return logits

    def _states(self, layer: Any, rows: int) -> tuple[torch.Tensor, ...]:
        if present := layer.states():
            return tuple(present[KIND, i] for i in range(3))
        heads, keys = self._model.config.num_heads, self._model.config.qk_head_dim
        shapes = ((rows, heads, keys, self._model.config.v_head_dim), (rows, heads, keys), (rows, heads, 1))
        return tuple(self._zeros(*shape) for shape in shapes)


class InOwnKind(Keeper):
    """MiniMax: it takes a cache of its own kind only, and asks that for the states of its linear layers."""

    is_elsewhere = True

    def logits(self, batch: Any, arguments: dict[str, Any]) -> torch.Tensor:
        return super().logits(batch, _with_cache(arguments, _minimax_cache(batch)))


def _with_cache(arguments: dict[str, Any], cache: Any) -> dict[str, Any]:
    """The arguments with another cache, by the name that the model takes."""
    return {**arguments, **{name: cache for name in under_every_name(cache) if name in arguments}}


def _minimax_cache(batch: Any) -> Any:
    from transformers.models.minimax.modeling_minimax import MiniMaxCache

    class Lent(MiniMaxCache):
        """The batch, under another name."""

        def __init__(self) -> None:
            Cache.__init__(self, layers=batch.layers)
            self.update, self.get_seq_length = batch.update, batch.get_seq_length
            self.get_mask_sizes, self.get_query_offset = batch.get_mask_sizes, batch.get_query_offset

        @property
        def is_compileable(self) -> bool:
            return bool(batch.is_compileable)

        def get_linear_cache(self, layer_idx: int) -> torch.Tensor | None:
            states: torch.Tensor | None = batch.layers[layer_idx].states().get((KIND, 0))
            return states

        def set_linear_cache(self, layer_idx: int, linear_cache: torch.Tensor) -> None:
            batch.layers[layer_idx].put(KIND, 0, linear_cache)

    return Lent()


ELSEWHERE: dict[str, type[Keeper]] = {
    "minimax": InOwnKind,
    "recurrent_gemma": InModules,
    "rwkv": InArgument,
    "xlstm": InOwnCache,
}


def keeper_of(model: PreTrainedModel) -> Keeper:
    return ELSEWHERE.get(model.config.model_type, Keeper)(model)
