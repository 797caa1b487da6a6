"""Tiny real models and a tiny real tokenizer, built in the process: nothing is downloaded."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from power_sampling.engines.protocol import Stepped
from power_sampling.engines.torch.engine import TorchLM

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "head_dim": 8,
    "max_position_embeddings": 1024,
    "initializer_range": 0.4,  # strong enough that every position matters
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}

# name: (config class, fields). Llama is multi-head, Qwen has grouped heads and biases, GPT-2 learned positions, Mistral
# a sliding window, Gemma 3 sliding and full layers mixed, Gemma 2 soft caps, Bloom ALiBi, Mixtral experts.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", SMALL),
    "qwen2": ("Qwen2Config", {**SMALL, "num_key_value_heads": 2}),
    "qwen3": ("Qwen3Config", {**SMALL, "num_key_value_heads": 1}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 1024, "initializer_range": 0.4}),
    "mistral": ("MistralConfig", {**SMALL, "num_key_value_heads": 2, "sliding_window": 5}),
    "gemma3": (
        "Gemma3TextConfig",
        {
            **SMALL,
            "num_key_value_heads": 2,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "query_pre_attn_scalar": 8,
        },
    ),
    "gemma2": ("Gemma2Config", {**SMALL, "num_key_value_heads": 2, "sliding_window": 4, "query_pre_attn_scalar": 8}),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 3, "n_head": 4, "initializer_range": 0.4}),
    "mixtral": (
        "MixtralConfig",
        {
            **SMALL,
            "num_key_value_heads": 2,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "experts_implementation": "eager",
        },
    ),
}


def tiny_model(
    name: str = "llama",
    *,
    vocab_size: int = 300,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    layers: int | None = None,
    **changes: Any,
) -> Any:
    """A random causal language model of the named architecture; with one layer a third faster, where any will do."""
    config_class, fields = ARCHITECTURES[name]
    config = getattr(transformers, config_class)(vocab_size=vocab_size, **fields | changes)
    config.num_hidden_layers = layers or config.num_hidden_layers
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()


CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|eos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|bos|>"]


def tiny_tokenizer(*, chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """Byte level: 256 bytes, then the control tokens. Every text has tokens, and a token may be part of a character."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|eos|>")
    fast.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    fast.chat_template = chat_template
    return fast


def gather(engine: TorchLM, num_prompts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an engine stand still until so many prompts have come, however long their threads take to start."""
    come = 0
    open_prompt, step = engine.open, engine.step

    def counted(*args: Any) -> Any:
        nonlocal come
        come += 1
        return open_prompt(*args)

    def step_with_all() -> Any:
        if come >= num_prompts:
            return step()
        time.sleep(0.001)
        return Stepped()

    monkeypatch.setattr(engine, "open", counted)
    monkeypatch.setattr(engine, "step", step_with_all)
