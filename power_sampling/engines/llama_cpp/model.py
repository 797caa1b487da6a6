"""A GGUF file that llama.cpp has loaded, and what it says of itself."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from power_sampling.engines.llama_cpp.library import last_words, library
from power_sampling.errors import ConfigurationError, ModelError, UnsupportedModelError, shortened

__all__ = ["LlamaModel", "set_fields"]


class LlamaModel:
    """Weights, mapped from the file: they take its size in memory, and are shared by all processes that map it.

    `lora` are GGUF files of adapters, each with the factor it is applied with."""

    def __init__(self, file: Path, fields: Mapping[str, Any], lora: Mapping[str, float]) -> None:
        api = library()
        parameters = api.llama_model_default_params()
        set_fields(parameters, fields, "model_kwargs")
        self.file = file
        self.pointer = api.llama_model_load_from_file(str(file).encode(), parameters)
        if not self.pointer:
            raise ModelError(f"llama.cpp cannot load {str(file)!r}: {last_words()}")
        weakref.finalize(self, api.llama_model_free, self.pointer).atexit = False
        self.vocab = api.llama_model_get_vocab(self.pointer)
        self.vocab_size: int = api.llama_vocab_n_tokens(self.vocab)
        self.trained_length: int = api.llama_model_n_ctx_train(self.pointer)
        self.is_recurrent = bool(api.llama_model_is_recurrent(self.pointer) or api.llama_model_is_hybrid(self.pointer))
        self.architecture = self.said("general.architecture")
        self._refuse_unsupported()
        self.adapters = [(self._adapter(path), factor) for path, factor in lora.items()]
        ends = [token for token in range(self.vocab_size) if api.llama_vocab_is_eog(self.vocab, token)]
        # what the text side asks a model of transformers
        self.config = SimpleNamespace(model_type=self.architecture.replace("-", "_"), eos_token_id=ends)

    def said(self, key: str) -> str:
        """A value of the file's metadata as a text; empty where there is none."""
        room = ctypes.create_string_buffer(256)
        length = library().llama_model_meta_val_str(self.pointer, key.encode(), room, len(room))
        if length >= len(room):
            room = ctypes.create_string_buffer(length + 1)
            library().llama_model_meta_val_str(self.pointer, key.encode(), room, len(room))
        return room.value.decode(errors="replace") if length >= 0 else ""

    def tokens_of(self, text: str, *, parse_special: bool = False) -> list[int]:
        """As llama.cpp reads a text, without tokens at its ends."""
        written = text.encode()
        room = (ctypes.c_int32 * (len(written) + 16))()
        count = library().llama_tokenize(self.vocab, written, len(written), room, len(room), False, parse_special)
        return list(room[:count])

    def _refuse_unsupported(self) -> None:
        api = library()
        if api.llama_model_has_encoder(self.pointer):
            raise UnsupportedModelError(
                f"{self.file.name} ({self.architecture}) has an encoder; it is no language model."
            )
        if api.llama_model_is_diffusion(self.pointer):
            raise UnsupportedModelError(f"{self.file.name} ({self.architecture}) draws no token after the other.")

    def _adapter(self, path: str) -> Any:
        api = library()
        adapter = api.llama_adapter_lora_init(self.pointer, str(Path(path).expanduser()).encode())
        if not adapter:
            raise ModelError(f"lora: llama.cpp cannot load {path!r} for this model: {last_words()}")
        return adapter  # freed with the model


def set_fields(parameters: Any, fields: Mapping[str, Any], where: str) -> None:
    """Set fields of llama.cpp's own structure. Raises ConfigurationError for one that it has not."""
    known = dict(type(parameters)._fields_)
    for name, value in fields.items():
        if name not in known:
            raise ConfigurationError(f"{where}: llama.cpp has no {name!r}; it has {_listed(known)}.")
        try:
            setattr(parameters, name, value)
        except TypeError as error:
            raise ConfigurationError(f"{where}: {name} cannot be {shortened(value)}: {error}") from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
