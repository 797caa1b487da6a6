"""A model as transformers has it: weights, positions and masks reach it as `generate` would pass them."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.integrations import sdpa_attention

from power_sampling.engines.torch.forward import kept
from power_sampling.engines.torch.keepers import keeper_of, under_every_name
from power_sampling.engines.torch.kv import BatchCache
from power_sampling.engines.torch.recurrent import is_recurrent

__all__ = ["PlainForward", "input_device"]

MASKED_FROM = 256  # slots; measured by benchmarks/processor.py: a quarter faster at 2,000, equal near 200


class PlainForward:
    """Any causal language model of transformers."""

    def __init__(self, model: PreTrainedModel, *, hands_positions_on: bool = False, feeds_singly: bool = False) -> None:
        """`hands_positions_on`: the model takes them, though only a part of it names them. `feeds_singly`: what follows
        a state is fed token by token, because the model forgets its state before a longer piece (the first Mamba)."""
        self._model, self._feeds_singly = model.eval(), feeds_singly
        self._keeper = keeper_of(model)
        self._accepted = set(inspect.signature(model.forward).parameters)
        if hands_positions_on:
            self._accepted.add("position_ids")
        self.masked_from = MASKED_FROM if _masks_help(model) else math.inf

    @classmethod
    def ways(cls, model: PreTrainedModel) -> list[PlainForward]:
        """All that a signature admits, the likeliest first."""
        parameters = inspect.signature(model.forward).parameters
        takes_any = any(x.kind is inspect.Parameter.VAR_KEYWORD for x in parameters.values())
        ways = [cls(model)]
        if is_recurrent(model):
            ways.append(cls(model, feeds_singly=True))
        elif takes_any and "position_ids" not in parameters:
            ways.append(cls(model, hands_positions_on=True))
        return ways

    def __call__(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        pads: torch.Tensor,
        cache: BatchCache,
        keep: int | torch.Tensor,
    ) -> torch.Tensor:
        new = tokens.shape[1]
        if self._feeds_singly and new > 1 and cache.get_seq_length():
            steps = [self(tokens[:, [i]], positions[:, [i]], pads, cache, 1) for i in range(new)]
            return kept(torch.cat(steps, 1), keep)
        cache.reserve(new)
        arguments: dict[str, Any] = {
            "input_ids": tokens,
            "position_ids": positions,
            "attention_mask": cache.mask(new, pads, self.masked_from),
            **under_every_name(cache),
            "use_cache": True,
            "logits_to_keep": keep,
        }
        accepted = {name: value for name, value in arguments.items() if name in self._accepted}
        logits = self._keeper.logits(cache, accepted)
        cache.advance(new)
        number = keep if isinstance(keep, int) else len(keep)
        return logits if logits.shape[1] == number else kept(logits, keep)  # some models return all positions


def input_device(model: PreTrainedModel) -> torch.device:
    """Where a model takes its tokens: where its embeddings are. Those that accelerate has put away are nowhere between
    two calls; its hook on the model, or else on them, knows where they come to."""
    embeddings = model.get_input_embeddings()
    device: torch.device = embeddings.weight.device
    if device.type != "meta":
        return device
    return next((torch.device(x) for x in (_place(model), _place(embeddings)) if x is not None), device)


def _place(module: Any) -> Any:
    """Where accelerate computes a module; None where it does not say."""
    hook = getattr(module, "_hf_hook", None)
    hooks = [hook, *getattr(hook, "hooks", ())]
    return next((x.execution_device for x in hooks if getattr(x, "execution_device", None) is not None), None)


def _masks_help(model: PreTrainedModel) -> bool:
    """Whether a long step is faster with a mask, even one that hides nothing: on a processor, transformers' attention
    then reads the keys and values of a group of heads once, and without a mask torch repeats them for every head."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", 0)
    is_grouped = getattr(config, "num_key_value_heads", None) not in (None, heads)
    return input_device(model).type == "cpu" and is_grouped and hasattr(sdpa_attention, "pack_gqa")
