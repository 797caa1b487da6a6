"""Adapters of PEFT (LoRA and its kin): loaded onto a model, merged or live; and models handed over with one."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from power_sampling.errors import (
    ConfigurationError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
    UnsupportedModelError,
    needed_for,
)

__all__ = ["adapted", "without_wrapper"]

log = logging.getLogger(__name__)


def adapted(model: Any, adapter: str, *, merge: bool | None) -> Any:
    """The model with an adapter from a folder or the hub.

    Merged, its weights are added to the model's own, in their type, and cost nothing afterwards; live, they are
    computed beside them. `merge` None: merged, unless the model is quantised. Raises ModelNotFoundError where there is
    no adapter, ModelError for one that is not this model's: every weight of it has its place, and every place a weight.
    """
    with needed_for("adapter:", "peft"):
        import peft
    is_quantised = getattr(model, "hf_quantizer", None) is not None
    if merge and is_quantised:
        raise ConfigurationError("merge_adapter: a quantised model would round what is merged into it; leave it out.")
    source = str(Path(adapter).expanduser()) if adapter.startswith("~") else adapter
    try:
        config = peft.PeftConfig.from_pretrained(source)
    except Exception as error:
        said = f"{error!s:.500}".rstrip(". ")
        raise ModelNotFoundError(
            f"No adapter at {adapter!r}: {said}. Give a folder with adapter_config.json, or a hub id."
        ) from error
    _refuse_unsupported(config, adapter)
    try:
        wrapped = peft.PeftModel.from_pretrained(model, source, config=config)
        saved = peft.load_peft_weights(source, device="cpu")
        _refuse_others(adapter, wrapped, set(saved), set(peft.get_peft_model_state_dict(wrapped)))
        if merge or (merge is None and not is_quantised):
            return wrapped.merge_and_unload(safe_merge=True)
    except (MissingDependencyError, ModelError):
        raise
    except Exception as error:
        raise ModelError(
            f"The adapter {adapter!r} does not fit {type(model).__name__}: {type(error).__name__}: {error!s:.1000} It "
            "was made for another model, or is broken."
        ) from error
    return wrapped.get_base_model()


def without_wrapper(model: Any) -> Any:
    """The model of transformers in a PeftModel, its adapters in their places; any other model as it is. Raises
    UnsupportedModelError for one whose adapter is no part of its layers."""
    peft = sys.modules.get("peft")  # who has a PeftModel has imported it
    if peft is None or not isinstance(model, (peft.PeftModel, peft.PeftMixedModel)):
        return model
    for config in model.peft_config.values():
        _refuse_unsupported(config, str(config.base_model_name_or_path))
    return model.get_base_model()


def _refuse_unsupported(config: Any, adapter: str) -> None:
    kind = getattr(config.peft_type, "value", config.peft_type)
    if config.is_prompt_learning:
        raise UnsupportedModelError(
            f"The adapter {adapter!r} is {kind}: it stands before the prompt, not in the layers. Use a LoRA."
        )
    if getattr(config, "alora_invocation_tokens", None):
        raise UnsupportedModelError(
            f"The adapter {adapter!r} begins to act at a token of the prompt (aLoRA), so that what is kept of a prompt "
            "would be wrong. Use a plain LoRA."
        )


def _refuse_others(adapter: str, wrapped: Any, saved: set[str], placed: set[str]) -> None:
    """Weights that an adapter lacks would be zeros, and those without a place would be left out."""
    missing, left = sorted(placed - saved), sorted(saved - placed - wrapped.state_dict().keys())
    if missing or left:
        what = f"no weights for {missing[0]}" if missing else f"weights for {left[0]}, which the model has not"
        raise ModelError(
            f"The adapter {adapter!r} has {what} ({len(missing) + len(left)} in all): it was made for another model, "
            "or is not complete."
        )
