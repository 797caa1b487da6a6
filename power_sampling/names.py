"""Names that users bring from elsewhere, and what they are called here. For the hints of errors."""

from __future__ import annotations

__all__ = ["ADAPTERS_ONLY", "ALIASES", "elsewhere"]

ALIASES = {"max_tokens": "max_new_tokens"}
"""Other names of fields, in files and in the environment; both adapters take them as arguments too."""
ADAPTERS_ONLY = ("n",)
"""What files and the environment may say to adapters alone; `PowerSampler` takes it as an argument of its calls."""

_SAME = {
    "max_new_tokens": "max_tokens max_completion_tokens max_output_tokens max_tokens_to_sample num_predict n_predict",
    "stop": "stop_sequences stop_words stop_strings stops",
    "model": "model_name model_id model_path repo_id checkpoint",
    "seed": "random_seed random_state",
    "dtype": "torch_dtype",
    "base_url": "api_base openai_api_base endpoint_url server_url host",
    "timeout": "request_timeout",
    "quantization_config": "load_in_4bit load_in_8bit",
    "adapter": "peft_model lora lora_path adapter_id adapter_path peft_model_id",
    "json_schema": "response_format format guided_json",
    "regex": "guided_regex",
    "choices": "guided_choice",
    "bad_words": "bad_words_ids banned_words",
}
_OTHERWISE = {
    (
        "a penalty is raised to the power alpha like all of p, and then forbids what has to repeat, as names in code "
        "and keys in JSON; `alpha`, `top_p` and `min_p` keep to what is likely, `bad_words` excludes words"
    ): "repetition_penalty presence_penalty frequency_penalty no_repeat_ngram_size dry_multiplier penalty_alpha",
    "restrict p by `top_k`, `top_p` or `min_p`": "typical_p tfs_z mirostat epsilon_cutoff eta_cutoff xtc_threshold",
    "the context window is the model's own; of the engine llama_cpp it is the option n_ctx": (
        "num_ctx max_model_len context_size"
    ),
    "`sampler='ancestral'` is plain sampling, `temperature=0` is greedy": "do_sample num_beams",
    "give `n` with a call of PowerSampler, or to LangChain's models": "num_return_sequences n",
}
_TOLD = {name: f" Here it is {field!r}." for field, names in _SAME.items() for name in names.split()}
_TOLD |= {name: f" Not here: {words}." for words, names in _OTHERWISE.items() for name in names.split()}


def elsewhere(name: str) -> str:
    """What to use instead of a name of other libraries; nothing where it is none."""
    return _TOLD.get(name, "")
