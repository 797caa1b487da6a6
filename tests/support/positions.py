"""Tiny random models of families that count positions in ways of their own, or are no causal models at all."""

from __future__ import annotations

from typing import Any

import torch
import transformers

NO_SPECIAL: dict[str, Any] = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
DECODER: dict[str, Any] = {
    "d_model": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "encoder_layers": 1,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "max_position_embeddings": 128,
    "init_std": 0.4,
    "scale_embedding": False,
}
ENCODER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,
    "is_decoder": True,
}
LLAMA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,
}
LLAMA4: dict[str, Any] = {
    **LLAMA,
    "intermediate_size_mlp": 48,
    "num_local_experts": 2,
    "floor_scale": 4,
    "attn_scale": 2.0,
    "no_rope_layers": [1, 0],
    "num_hidden_layers": 2,
    "pad_token_id": 0,
}

# name: (config class, fields). Their numbers differ in a batch of several lengths, as transformers' own do when padded
WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "bart": ("BartConfig", DECODER),
    "bigbird_pegasus": ("BigBirdPegasusConfig", {**DECODER, "attention_type": "original_full"}),
    "blenderbot": ("BlenderbotConfig", DECODER),
    "blenderbot-small": ("BlenderbotSmallConfig", DECODER),
    "marian": ("MarianConfig", {**DECODER, "pad_token_id": 0, "decoder_vocab_size": 300}),
    "mbart": ("MBartConfig", DECODER),
    "mvp": ("MvpConfig", DECODER),
    "pegasus": ("PegasusConfig", DECODER),
    "plbart": ("PLBartConfig", DECODER),
    "trocr": ("TrOCRConfig", {**DECODER, "d_model": 32}),
    "prophetnet": (
        "ProphetNetConfig",
        {
            "hidden_size": 32,
            "num_decoder_layers": 2,
            "num_decoder_attention_heads": 4,
            "decoder_ffn_dim": 48,
            "num_encoder_layers": 1,
            "num_encoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "max_position_embeddings": 128,
            "init_std": 0.4,
        },
    ),
    "roformer": ("RoFormerConfig", {**ENCODER, "embedding_size": 32}),
    "git": (
        "GitConfig",
        {
            **{k: v for k, v in ENCODER.items() if k != "is_decoder"},
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 8,
                "patch_size": 4,
            },
        },
    ),
    "camembert": ("CamembertConfig", ENCODER),
    "data2vec-text": ("Data2VecTextConfig", ENCODER),
    "roberta": ("RobertaConfig", ENCODER),
    "roberta-prelayernorm": ("RobertaPreLayerNormConfig", ENCODER),
    "xlm-roberta": ("XLMRobertaConfig", ENCODER),
    "xlm-roberta-xl": ("XLMRobertaXLConfig", ENCODER),
    "xmod": ("XmodConfig", {**ENCODER, "languages": ["en_XX"], "default_language": "en_XX"}),
    "cpmant": (
        "CpmAntConfig",
        {
            "hidden_size": 32,
            "num_attention_heads": 4,
            "dim_head": 8,
            "dim_ff": 48,
            "num_hidden_layers": 2,
            "prompt_types": 4,
            "prompt_length": 4,
            "segment_types": 4,
            "init_std": 0.4,
        },
    ),
    "doge": ("DogeConfig", {**LLAMA, "keep_window_size": 4}),
    "llama4_text": ("Llama4TextConfig", LLAMA4),
    "llama4": ("Llama4Config", {"text_config": LLAMA4}),
}
# they take positions, though only a part of them names them
HANDED_ON: dict[str, tuple[str, dict[str, Any]]] = {
    "whisper": ("WhisperConfig", {**DECODER, "max_target_positions": 128, "num_mel_bins": 8, **NO_SPECIAL}),
    "moss_transcribe_diarize": (
        "MossTranscribeDiarizeConfig",
        {
            "audio_config": {
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "max_source_positions": 8,
            },
            "text_config": {"model_type": "qwen3", **LLAMA},
        },
    ),
}


def model_of(config_class: str, fields: dict[str, Any], **changes: Any) -> Any:
    """A random model in float32."""
    fields = {**fields, **changes}
    if "text_config" in fields:
        fields["text_config"] = {**fields["text_config"], "vocab_size": 300}
    else:
        fields["vocab_size"] = 300
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**fields)
    return transformers.AutoModelForCausalLM.from_config(config).float().eval()
