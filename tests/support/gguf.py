"""Random GGUF models, written with the package `gguf`, in float32: Llama, Mamba, two hybrids, a LoRA adapter."""

from __future__ import annotations

import atexit
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from power_sampling.engines.stepped.engine import SteppedEngine
from power_sampling.types import Floats

WORDS = ["<|end|>", "a", "b", "c", "d", "ab"]
CONTROL, NORMAL = 3, 1


Shapes = dict[str, tuple[int, ...]]
LAYERS = 2


def write_llama(
    path: Path,
    words: list[str] | None = None,
    *,
    seed: int = 0,
    heads: int = 2,
    width: int = 32,
    added: Mapping[str, Floats] | None = None,
) -> Path:
    """Two layers of attention. `added` is added to weights, by their names."""
    words = words or WORDS
    writer = _writer(path, "llama", words)
    _say_sizes(writer, width, heads, heads // 2)
    writer.add_rope_dimension_count(width // heads)
    shapes = _ends(len(words), width)
    for i in range(LAYERS):
        shapes |= _block(i, {"attn_norm.weight": (width,), **_attention(width, heads), **_feed_forward(width)})
    _written(writer, shapes, np.random.default_rng(seed), added or {})
    return path


def write_mamba(path: Path, words: list[str] | None = None, *, seed: int = 0, width: int = 32) -> Path:
    """Two recurrent layers."""
    words = words or WORDS
    writer = _writer(path, "mamba", words)
    _say_sizes(writer, width, 0, None, inner=0)
    _say_recurrence(writer, width)
    shapes = _ends(len(words), width)
    for i in range(LAYERS):
        shapes |= _block(i, {"attn_norm.weight": (width,), **_recurrence(width)})
    _written(writer, shapes, np.random.default_rng(seed))
    return path


def write_jamba(path: Path, words: list[str] | None = None, *, seed: int = 0, width: int = 32) -> Path:
    """A hybrid: a recurrent layer, and one of attention."""
    words = words or WORDS
    writer = _writer(path, "jamba", words)
    _say_sizes(writer, width, 2, [0, 1])
    _say_recurrence(writer, width)
    norms: Shapes = {"ssm_dt_norm.weight": (RANK,), "ssm_b_norm.weight": (STATE,), "ssm_c_norm.weight": (STATE,)}
    shapes = _ends(len(words), width)
    for i, mixer in enumerate([{**_recurrence(width), **norms}, _attention(width, 2)]):
        shapes |= _block(i, {"attn_norm.weight": (width,), **mixer, **_feed_forward(width)})
    _written(writer, shapes, np.random.default_rng(seed))
    return path


def write_lfm2(path: Path, words: list[str] | None = None, *, seed: int = 0, width: int = 32) -> Path:
    """A hybrid: a layer of short convolutions, and one of attention."""
    words = words or WORDS
    writer = _writer(path, "lfm2", words)
    _say_sizes(writer, width, 2, [0, 1])
    writer.add_shortconv_l_cache(KERNEL)
    head = width // 2
    norms: Shapes = {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}
    convolution: Shapes = {
        "shortconv.conv.weight": (width, KERNEL),
        "shortconv.in_proj.weight": (3 * width, width),
        "shortconv.out_proj.weight": (width, width),
    }
    shapes = _ends(len(words), width)
    shapes["token_embd_norm.weight"] = shapes.pop("output_norm.weight")
    for i, mixer in enumerate([convolution, {**_attention(width, 2), **norms}]):
        shapes |= _block(i, {"attn_norm.weight": (width,), **mixer, **_feed_forward(width)})
    _written(writer, shapes, np.random.default_rng(seed))
    return path


def write_adapter(path: Path, *, seed: int = 0, heads: int = 2, width: int = 32) -> dict[str, Floats]:
    """A LoRA adapter of rank 2 for the Llama of this shape; what it adds to its weights."""
    from gguf import GGUFWriter

    writer, rng, rank, alpha = GGUFWriter(path, "llama"), np.random.default_rng(seed), 2, 3.0
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    adapted = {**_attention(width, heads), **_feed_forward(width)}
    added = {}
    for name in ("attn_q.weight", "attn_v.weight", "ffn_down.weight"):
        rows, columns = adapted[name]
        for i in range(LAYERS):
            a, b = rng.normal(size=(rank, columns)) / 4, rng.normal(size=(rows, rank)) / 4
            writer.add_tensor(f"blk.{i}.{name}.lora_a", a.astype(np.float32))
            writer.add_tensor(f"blk.{i}.{name}.lora_b", b.astype(np.float32))
            added[f"blk.{i}.{name}"] = alpha / rank * b @ a
    _close(writer)
    return added


STATE, RANK, KERNEL = 8, 4, 4  # of recurrent layers


def _ends(vocab_size: int, width: int) -> Shapes:
    return {
        "token_embd.weight": (vocab_size, width),
        "output.weight": (vocab_size, width),
        "output_norm.weight": (width,),
    }


def _block(i: int, shapes: Shapes) -> Shapes:
    return {f"blk.{i}.{name}": shape for name, shape in shapes.items()}


def _attention(width: int, heads: int) -> Shapes:
    kv = width // heads * (heads // 2)
    return {
        "attn_q.weight": (width, width),
        "attn_k.weight": (kv, width),
        "attn_v.weight": (kv, width),
        "attn_output.weight": (width, width),
    }


def _feed_forward(width: int) -> Shapes:
    return {
        "ffn_norm.weight": (width,),
        "ffn_gate.weight": (2 * width, width),
        "ffn_up.weight": (2 * width, width),
        "ffn_down.weight": (width, 2 * width),
    }


def _recurrence(width: int) -> Shapes:
    inner = 2 * width
    return {
        "ssm_in.weight": (2 * inner, width),
        "ssm_conv1d.weight": (inner, KERNEL),
        "ssm_conv1d.bias": (inner,),
        "ssm_x.weight": (RANK + 2 * STATE, inner),
        "ssm_dt.weight": (inner, RANK),
        "ssm_dt.bias": (inner,),
        "ssm_a": (inner, STATE),
        "ssm_d": (inner,),
        "ssm_out.weight": (width, inner),
    }


def _say_sizes(writer: Any, width: int, heads: int, kv_heads: int | list[int] | None, inner: int | None = None) -> None:
    writer.add_embedding_length(width)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * width if inner is None else inner)
    writer.add_head_count(heads)
    if kv_heads is not None:
        writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)


def _say_recurrence(writer: Any, width: int) -> None:
    writer.add_ssm_conv_kernel(KERNEL)
    writer.add_ssm_inner_size(2 * width)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)


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


def _written(writer: Any, shapes: Shapes, rng: np.random.Generator, added: Mapping[str, Floats] | None = None) -> None:
    for name, shape in shapes.items():
        if name.endswith("norm.weight"):
            values = np.ones(shape)
        elif name.endswith("ssm_a"):
            values = -np.exp(rng.normal(0, 0.5, shape))
        else:
            values = rng.normal(0, 1 / np.sqrt(shape[-1]), shape)
        writer.add_tensor(name, (values + (added or {}).get(name, 0.0)).astype(np.float32))
    _close(writer)


def _close(writer: Any) -> None:
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
    options = {**EXACT, **options}
    made = engine(LlamaModel(file, {}, {}), LlamaCppOptions(kv_memory=4, **options), vocab_size=vocab_size, is_own=True)
    return SteppedEngine(
        made.backend, prompt_memory=prompt_memory, kv_memory=kv_memory or 4 << 20, max_rows=options.get("max_rows", 32)
    )


def llama_engine(**options: Any) -> SteppedEngine:
    return engine_of(_twelve(write_llama), vocab_size=12, **options)


def mamba_engine(**options: Any) -> SteppedEngine:
    return engine_of(_twelve(write_mamba), vocab_size=12, **options)


def jamba_engine(**options: Any) -> SteppedEngine:
    return engine_of(_twelve(write_jamba), vocab_size=12, **options)


def lfm2_engine(**options: Any) -> SteppedEngine:
    return engine_of(_twelve(write_lfm2), vocab_size=12, **options)


@cache
def _twelve(write: Callable[..., Path]) -> Path:
    """A file with twelve words, for this process."""
    folder = Path(tempfile.mkdtemp(prefix="gguf-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write(folder / "tiny.gguf", ["<|end|>", *"bcdefghijk", "a"])
