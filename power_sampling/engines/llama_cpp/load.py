"""GGUF files, loaded by llama.cpp: weights in their own bits, mapped from the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil

from power_sampling.config import ModelConfig
from power_sampling.engines.embedded import embedded_file
from power_sampling.engines.given_tokenizer import given_tokenizer
from power_sampling.engines.llama_cpp.backend import SCORE_CHUNK, LlamaBackend
from power_sampling.engines.llama_cpp.context import MOST_SEQUENCES, Context
from power_sampling.engines.llama_cpp.model import LlamaModel
from power_sampling.engines.llama_cpp.sequences import Sequences, Sizes
from power_sampling.engines.llama_cpp.tokenizer import tokenizer_of
from power_sampling.engines.options import LlamaCppOptions
from power_sampling.engines.stepped.budget import SHARE
from power_sampling.engines.stepped.engine import SteppedEngine
from power_sampling.engines.stepped.prefill import PREFILL_CHUNK
from power_sampling.errors import ConfigurationError, ModelNotFoundError

__all__ = ["engine", "load"]

CELLS = 2**15  # tokens that the cache has room for by default, if memory allows


def load(config: ModelConfig, options: LlamaCppOptions) -> tuple[LlamaModel, Any]:
    """(model, tokenizer)."""
    for name in ("revision", "trust_remote_code"):
        if getattr(config, name):
            raise ConfigurationError(f"{name}: a GGUF file is no repository; leave it out.")
    fields = dict(options.model_kwargs)
    if options.n_gpu_layers is not None:
        fields["n_gpu_layers"] = options.n_gpu_layers
    model = LlamaModel(_file(config.model), fields, options.lora)
    if config.tokenizer is None:
        tokenizer = tokenizer_of(model)
    else:
        from transformers import AutoTokenizer

        with given_tokenizer(config.tokenizer) as named:
            tokenizer = AutoTokenizer.from_pretrained(named)
    # llama.cpp ends a text at words of its list (`</s>`) even where they are ordinary words of a vocabulary
    ends = model.config.eos_token_id
    model.config.eos_token_id = [token for token in ends if token in tokenizer.added_tokens_decoder]
    return model, tokenizer


def _file(name: str) -> Path:
    path = embedded_file() if name == "embedded" else Path(name).expanduser()
    if path.suffix.lower() != ".gguf":
        raise ConfigurationError(
            f"engine='llama_cpp' runs GGUF files; model is {name!r}. Give the path of a .gguf file, or use the engine "
            "'torch'."
        )
    if not path.is_file():
        raise ModelNotFoundError(f"There is no GGUF file at {name!r}.")
    return path


def engine(model: LlamaModel, options: LlamaCppOptions, *, vocab_size: int, is_own: bool) -> SteppedEngine:
    """The engine of a loaded model."""
    sizes = _sizes(model, options)
    per_token, per_state = sizes
    window = options.n_ctx or model.trained_length
    nbytes = _cache_bytes(options, max(per_token, 1), per_state, window)
    sequences = _sequences(model, options, nbytes // max(per_state, 1))
    for_prompts = nbytes // 4 if options.prompt_memory is None else min(options.prompt_memory << 20, nbytes // 2)
    context = _context(model, options, cells=max(256, nbytes // max(per_token, 1)), sequences=sequences)
    # a sequence also takes its share of the numbers that there are, so that they do not run out before the bytes
    share = nbytes // max(1, sequences - options.max_rows)
    backend = LlamaBackend(
        context,
        Sequences(context, sequences, Sizes(per_token, max(per_state, share))),
        vocab_size=vocab_size,
        context_window=min(window, context.cells),
        nbytes=nbytes,
    )
    return SteppedEngine(
        backend,
        max_rows=options.max_rows,
        prompt_memory=for_prompts,
        kv_memory=nbytes - for_prompts,
        snapshots=options.snapshots,
    )


def _sequences(model: LlamaModel, options: LlamaCppOptions, affordable: int) -> int:
    """How many the context has: of rows, of what is kept of others, and of prompts."""
    if not model.is_recurrent:
        return min(MOST_SEQUENCES, 4 * max(16, options.max_rows))
    # room for a state of every sequence is taken beforehand
    wanted = options.max_rows * (options.snapshots + 2) + 32
    return min(MOST_SEQUENCES, max(options.max_rows + 8, min(wanted, affordable // 2)))


def _cache_bytes(options: LlamaCppOptions, per_token: int, per_state: int, window: int) -> int:
    """What the cache takes, from the first moment on: asked for, or `CELLS` tokens."""
    if options.kv_memory is not None:
        return options.kv_memory << 20
    wanted = CELLS * per_token + (options.max_rows + 32) * per_state
    return min(wanted, int(SHARE * psutil.virtual_memory().available))


def _sizes(model: LlamaModel, options: LlamaCppOptions) -> Sizes:
    """What a token and a sequence take, as llama.cpp itself stores them: of two tokens, and of one."""
    context = _context(model, options, cells=256, sequences=1)
    stored = []
    for position in range(2):
        context.feed([0], [position], [0], [True])
        stored.append(context.stored_bytes(0))
    per_token = stored[1] - stored[0]
    return Sizes(per_token, stored[0] - per_token if model.is_recurrent else 0)


def _context(model: LlamaModel, options: LlamaCppOptions, *, cells: int, sequences: int) -> Context:
    fields = {
        name: value
        for name, value in (
            ("flash_attn_type", None if options.flash_attn is None else int(options.flash_attn)),
            ("type_k", options.cache_type("type_k")),
            ("type_v", options.cache_type("type_v")),
        )
        if value is not None
    }
    return Context(
        model,
        cells=cells,
        sequences=sequences,
        tokens=max(PREFILL_CHUNK, options.max_rows),
        outputs=max(SCORE_CHUNK, sequences),  # llama.cpp has room for the logits of every sequence at least
        threads=options.n_threads or _cores(),
        fields=fields,
    )


def _cores() -> int:
    """Those that this process may use: two threads of one core take each other's arithmetic."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, psutil.cpu_count(logical=False) or usable))
