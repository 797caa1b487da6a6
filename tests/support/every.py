"""A tiny random model of every causal architecture of transformers, as far as one can be built of a few small sizes."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.support.architectures import EXPERTS, NARROW, PEOPLE_USE, SEEING, build, build_seeing

__all__ = ["EVERY", "GROUPED", "NOT_BUILT", "REFUSED", "SIZES", "fields_of", "tiny"]

MLA = {"kv_lora_rank": 8, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "qk_head_dim": 16}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 4}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
OLD = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 48, "rotary_dim": 4, "num_layers": 2}
DECODER = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48, "init_std": 0.3}
SMALL: dict[str, Any] = {**NARROW, **EXPERTS, **MLA, **MAMBA, **LINEAR, **OLD, **DECODER} | {
    "num_hidden_layers": 2,
    "max_position_embeddings": 128,
    "num_heads": 4,
    "encoder_layers": 1,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "ffn_dim": 48,
    "d_ff": 48,
    "dim_ff": 48,
    "ffn_hidden_size": 48,
    "word_embed_proj_dim": 32,
    "embedding_size": 32,
    "is_decoder": True,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "shared_intermediate_size": 48,
    "shared_expert_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "expert_ffn_hidden_size": 16,
    "v_head_dim": 8,
    "dim_head": 8,
    "mamba_expand": 2,
    "state_size": 4,
    "index_n_heads": 16,
    "index_head_dim": 8,
    "index_topk": 8,
    "sliding_window": 5,
    "global_head_dim": 8,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": NARROW["vocab_size"],
}
ANY_MODEL = ("experts_implementation", "pad_token_id", "bos_token_id", "eos_token_id")  # though no class declares them
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {**SMALL, **SPECIAL}
GROUPED = {"num_key_value_heads": 4}  # as many as heads, where keys are compressed
OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa"), GROUPED),
    **dict.fromkeys(("dots3_note", "dots3_note_text", "longcat_flash", "minicpm3"), GROUPED),
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
    "hy_v4": {"pad_token_id": None},  # whose embedding is 0, and with it an indexer's scores, all the same
    "youtu": GROUPED,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
}
NOT_BUILT = {  # and why
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), "drafts from another model's keys and values"),
    **dict.fromkeys(("musicgen", "musicgen_melody"), "transformers cannot build it from its configuration"),
    **dict.fromkeys(("blt", "dbrx", "dots1", "cohere_compass_text", "dots3_note"), "sizes of its own"),
    **dict.fromkeys(("fuyu", "got_ocr2", "moss_transcribe_diarize"), "sizes of its own"),
    **dict.fromkeys(("phi4_multimodal", "reformer"), "sizes of its own"),
    "gemma3n": "its eyes need timm",
}
# refused: of families whose states cannot be had, and where a trial finds wrong numbers
REFUSED = {
    *("deepseek_v4", "openai-gpt", "xlm", "xlnet"),
    *(
        "bart",
        "bigbird_pegasus",
        "blenderbot",
        "blenderbot-small",
        "marian",
        "mbart",
        "mvp",
        "pegasus",
        "plbart",
        "trocr",
    ),
    *("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
    *("cpmant", "git", "prophetnet", "roformer"),
}
KINDS = {name.split(",")[0].split(" ")[0]: name for name in reversed(PEOPLE_USE)}
EVERY = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny(model_type: str) -> Any:
    """A random model in float64. Raises whatever a configuration raises that cannot be so small."""
    if model_type in KINDS:
        return build(KINDS[model_type])
    if model_type in SEEING:
        return build_seeing(model_type).double()
    kind = transformers.CONFIG_MAPPING[model_type]
    fields = _small(kind)
    try:
        config = kind(**fields | OWN.get(model_type, {}))
    except Exception:  # noqa: BLE001 - a class that does not know what no class declares
        fields.pop("experts_implementation", None)
        config = kind(**fields | OWN.get(model_type, {}))
    with torch.device("meta"):
        size = sum(x.numel() for x in transformers.AutoModelForCausalLM.from_config(config).parameters())
    assert size < 10**8, f"{model_type} has {size} parameters: some of its sizes are named otherwise"
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).double().eval()


def _small(kind: Any) -> dict[str, Any]:
    """The fields of a class of configurations that make it small, those of its text's included."""
    fields, text = fields_of(kind, SIZES), kind.sub_configs.get("text_config")
    return {**fields, "text_config": _small(text)} if hasattr(text, "sub_configs") else fields


def fields_of(kind: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    """Those of these sizes that a class of configurations has."""
    declared = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    names = {*declared, *inspect.signature(kind.__init__).parameters, *kind.attribute_map, *ANY_MODEL}
    return {name: value for name, value in sizes.items() if name in names}
