"""The options of every engine, and where each is loaded: a union on `name`, as for samplers. No torch in here."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Discriminator, Field, SecretStr, model_validator

from power_sampling.errors import ConfigurationError, shortened
from power_sampling.settings import Settings, hint

__all__ = [
    "ENGINES",
    "BaseUrls",
    "EngineOptions",
    "LlamaCppOptions",
    "TorchFields",
    "TorchOptions",
    "VllmOptions",
    "can_run_gguf",
]

# what `from_pretrained` takes and fields of ours say: one door for each
DOORS = frozenset(
    (
        "attn_implementation",
        "device_map",
        "dtype",
        "quantization_config",
        "revision",
        "torch_dtype",
        "trust_remote_code",
    )
)


class TorchFields(Settings):
    """The options of the engine `torch`."""

    SERVING: ClassVar[frozenset[str]] = frozenset(
        (
            "check_model",
            "compile_layers",
            "cuda_graphs",
            "kv_memory",
            "max_rows",
            "pack_weights",
            "prompt_memory",
            "snapshots",
        )
    )
    """Fields that also concern a model that is loaded already; the others say how one is loaded."""

    dtype: str = "auto"
    """`auto` (as stored), `float32`, `bfloat16`, `float16`, `float64`."""
    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`, `mps`; None: a GPU where there is one (on `mps`, Apple's, it has not been run yet)."""
    device_map: str | dict[str, Any] | None = None
    """`auto`, or a mapping of modules to devices; instead of `device`."""
    attn_implementation: str | None = None
    """`eager`, `sdpa`, `flash_attention_2`, ...; None: transformers chooses."""
    quantization_config: dict[str, Any] | None = None
    """Fields of a transformers quantisation config, `quant_method` included. torchao's int8 was tried on a CPU; the
    others have not been."""
    adapter: str | None = None
    """Folder or hub id of a PEFT adapter in the layers (LoRA, DoRA, IA3, ...) that was trained for this model. The
    tokenizer stays the model's own: give `tokenizer` where the adapter's folder has another one."""
    merge_adapter: bool | None = None
    """Add the adapter to the weights, in their type (True), or compute it beside them (False). None: merged, unless the
    model is quantised."""
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Anything else for `from_pretrained`."""
    check_model: bool = True
    """Try the model when it is loaded: two short texts in the engine's hands against full passes. A family whose
    numbers would be wrong there is refused. False serves it all the same."""
    max_rows: int = Field(default=32, ge=1)
    """Rows decoded together; further draws wait."""
    prompt_memory: int = Field(default=512, ge=0)
    """MiB of prompts kept across requests (a prefix cache): what a new prompt shares with them is not computed again.
    0: none."""
    kv_memory: int | None = Field(default=None, ge=1)
    """MiB for keys, values and recurrent states: of the rows in decoding and their prompts, more of which wait, and of
    finished rows, which are evicted when it gets tight. None: 60 percent of what is free after loading. Should memory
    run out all the same, the batch is halved and goes on."""
    snapshots: int = Field(default=8, ge=0)
    """Copies of its recurrent states that are kept of one row of a recurrent or hybrid model (Qwen3.5, Granite 4 H,
    Mamba 2, ...), besides those at the ends of prompts and draws. Such a state cannot be cut, so a redraw from a cut
    starts from the copy before it and feeds the tokens between again: at 8 about a tenth more tokens than an
    attention model, at 4 a fifth. They are part of `kv_memory`. Samplers that never cut need none: 0."""
    pack_weights: bool | None = None
    """Lay float32 weights out for the CPU once: several rows then cost little more than one. With g++ (or `$CXX`) on
    Linux the copies have the fewest bits that keep every weight as it is: 16 for those of checkpoints in bfloat16, 8
    or 4 for those of GGUF's Q8_0 and Q4_1. Llama, Mistral, Qwen 2 and Qwen 3 are then computed by layers made for it,
    where a trial agrees with the plain model; log-probabilities differ by rounding. None: where it can be done, half
    of the free memory holds the copies, and the model was loaded here (a model handed over loaded is left as it is;
    with True, changes of its weights between requests are noticed, hooks are not)."""
    compile_layers: bool = False
    """Deprecated: layers that `pack_weights` chooses by itself took its place, and nothing is compiled for a minute.
    True asks for those layers, with or without packed weights, and refuses a model that cannot have them."""
    cuda_graphs: bool = False
    """Replay decoding steps on a CUDA GPU as graphs, where the model is one program at every step (no experts, torch's
    own attention, all of it on one GPU); other models and devices decode as before. Not yet run on a GPU."""

    @model_validator(mode="after")
    def _check_model_kwargs(self) -> Self:
        if own := sorted(DOORS & self.model_kwargs.keys()):
            raise ConfigurationError(f"model_kwargs: {', '.join(own)}: give it as a field of its own, beside it.")
        if not self.model_kwargs.get("weights_only", True):
            raise ConfigurationError("model_kwargs: weights_only=False runs what a checkpoint holds; leave it out.")
        return self

    @model_validator(mode="after")
    def _check_adapter(self) -> Self:
        if self.merge_adapter is not None and self.adapter is None:
            raise ConfigurationError("merge_adapter: there is no adapter to merge; give `adapter` too.")
        if self.merge_adapter and self.quantization_config is not None:
            raise ConfigurationError("merge_adapter: a quantised model would round what is merged into it.")
        return self

    @model_validator(mode="after")
    def _check_placement(self) -> Self:
        if self.device is not None and self.device_map is not None:
            raise ConfigurationError(
                f"device and device_map both place the model: got {self.device!r} and {self.device_map!r}; give one."
            )
        return self


CacheType: TypeAlias = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]


class TorchOptions(TorchFields):
    """Any transformers model, on a processor or a GPU: the reference."""

    LOADER: ClassVar[str] = "power_sampling.engines.torch.load"
    EXTRA: ClassVar[str] = ""

    name: Literal["torch"] = "torch"


CACHE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "bf16": 30}  # ggml's numbers


def _as_factors(value: Any) -> Any:
    """A path, or several, are applied as they were trained."""
    paths = [value] if isinstance(value, str) else value
    return dict.fromkeys(paths, 1.0) if isinstance(paths, list | tuple) else paths


class LlamaCppOptions(Settings):
    """GGUF files in their own bits, by llama.cpp: laptops, Macs, any processor."""

    LOADER: ClassVar[str] = "power_sampling.engines.llama_cpp.load"
    EXTRA: ClassVar[str] = "llama-cpp"

    name: Literal["llama_cpp"] = "llama_cpp"
    n_gpu_layers: int | None = None
    """Layers on a GPU, where llama.cpp was built for one; -1: all. None: llama.cpp's default. Not yet run on a GPU."""
    n_threads: int | None = Field(default=None, ge=1)
    """Threads of a pass; None: one for each core."""
    n_ctx: int | None = Field(default=None, ge=1)
    """Most tokens of prompt and completion together; None: those that the model was trained with."""
    flash_attn: bool | None = None
    """llama.cpp's flash attention; None: where it is faster, by its own judgement."""
    type_k: CacheType | None = None
    """How keys are stored: `f16` (None), `f32`, `bf16`, `q8_0`, ... With fewer bits more rows fit, and the model is
    another one by their rounding."""
    type_v: CacheType | None = None
    """How values are stored; in fewer bits than 16 with flash attention only."""
    lora: Annotated[dict[str, float], BeforeValidator(_as_factors)] = Field(default_factory=dict)
    """GGUF files of LoRA adapters: one, a list, or a mapping of files to the factors they are applied with."""
    max_rows: int = Field(default=32, ge=1, le=192)
    """Rows decoded together; further draws wait."""
    kv_memory: int | None = Field(default=None, ge=1)
    """MiB of the cache for keys, values and recurrent states, of rows and prompts alike; taken at once. None: room for
    32768 tokens, at most 60 percent of what is free."""
    prompt_memory: int | None = Field(default=None, ge=0)
    """MiB of it, at most half, for prompts kept across requests (a prefix cache). None: a quarter; 0: none."""
    snapshots: int = Field(default=8, ge=0)
    """As for the engine `torch`: copies of its recurrent states that are kept of one row of a recurrent or hybrid
    model."""
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further fields of llama.cpp's `llama_model_params`, as numbers: `main_gpu`, `split_mode`, `load_mode`, ..."""

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        if self.type_v not in (None, "f32", "f16", "bf16") and self.flash_attn is False:
            raise ConfigurationError(f"type_v={self.type_v!r} needs flash_attn; leave out flash_attn=False.")
        return self

    @model_validator(mode="after")
    def _check_model_kwargs(self) -> Self:
        if own := sorted(name for name in ("no_alloc", "vocab_only") if self.model_kwargs.get(name)):
            raise ConfigurationError(f"model_kwargs: {', '.join(own)} loads no weights; leave it out.")
        return self

    def cache_type(self, field: str) -> int | None:
        """ggml's number of the type that is asked for."""
        name = getattr(self, field)
        return None if name is None else CACHE_TYPES[name]


def can_run_gguf() -> bool:
    """Whether the package llama-cpp-python is installed."""
    return importlib.util.find_spec("llama_cpp") is not None


def _as_urls(value: Any) -> Any:
    """One address or several, each once, without `/v1` and slashes at their ends."""
    urls = (value,) if isinstance(value, str) else () if value is None else value
    if not isinstance(urls, (list, tuple)) or not all(isinstance(url, str) for url in urls):
        raise ConfigurationError(f"base_url: expected an address, or a list of them, got {shortened(value)}.")
    plain = [url.strip().rstrip("/").removesuffix("/v1").rstrip("/") for url in urls]
    for url in plain:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"base_url: expected an address as http://localhost:8000, got {shortened(url)}.")
    return tuple(dict.fromkeys(plain))


def _as_key(value: Any) -> Any:
    """A key that was written out is all stars: the environment is asked again."""
    return None if isinstance(value, str) and not value.strip("*") else value


BaseUrls: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_as_urls)]


class VllmOptions(Settings):
    """vLLM servers, one or several: throughput, quantised and large models, past one machine (docs/scale.md)."""

    LOADER: ClassVar[str] = "power_sampling.engines.vllm.load"
    EXTRA: ClassVar[str] = "vllm"

    name: Literal["vllm"] = "vllm"
    base_url: BaseUrls = ()
    """Address of a server, or a list of them that serve the same model: `http://localhost:8000`."""
    api_key: Annotated[SecretStr | None, BeforeValidator(_as_key)] = None
    """What the servers were started with as `--api-key`; None: the environment's VLLM_API_KEY, if there is one. It is
    never written out."""
    support: Literal["top", "full"] = "top"
    """`top`: tokens are drawn from the `support_size` likeliest ones of every position, and the target is p(x)^alpha on
    the completions made of those; `diagnostics.mass_left_out` says what that leaves out. `full`: from all tokens; the
    normaliser of q is then known within a bound, `diagnostics.error_bound`, that falls steeply with alpha."""
    support_size: int | None = Field(default=None, ge=1, le=1024)
    """How many of the likeliest tokens are drawn from; with `full`, how many the bound is computed from. The servers
    have to list one more (`--max-logprobs`). None: 64, or what they allow."""
    max_requests: int = Field(default=64, ge=1, le=4096)
    """Draws under way at each server; further ones wait."""
    server_timeout: float = Field(default=120.0, gt=0)
    """Seconds after which a server that answers none of the draws it has is set aside, and they go elsewhere."""


ENGINES: dict[str, type[TorchOptions] | type[LlamaCppOptions] | type[VllmOptions]] = {
    "torch": TorchOptions,
    "llama_cpp": LlamaCppOptions,
    "vllm": VllmOptions,
}


def _by_name(value: Any) -> Any:
    """A bare name means that engine with its defaults."""
    values = {"name": value} if isinstance(value, str) else value
    if isinstance(values, Mapping):
        name = values.get("name")
        if not isinstance(name, str) or name not in ENGINES:
            got = "no name" if name is None else f"no engine {shortened(name)}"
            raise ConfigurationError(f"engine: there is {got}.{hint(shortened(name), list(ENGINES))}")
    return values


EngineOptions: TypeAlias = Annotated[
    TorchOptions | LlamaCppOptions | VllmOptions, Discriminator("name"), BeforeValidator(_by_name)
]
