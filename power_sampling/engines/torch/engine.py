"""A transformers model as a `LanguageModel`: the stepped engine over the torch backend."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from power_sampling.engines.protocol import RuleMaker, no_rules
from power_sampling.engines.stepped.engine import SteppedEngine
from power_sampling.engines.stepped.sequence import Prompt
from power_sampling.engines.torch.adapters import without_wrapper
from power_sampling.engines.torch.backend import TorchBackend
from power_sampling.engines.torch.changes import Changes
from power_sampling.engines.torch.forward import Forward
from power_sampling.errors import UnsupportedModelError
from power_sampling.types import Termination, Tokens

__all__ = ["TorchLM", "refuse_unsupported"]


class TorchLM(SteppedEngine):
    """A causal language model of transformers; see `SteppedEngine` and `TorchBackend` for the options.

    Raises UnsupportedModelError for a model whose state cannot be cut at a position (recurrent, hybrid).
    """

    backend: TorchBackend

    def __init__(
        self,
        model: PreTrainedModel,
        forward: Forward | None = None,
        *,
        vocab_size: int | None = None,
        rules: RuleMaker = no_rules,
        max_rows: int = 32,
        prompt_memory: int = 0,
        kv_memory: int | None = None,
        **options: Any,
    ) -> None:
        model = without_wrapper(model)
        refuse_unsupported(model)
        backend = TorchBackend(model, forward, vocab_size=vocab_size, **options)
        super().__init__(backend, rules=rules, max_rows=max_rows, prompt_memory=prompt_memory, kv_memory=kv_memory)
        self._changes = Changes(model)
        self._is_stale = False

    def invalidate(self) -> None:
        """Before the next prompt is opened, forget what is kept of the model's weights: they are others now. From any
        thread."""
        self._is_stale = True

    def open(self, prompt: Tokens, termination: Termination) -> Prompt:
        """Where the model has changed since the last prompt, what is kept of it is forgotten first."""
        said, self._is_stale = self._is_stale, False
        are_others, answer_otherwise = self._changes.noticed()
        if said or are_others or answer_otherwise:
            self._prefill.prefixes.clear()
        if said or are_others:
            self.backend.forget_copies()
        return super().open(prompt, termination)


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
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise UnsupportedModelError(
            f"{name} takes no past_key_values, so what it keeps of a text cannot be cut and handed in again. Use one "
            "that does (Llama, Qwen2/3, Mistral, Gemma, GPT-2, ...)."
        )
    if foreign := _uncuttable(model):
        raise UnsupportedModelError(
            f"{name} keeps {foreign}, which cannot be cut at a position, so suffixes cannot be redrawn from it. "
            "Use a model whose layers keep attention keys and values only (Llama, Qwen2/3, Mistral, Gemma, GPT-2, ...)."
        )


def _uncuttable(model: PreTrainedModel) -> str | None:
    cuttable = (DynamicLayer, DynamicSlidingWindowLayer)
    if model._is_stateful:
        return "a recurrent state"
    try:
        layers = DynamicCache(config=model.config).layers
    except Exception as error:  # noqa: BLE001 - a configuration that transformers itself cannot read
        return f"states that its configuration does not describe ({type(error).__name__}: {error!s:.200})"
    return next((type(x).__name__ for x in layers if type(x) not in cuttable), None)
