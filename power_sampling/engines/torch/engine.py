"""A transformers model as a `LanguageModel`: the stepped engine over the torch backend."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from power_sampling.engines.protocol import RuleMaker, no_rules
from power_sampling.engines.stepped.engine import SteppedEngine
from power_sampling.engines.stepped.sequence import Prompt
from power_sampling.engines.stepped.snapshots import SNAPSHOTS
from power_sampling.engines.torch.adapters import without_wrapper
from power_sampling.engines.torch.backend import TorchBackend
from power_sampling.engines.torch.changes import Changes
from power_sampling.engines.torch.forward import Forward
from power_sampling.engines.torch.supported import refuse_unsupported
from power_sampling.types import Termination, Tokens

__all__ = ["TorchLM"]


class TorchLM(SteppedEngine):
    """A causal language model of transformers; see `SteppedEngine` and `TorchBackend` for the options.

    Raises UnsupportedModelError for a model that keeps what a cache of transformers does not hold.
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
        snapshots: int = SNAPSHOTS,
        **options: Any,
    ) -> None:
        model = without_wrapper(model)
        refuse_unsupported(model)
        backend = TorchBackend(model, forward, vocab_size=vocab_size, **options)
        super().__init__(
            backend,
            rules=rules,
            max_rows=max_rows,
            prompt_memory=prompt_memory,
            kv_memory=kv_memory,
            snapshots=snapshots,
        )
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
