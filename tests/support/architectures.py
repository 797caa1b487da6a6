"""Tiny random models of the architectures of transformers, one line each: a class of configuration, and its fields."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers

from power_sampling.engines.torch.engine import TorchLM
from power_sampling.types import Chain, Continuation, Draw, Floats, Law, Termination, Tokens

__all__ = ["PEOPLE_USE", "SEEING", "build", "build_seeing", "forked_draws", "full_pass"]

VOCAB = 40
NARROW: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,  # strong enough that every position matters
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "vocab_size": VOCAB,
}
SLIDING = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"] * 2}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
EXPERTS |= {"experts_implementation": "eager"}  # the other one takes no float64
LATENT: dict[str, Any] = {**EXPERTS, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_key_value_heads": 4}
LATENT |= {"kv_lora_rank": 8, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
INDEX = {"index_topk": 5, "index_n_heads": 16, "index_head_dim": 8}  # with few heads, scores are equal: all below 0
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
DELTA |= {"layer_types": ["linear_attention", "full_attention"] * 2}
MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2}
MAMBA2 |= {"mamba_chunk_size": 4}
MIXED = {"layer_types": ["linear_attention", "full_attention"] * 2}
SHARED = {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB, **SLIDING}

UNCLAMPED = 1e-12  # transformers clamps time steps of a piece, at 0.001, and forgets to where one token is fed

# what most people run late in 2026: the recurrent and hybrid families, and those of attention
PEOPLE_USE: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {"sliding_window": 5}),
    "qwen3": ("Qwen3Config", {}),
    "qwen3_moe": ("Qwen3MoeConfig", EXPERTS),
    "gemma3_text": ("Gemma3TextConfig", {**SLIDING, "query_pre_attn_scalar": 8}),
    "gpt_oss": ("GptOssConfig", {**EXPERTS, **SLIDING}),
    "phi3": ("Phi3Config", {}),
    "olmo3": ("Olmo3Config", SLIDING),
    "smollm3": ("SmolLM3Config", {"no_rope_layers": [1, 0, 1, 0]}),
    "deepseek_v3": ("DeepseekV3Config", {**LATENT, "first_k_dense_replace": 1}),
    "deepseek_v32": ("DeepseekV32Config", {**LATENT, **INDEX}),
    "glm_moe_dsa (GLM-5)": ("GlmMoeDsaConfig", {**LATENT, **INDEX}),
    "gemma3n_text, last layers sharing": ("Gemma3nTextConfig", {**SHARED, "laurel_rank": 4, "altup_num_inputs": 2}),
    "gemma4_text, last layers sharing (E2B, E4B)": ("Gemma4TextConfig", {**SHARED, "global_head_dim": 8}),
    "granitemoehybrid, all attention (Granite 4 dense)": (
        "GraniteMoeHybridConfig",
        {**MAMBA2, "layer_types": ["full_attention"] * 4, "num_local_experts": 0, "shared_intermediate_size": 48},
    ),
    "qwen3_5_text": ("Qwen3_5TextConfig", DELTA),
    "qwen3_next": ("Qwen3NextConfig", {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 16}),
    "granitemoehybrid (Granite 4 H)": (
        "GraniteMoeHybridConfig",
        {**MAMBA2, **MIXED, "num_local_experts": 0, "shared_intermediate_size": 48},
    ),
    "nemotron_h": (
        "NemotronHConfig",
        {
            "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"],
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "ssm_state_size": 8,
            "n_groups": 1,
            "chunk_size": 4,
            "time_step_min": UNCLAMPED,
        },
    ),
    "falcon_h1": ("FalconH1Config", {**MAMBA2, "mamba_d_ssm": 64}),
    "mamba2": (
        "Mamba2Config",
        {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 4, "num_hidden_layers": 2},
    ),
    "mamba": ("MambaConfig", {"state_size": 4, "num_hidden_layers": 2}),
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"] * 2, "block_ff_dim": 32}),
    "jamba": (
        "JambaConfig",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 4,
            "num_experts": 1,
            "num_experts_per_tok": 1,
        },
    ),
    "bamba": ("BambaConfig", {**MAMBA2, "attn_layer_indices": [1, 3]}),
    "zamba2": (
        "Zamba2Config",
        {
            "layers_block_type": ["linear_attention", "hybrid"] * 2,
            "n_mamba_heads": 4,
            "mamba_headdim": 16,
            "mamba_d_state": 8,
            "mamba_ngroups": 1,
            "chunk_size": 4,
            "num_mem_blocks": 1,
            "attention_hidden_size": 64,
            "attention_head_dim": 16,
            "time_step_min": UNCLAMPED,
        },
    ),
    "olmo_hybrid": ("OlmoHybridConfig", DELTA),
    "kimi_linear": (
        "KimiLinearConfig",
        {
            **EXPERTS,
            **MIXED,
            "mlp_layer_types": ["dense", "sparse"] * 2,
            "num_key_value_heads": 4,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "linear_head_dim": 8,
            "linear_num_heads": 4,
        },
    ),
    "falcon_mamba": ("FalconMambaConfig", {"state_size": 4, "num_hidden_layers": 2}),
    "zamba": (
        "ZambaConfig",
        {
            "layers_block_type": ["linear_attention", "hybrid"] * 2,
            "n_mamba_heads": 2,
            "mamba_d_state": 4,
            "attention_hidden_size": 64,
            "attention_head_dim": 16,
        },
    ),
    "lfm2_moe": ("Lfm2MoeConfig", {"layer_types": ["conv", "full_attention"] * 2, **EXPERTS, "num_dense_layers": 1}),
    "lfm3": ("Lfm3Config", {"layer_types": ["conv", "full_attention"] * 2, "block_ff_dim": 32, **EXPERTS}),
    "qwen3_5_moe_text": ("Qwen3_5MoeTextConfig", {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 16}),
    "recurrent_gemma": (
        "RecurrentGemmaConfig",
        {
            "lru_width": 32,
            "attention_window_size": 5,
            "block_types": ["recurrent", "recurrent", "attention"],
            "num_hidden_layers": 3,
            "num_key_value_heads": 1,
            "w_init_variance_scale": 4.0,
        },
    ),
    "minimax (text-01, M1)": ("MiniMaxConfig", {**EXPERTS, **MIXED, "block_size": 4}),
    "rwkv (4)": ("RwkvConfig", {"attention_hidden_size": 32, "num_hidden_layers": 2}),
    "xlstm": ("xLSTMConfig", {"hidden_size": 128, "num_heads": 4, "chunk_size": 4, "num_hidden_layers": 2}),
    "qwen4_exp_text": (
        "Qwen4ExpTextConfig",
        {
            **DELTA,
            **EXPERTS,
            "shared_expert_intermediate_size": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
            "indexer_n_heads": 16,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 8,
            "indexer_budget": 4,
            "indexer_compress_ratio": 2,
            "hc_lowrank": 8,
            "ple_layer_ids": [1],
            "ngram_vocab_size_base": 50,
            "heads_per_ngram": 2,
            "split_ngram_parts": 1,
            "eos_token_id": 0,
        },
    ),
}


SEES: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SEES |= {"image_size": 8, "patch_size": 4}
QWEN_SEES = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 4}
QWEN_SEES |= {"out_hidden_size": 32}
TEXT = {**NARROW, "vocab_size": 262, "num_hidden_layers": 2}
ROPE = {"rope_type": "default", "rope_theta": 1e4}
TURNS = {"rope_parameters": {**ROPE, "mrope_section": [1, 1, 2]}}
GEMMA = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"], "pad_token_id": 0}
PLE = {"global_head_dim": 8, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 262}
HALF = {"rope_parameters": {**ROPE, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.5}}

# models that see: (config class, of the eyes, of the text, what else)
SEEING: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "mistral3": ("Mistral3Config", {"model_type": "pixtral", **SEES}, {"model_type": "mistral"}, {}),
    "qwen2_5_vl": ("Qwen2_5_VLConfig", QWEN_SEES, TURNS, {}),
    "qwen3_vl": ("Qwen3VLConfig", {**QWEN_SEES, "deepstack_visual_indexes": [0]}, TURNS, {}),
    "qwen3_5": (
        "Qwen3_5Config",
        QWEN_SEES,
        {**DELTA, **HALF, "layer_types": ["linear_attention", "full_attention"]},
        {},
    ),
    "gemma3": ("Gemma3Config", {"model_type": "siglip_vision_model", **SEES}, GEMMA, {"mm_tokens_per_image": 4}),
    "gemma4": ("Gemma4Config", {**SEES, "head_dim": 8, "num_key_value_heads": 2}, {**GEMMA, **PLE}, {}),
    "llama4": (
        "Llama4Config",
        {**SEES, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16},
        {"intermediate_size_mlp": 48, "num_local_experts": 2, "no_rope_layers": [1, 0]},
        {},
    ),
    "smolvlm": ("SmolVLMConfig", SEES, {"model_type": "llama"}, {}),
}


def build_seeing(name: str) -> Any:
    """A random model that sees, of the named line, in float32."""
    config_class, eyes, text, others = SEEING[name]
    config = getattr(transformers, config_class)(vision_config=eyes, text_config={**TEXT, **text}, **others)
    torch.manual_seed(0)
    return transformers.AutoModelForImageTextToText.from_config(config).float().eval()


def full_pass(model: Any, prompt: Tokens, tokens: Tokens, vocab: int | None = None) -> Floats:
    """log p of these tokens by one forward pass that keeps nothing."""
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0, len(prompt) - 1 : -1, :vocab]
    found: Floats = logits.double().log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])[:, 0].numpy()
    return found


def forked_draws(lm: TorchLM, *, generations: int = 3) -> list[tuple[Tokens, Chain]]:
    """Rows of all lengths, which enter and leave between each other's steps, cut anywhere and drawn on."""
    prompts: list[Tokens] = [(5, 3, 7, 7, 2, 9, 1), (4,), (8, 1, 6) * 4]
    handles = {prompt: lm.open(prompt, Termination(frozenset())) for prompt in prompts}
    rng = np.random.default_rng(0)
    chains = [(prompt, Chain.empty()) for prompt in prompts for _ in range(2)]
    for _ in range(generations):
        under_way: dict[int, tuple[Tokens, Draw]] = {}
        for prompt, chain in chains:
            cut, new = int(rng.integers(len(chain.tokens) + 1)), int(rng.integers(1, 16))
            draw = Draw(chain, cut, new, Law(2.0, 1.0, 0.5), int(rng.integers(2**60)))
            under_way[lm.add(handles[prompt], draw)] = prompt, draw
        ended: dict[int, Continuation] = {}
        while len(ended) < len(under_way):
            ended.update(lm.step().finished)
        chains = [(prompt, draw.chain.spliced(draw.cut, ended[i])) for i, (prompt, draw) in under_way.items()]
    return chains


def build(name: str, *, dtype: torch.dtype = torch.float64, seed: int = 0, **changes: Any) -> Any:
    """A random causal language model of the named line."""
    config_class, fields = PEOPLE_USE[name]
    config = getattr(transformers, config_class)(**NARROW | fields | changes)
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).to(dtype).eval()
