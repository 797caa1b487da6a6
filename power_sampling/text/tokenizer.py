"""A copy of a tokenizer for one's own use."""

from __future__ import annotations

import copy
from typing import Any

__all__ = ["private_copy"]


def private_copy(tokenizer: Any) -> Any:
    """A tokenizer of transformers that shares no setting with this one, for settings (padding, truncation, added
    tokens) are what calls from several threads corrupt.

    A fast tokenizer's vocabulary and merges never change and are shared: to copy them, `copy.deepcopy` writes all as
    JSON and parses that, and holds the interpreter for as long as it takes, a quarter of a second with large ones."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    shared = None if backend is None else _sharing_vocabulary(backend)
    return copy.deepcopy(tokenizer, None if shared is None else {id(backend): shared})


def _sharing_vocabulary(backend: Any) -> Any:
    """A copy of a `tokenizers.Tokenizer` around the same model; None where it would not be the same tokenizer."""
    from tokenizers import Tokenizer

    if type(backend) is not Tokenizer:
        return None
    added = backend.get_added_tokens_decoder()
    shared = Tokenizer(backend.model)
    # a normalizer has to be there when tokens are added: it says how they look in normalized text
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        setattr(shared, part, copy.deepcopy(getattr(backend, part)))
    shared.add_tokens([added[i] for i in sorted(added)])
    shared.encode_special_tokens = backend.encode_special_tokens
    return shared if shared.get_added_tokens_decoder() == added else None
