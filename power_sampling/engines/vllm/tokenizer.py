"""The tokenizer of a served model, and what its configuration says of its end: by transformers, without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from power_sampling.config import ModelConfig
from power_sampling.engines.given_tokenizer import given_tokenizer
from power_sampling.errors import ModelNotFoundError

__all__ = ["eos_ids_of", "fields_of", "tokenizer_of"]


def tokenizer_of(source: str, config: ModelConfig) -> Any:
    """A fast tokenizer from a folder or the hub. `AutoTokenizer` would import torch. Raises ModelNotFoundError."""
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    if config.tokenizer is not None:
        with given_tokenizer(config.tokenizer) as named:
            return TokenizersBackend.from_pretrained(named, **_common(config))
    try:
        return TokenizersBackend.from_pretrained(source, **_common(config))
    except Exception as error:
        raise ModelNotFoundError(
            f"No tokenizer at {source!r}, where the server says its model is: {error!s:.400} Give `tokenizer`: a hub "
            "id, or a folder with tokenizer.json, of the same model."
        ) from error


def fields_of(source: str, name: str, config: ModelConfig) -> dict[str, Any]:
    """What a JSON file beside the tokenizer says; nothing where there is none."""
    from transformers.utils.hub import cached_file

    quietly = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        found = cached_file(source, name, revision=config.revision or "main", **quietly)
        fields = json.loads(Path(found).read_text(encoding="utf-8")) if found else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def eos_ids_of(*fields: dict[str, Any]) -> list[int]:
    """Every id that ends a text by the word of these files."""
    ids: set[int] = set()
    for each in fields:
        eos = each.get("eos_token_id")
        ids.update([eos] if isinstance(eos, int) else eos or [])
    return sorted(ids)


def _common(config: ModelConfig) -> dict[str, Any]:
    common: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    return common if config.revision is None else {**common, "revision": config.revision}
