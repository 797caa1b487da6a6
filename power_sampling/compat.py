"""The names that scripts for power sampling use, on this library's sampler.

    model, tokenizer = load_model_and_tokenizer("Qwen/Qwen2.5-7B-Instruct")
    text = power_sample(model, tokenizer, "What causes earthquakes?", alpha=4.0, steps=10)

For new code there is `PowerSampler`: it keeps the model ready between calls, streams, and tells what a completion cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from typing import Any

from power_sampling.config import ModelConfig
from power_sampling.errors import ContextOverflowError, InputError
from power_sampling.models import load_pretrained
from power_sampling.progress import ProgressBar
from power_sampling.runtime import PowerSampler
from power_sampling.types import Chunk

__all__ = ["batch_power_sample", "load_model_and_tokenizer", "power_sample"]


def load_model_and_tokenizer(model_name: str, device: Any = None, dtype: Any = "auto") -> tuple[Any, Any]:
    """(model, tokenizer) as transformers knows them: of a hub id, a folder, a GGUF file or `embedded`.

    `device` and `dtype` are names or torch's own objects; None: a GPU where there is one; `auto`: as stored. Each call
    loads the weights anew.
    """
    fields = {"device": None if device is None else str(device), "dtype": str(dtype).removeprefix("torch.")}
    return load_pretrained(ModelConfig.parse({"model": model_name, **fields}))


def power_sample(
    model: Any,
    tokenizer: Any,
    prompt: str,
    alpha: float = 4.0,
    block_size: int = 192,
    steps: int = 10,
    max_len: int = 2048,
    temperature: float = 1.0,
    show_progress: bool = False,
    *,
    seed: int | None = None,
) -> str:
    """The text of a completion whose law tends to p(x)^alpha with `steps`; neither the prompt nor EOS is part of it.

    Metropolis-Hastings: the completion grows by `block_size` tokens, and `steps` moves follow each block. `temperature`
    is of the base law p; proposals are drawn at temperature / alpha. The prompt is taken as it stands, without a chat
    template. `max_len` is the longest prompt and completion together, in tokens, as `max_length` is in transformers:
    the completion has at most max_len less the prompt's tokens, or what the model's context window leaves, whichever is
    smaller. The same seed gives the same text.

    Raises ContextOverflowError where the prompt leaves no room, ConfigurationError for a value that cannot be honoured.
    """
    return batch_power_sample(
        model, tokenizer, [prompt], alpha, block_size, steps, max_len, temperature, show_progress, seed=seed
    )[0]


def batch_power_sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    alpha: float = 4.0,
    block_size: int = 192,
    steps: int = 10,
    max_len: int = 2048,
    temperature: float = 1.0,
    show_progress: bool = False,
    *,
    seed: int | None = None,
) -> list[str]:
    """`power_sample` of each prompt, in order, decoded as one batch.

    `max_len` counts for each prompt by itself. A seed is every prompt's own: each text is what `power_sample` gives.
    The first error stops the other prompts and is raised.
    """
    if isinstance(prompts, str):
        raise InputError("prompts: expected a list of texts, got one text; power_sample takes that.")
    moves = {"name": "metropolis_hastings", "block_size": block_size, "num_steps": steps}
    sampler = PowerSampler.from_model(model, tokenizer, sampler=moves, alpha=alpha, temperature=temperature, seed=seed)
    horizons = [_horizon(sampler, prompt, max_len) for prompt in prompts]
    with ExitStack() as stack:
        streams = [
            # closing one stops its work
            stack.enter_context(closing(sampler.stream(prompt, max_new_tokens=horizon)))
            for prompt, horizon in zip(prompts, horizons, strict=True)
        ]
        begun = [chain([next(stream)], stream) for stream in streams]  # all are under way before one is waited for
        bar = stack.enter_context(ProgressBar(is_shown=show_progress))
        return ["".join(_watched(chunks, bar, f"{i}/{len(begun)} ")) for i, chunks in enumerate(begun, start=1)]


def _horizon(sampler: PowerSampler, prompt: str, max_len: int) -> int:
    """The most tokens a completion of this prompt may have."""
    num_tokens, window = len(sampler.encode(prompt)), sampler.context_window
    longest = max_len if window is None else min(max_len, window)
    if num_tokens >= longest:
        raise ContextOverflowError(
            f"The prompt has {num_tokens} tokens; max_len is {max_len}, the context window {window or 'unknown'}. No "
            "token is left for a completion: shorten the prompt or raise max_len."
        )
    return longest - num_tokens


def _watched(chunks: Iterator[Chunk], bar: ProgressBar, description: str) -> Iterator[str]:
    """The texts of a stream; the bar follows the prompt that is waited for, the others run beside it."""
    bar.describe(description)
    for chunk in chunks:
        if chunk.progress is not None:
            bar.show(chunk.progress)
        if chunk.completion is not None:
            bar.finish()
        yield chunk.text
