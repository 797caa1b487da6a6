"""Random GGUF models, written with the package `gguf`: the shapes of Llama and of Mamba in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
    return _written(writer, tensors, rng)


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
    return _written(writer, tensors, rng)


def _writer(path: Path, architecture: str, words: list[str]):  # type: ignore[no-untyped-def] # of an extra package
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


def _written(writer, tensors: dict[str, tuple[int, ...]], rng: np.random.Generator) -> Path:  # type: ignore[no-untyped-def]
    for name, shape in tensors.items():
        if name.endswith("norm.weight"):
            values = np.ones(shape)
        elif name.endswith("ssm_a"):
            values = -np.exp(rng.normal(0, 0.5, shape))
        else:
            scale = 2.5 if name == "output.weight" else 1.2
            values = rng.normal(0, scale / np.sqrt(shape[-1]), shape)
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(writer.path if hasattr(writer, "path") else "")
