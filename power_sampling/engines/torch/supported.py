"""Whether a model can be served, by what its layers keep of a text: read from its configuration, not from flags of its
class, which speak of all configurations that the class could have."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel
from transformers.cache_utils import (
    DummyLayer,
    DynamicCache,
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
)

from power_sampling.engines.torch.keepers import keeper_of, under_every_name
from power_sampling.errors import UnsupportedModelError

__all__ = ["refuse_unsupported"]

OTHERS = (
    "Use a model whose layers keep what a cache of transformers holds: keys and values (Llama, Qwen, Mistral, Gemma, "
    "GPT-2, ...) or recurrent states (Qwen3.5, Granite 4 H, Nemotron-H, Falcon-H1, LFM2, Mamba 2, ...)"
)


def refuse_unsupported(model: PreTrainedModel) -> None:
    """Raise UnsupportedModelError for a model that says itself that it cannot be served."""
    name = type(model).__name__
    if model.config.is_encoder_decoder or not model.can_generate():
        raise UnsupportedModelError(f"{name} is no causal language model; load one with AutoModelForCausalLM.")
    if getattr(model.config, "_attn_implementation", None) == "flex_attention":
        raise UnsupportedModelError(
            f"{name} is set to flex_attention, which compiles anew for every length of a batch and gives no answer in "
            "minutes. Use attn_implementation='sdpa'."
        )
    if keeper_of(model).is_elsewhere:
        return
    if not under_every_name(None).keys() & inspect.signature(model.forward).parameters.keys():
        raise UnsupportedModelError(
            f"{name} takes no cache (past_key_values), so what it keeps of a text cannot be cut and handed in again. "
            f"{OTHERS}."
        )
    if foreign := _foreign(model):
        raise UnsupportedModelError(
            f"{name} keeps {foreign}, of which this engine knows no beginning, so suffixes cannot be redrawn from it. "
            f"{OTHERS}."
        )


def _foreign(model: PreTrainedModel) -> str | None:
    """What it keeps beside keys, values and recurrent states; None: nothing."""
    try:
        layers: Sequence[Any] = DynamicCache(config=model.config).layers
    except Exception as error:  # noqa: BLE001 - a configuration that transformers itself cannot read
        return f"states that its configuration does not describe ({type(error).__name__}: {error!s:.200})"
    says_what_layers_keep = getattr(model.config.get_text_config(decoder=True), "layer_types", None) is not None
    if model._is_stateful and not says_what_layers_keep:
        return "a recurrent state"
    # dummies keep nothing: their layers look at what others keep
    known = (DynamicLayer, DynamicSlidingWindowLayer, DynamicIndexedLayer, DummyLayer)
    return next(
        (type(x).__name__ for x in layers if type(x) not in known and not isinstance(x, LinearAttentionLayer)), None
    )
