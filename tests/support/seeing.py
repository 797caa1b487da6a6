"""A tiny random model of every architecture of transformers that sees and writes, as far as one can be built of a few
small sizes: of its text, of its eyes and of whatever else it has."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from tests.support.architectures import HALF, PEOPLE_USE, SEEING, TURNS, UNCLAMPED, build_seeing
from tests.support.every import GROUPED, SIZES, fields_of

__all__ = ["NOT_SEEN", "SEEN", "UNSEEN", "tiny_seeing"]

SEEN = list(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
EYES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "embed_dim", "intermediate_size", "mlp_dim", "d_model", "encoder_ffn_dim"), 16),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "depth", "encoder_layers", "temporal_patch_size"), 1),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_heads", "encoder_attention_heads"), 2),
    **dict.fromkeys(("vision_output_dim", "projector_input_dim", "projector_output_dim", "projection_dim"), 16),
    **dict.fromkeys(("head_dim", "attention_head_dim", "image_size"), 8),
    "hidden_dim": 16,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "num_channels": 3,
    "out_hidden_size": 32,
    "text_hidden_size": 32,
    "video_temporal_patch_size": 2,
    "vocab_size": 40,
    "deepstack_visual_indexes": [0],
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
WRITES = ("text_config", "llm_config", "decoder", "decoder_config", "language_config")
TURNED = ("glm46v", "glm4v", "paddleocr_vl", "qwen2_5_omni_thinker", "qwen2_vl", "hunyuan_vl", "cosmos3_edge")
HALF_TURNED = ("glm4v_moe", "glm_ocr", "glmga")
AXES: dict[str, Any] = dict.fromkeys(("full_attention", "sliding_attention"), TURNS["rope_parameters"])
POOLED = {"layer_types": ["linear_attention", "indexed_attention"], "index_kpool": 2, "index_topk": 4}
QWEN4 = {
    name: value for name, value in PEOPLE_USE["qwen4_exp_text"][1].items() if name.startswith("index") or "rope" in name
}
# of the text, where it does not fit in with the sizes of all
TEXT: dict[str, dict[str, Any]] = {
    **dict.fromkeys(TURNED, TURNS),
    **dict.fromkeys(HALF_TURNED, HALF),
    **dict.fromkeys(("kimi_k25", "mistral4", "mistral_large4"), GROUPED),
    "cohere_compass": {"rope_parameters": AXES},
    "dots3_note": {**GROUPED, "layer_types": ["indexed_attention"] * 2},
    "ernie4_5_vl_moe": {**TURNS, "moe_intermediate_size": [16, 16]},
    "glm5_next": {**GROUPED, **POOLED, "qk_rope_head_dim": 0, "qk_head_dim": 8},
    "nemotron_h_omni": {
        **{"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 4},
        "time_step_min": UNCLAMPED,
    },
    "qwen4_exp": {"layer_types": ["linear_attention", "indexed_attention"], **QWEN4},
}
# of the rest
OTHERS: dict[str, dict[str, Any]] = {
    "chameleon": {"vocabulary_map": {"<image>": 3}},
    "emu3": {"vocabulary_map": {"<image>": 3}},
    "molmo2": {"vision_config": {"image_size": [8, 8]}},
    "muse_spark": {"vision_config": {"num_hidden_layers": 4}},
}
NOT_SEEN = {  # and why
    **dict.fromkeys(("fast_vlm", "gemma3n", "perception_lm"), "its eyes need timm"),
    **dict.fromkeys(("deepseek_ocr2", "dots3_note", "emu3", "florence2"), "sizes of its own"),
    **dict.fromkeys(("granite4_vision", "inkling_mm_model", "molmo2", "muse_spark"), "sizes of its own"),
    **dict.fromkeys(("t5gemma2", "unlimited_ocr"), "sizes of its own"),
    "evolla": "transformers cannot build it from its configuration",
    "glm5_next": "refused, its indexer asks a cache for its length within a pass; a small one takes minutes",
    "pi0": "moves a robot",
}
UNSEEN = {  # refused, and why
    **dict.fromkeys(("blip", "blip-2", "instructblip", "instructblipvideo"), "no cache that can be handed in"),
    **dict.fromkeys(("git", "kosmos-2.5"), "positions counted from the padding"),
    **dict.fromkeys(("idefics", "kosmos-2"), "no text without an image"),
    **dict.fromkeys(("pix2struct", "pp_formulanet", "udop", "vision-encoder-decoder"), "no causal language model"),
    "diffusion_gemma": "a diffusion model",
    "paligemma": "looks at what comes later in a prompt",
}


def tiny_seeing(model_type: str) -> Any:
    """A random model in float64. Raises whatever a configuration raises that cannot be so small."""
    if model_type in SEEING:
        return build_seeing(model_type).double()
    kind = transformers.CONFIG_MAPPING[model_type]
    parts: dict[str, Any] = {}
    others = dict(OTHERS.get(model_type, {}))
    for name in kind.sub_configs:
        part = getattr(kind(), name, None)
        if part is not None:
            own = TEXT.get(model_type, {}) if name in WRITES else others.pop(name, {})
            sizes = SIZES if name in WRITES else EYES
            parts[name] = {"model_type": part.model_type, **fields_of(type(part), sizes), **own}
    if not parts.keys() & set(WRITES):
        others.update(TEXT.get(model_type, {}))
    config = kind(**fields_of(kind, SIZES) | parts | others)
    with torch.device("meta"):
        size = sum(x.numel() for x in transformers.AutoModelForImageTextToText.from_config(config).parameters())
    assert size < 10**8, f"{model_type} has {size} parameters: some of its sizes are named otherwise"
    torch.manual_seed(0)
    return transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float64).double().eval()
