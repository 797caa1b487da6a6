"""Random GGUF models, written with the package `gguf`: the shapes of Llama and of Mamba in float32."""

from __future__ import annotations

import atexit
import importlib.util
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from power_sampling.engines.stepped.engine import SteppedEngine

WORDS = ["<|end|>", "a", "b", "c", "d", "ab"]
CONTROL, NORMAL = 3, 1


def write_llama(path: Path, words: list[str] | None = None, *, seed: int = 0, heads: int = 2, width: int = 32) -> Path:
    """Two layers of attention."""
    words = words or WORDS
    rng, layers, inner = np.random.default_rng(seed), 2, 2 * width
    writer = _writer(path, "llama", words)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads // 2 or 1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    tensors = {
        "token_embd.weight": (len(words), width),
        "output.weight": (len(words), width),
        "output_norm.weight": (width,),
    }
    kv = width // heads * (heads // 2 or 1)
    for i in range(layers):
        shapes = {
            "attn_norm": (width,),
            "ffn_norm": (width,),
            "attn_q": (width, width),
            "attn_k": (kv, width),
            "attn_v": (kv, width),
            "attn_output": (width, width),
            "ffn_gate": (inner, width),
            "ffn_up": (inner, width),
            "ffn_down": (width, inner),
        }
        tensors |= {f"blk.{i}.{name}.weight": shape for name, shape in shapes.items()}
    _written(writer, tensors, rng)
    return path


def write_mamba(path: Path, words: list[str] | None = None, *, seed: int = 0, width: int = 32) -> Path:
    """Two recurrent layers."""
    words = words or WORDS
    rng, layers, inner, state, rank, kernel = np.random.default_rng(seed), 2, 2 * width, 8, 4, 4
    writer = _writer(path, "mamba", words)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(words), width),
        "output.weight": (len(words), width),
        "output_norm.weight": (width,),
    }
    for i in range(layers):
        shapes = {
            "attn_norm.weight": (width,),
            "ssm_in.weight": (2 * inner, width),
            "ssm_conv1d.weight": (inner, kernel),
            "ssm_conv1d.bias": (inner,),
            "ssm_x.weight": (rank + 2 * state, inner),
            "ssm_dt.weight": (inner, rank),
            "ssm_dt.bias": (inner,),
            "ssm_a": (inner, state),
            "ssm_d": (inner,),
            "ssm_out.weight": (width, inner),
        }
        tensors |= {f"blk.{i}.{name}": shape for name, shape in shapes.items()}
    _written(writer, tensors, rng)
    return path


def _writer(path: Path, architecture: str, words: list[str]) -> Any:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    writer.add_context_length(256)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types([CONTROL if word.startswith("<|") else NORMAL for word in words])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(
        "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}ab{% endif %}"
    )
    return writer


def _written(writer: Any, tensors: dict[str, tuple[int, ...]], rng: np.random.Generator) -> None:
    for name, shape in tensors.items():
        if name.endswith("norm.weight"):
            values = np.ones(shape)
        elif name.endswith("ssm_a"):
            values = -np.exp(rng.normal(0, 0.5, shape))
        else:
            scale = 1.0
            values = rng.normal(0, scale / np.sqrt(shape[-1]), shape)
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


NEEDS_LLAMA_CPP = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None,
    reason="llama-cpp-python is an extra that is compiled for minutes: make test-engines installs it",
)
EXACT: dict[str, Any] = {
    "n_threads": 1,
    "flash_attn": False,
    "type_k": "f32",
    "type_v": "f32",
}  # nothing is rounded to fewer bits than float32


def engine_of(file: Path, *, vocab_size: int, kv_memory: int | None = None, **options: Any) -> SteppedEngine:
    """The engine of a file, its budgets in bytes as tests give them: the context has room enough for all of them."""
    from power_sampling.engines.llama_cpp.load import engine
    from power_sampling.engines.llama_cpp.model import LlamaModel
    from power_sampling.engines.options import LlamaCppOptions

    prompt_memory = options.pop("prompt_memory", 0)
    made = engine(
        LlamaModel(file, {}, {}), LlamaCppOptions(kv_memory=4, **EXACT, **options), vocab_size=vocab_size, is_own=True
    )
    return SteppedEngine(
        made.backend, prompt_memory=prompt_memory, kv_memory=kv_memory or 4 << 20, max_rows=options.get("max_rows", 32)
    )


def llama_engine(**options: Any) -> SteppedEngine:
    return engine_of(_twelve(write_llama), vocab_size=12, **options)


def mamba_engine(**options: Any) -> SteppedEngine:
    return engine_of(_twelve(write_mamba), vocab_size=12, **options)


@cache
def _twelve(write: Callable[..., Path]) -> Path:
    """A file with twelve words, for this process."""
    folder = Path(tempfile.mkdtemp(prefix="gguf-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write(folder / "tiny.gguf", ["<|end|>", *"bcdefghijk", "a"])
