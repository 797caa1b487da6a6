"""Models of transformers, loaded: a hub id, a local folder, a GGUF file, or the embedded default."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
)

from power_sampling.config import ModelConfig
from power_sampling.engines.embedded import embedded_file
from power_sampling.engines.given_tokenizer import given_tokenizer
from power_sampling.engines.options import TorchOptions, can_run_gguf
from power_sampling.engines.torch.adapters import adapted, without_wrapper
from power_sampling.engines.torch.devices import default_device
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.engines.torch.gguf import unpacked
from power_sampling.engines.torch.prepare import prepare
from power_sampling.engines.torch.quiet import quiet
from power_sampling.engines.torch.supported import refuse_unsupported
from power_sampling.engines.torch.window import right_up_to
from power_sampling.errors import (
    ConfigurationError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
    PowerSamplingError,
)

__all__ = ["engine", "load"]

log = logging.getLogger(__name__)


def load(config: ModelConfig, options: TorchOptions) -> tuple[Any, Any]:
    """(model, tokenizer) by transformers, on the device the settings ask for."""
    source = _source(config.model)
    if config.revision is not None and config.tokenizer is None and Path(source).is_dir():
        raise ConfigurationError(f"revision: {config.model!r} is no repository on the hub; leave it out.")
    common: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if config.revision is not None:
        common["revision"] = config.revision
    arguments = {**common, "dtype": _dtype(options.dtype), **options.model_kwargs, "output_loading_info": True}
    if options.device_map is not None:
        arguments["device_map"] = options.device_map
    if options.attn_implementation is not None:
        arguments["attn_implementation"] = options.attn_implementation
    if options.quantization_config is not None:
        arguments["quantization_config"] = _quantization(options.quantization_config)
    # a download is worth a bar, reading a folder is not
    with quiet() if Path(source).is_dir() else nullcontext(), _told(config.model, source):
        kinds = _kinds(source, common)  # first: where there is no model, a tokenizer's reader says other things
        tokenizer = _tokenizer(config.tokenizer, source, common)
        for kind in kinds:
            model, found = kind.from_pretrained(source, **arguments)
            if not found.get("missing_keys"):
                break
    _refuse_missing(config.model, found)
    if options.device_map is None and options.quantization_config is None:
        device = options.device or default_device()
        try:
            model = model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigurationError(
                f"device {device!r} cannot be used: {error}. Leave it out for {default_device()!r}; an NVIDIA GPU "
                f"needs its driver and a torch built for CUDA, and this is {torch.__version__}."
            ) from error
    if options.adapter is not None:
        model = adapted(model, options.adapter, merge=options.merge_adapter)
    return model, tokenizer


@contextmanager
def _told(name: str, source: str) -> Iterator[None]:
    """Whatever a reader raises, as an error of ours: broken files make it raise anything."""
    try:
        yield
    except PowerSamplingError:
        raise
    except ImportError as error:
        raise MissingDependencyError(f"Loading {name!r} needs another package: {error}") from error
    except Exception as error:
        said = f"{error!s:.1000}".rstrip()
        is_folder = Path(source).is_dir()
        if (isinstance(error, OSError) or is_folder) and not (Path(source) / "config.json").is_file():
            if is_folder:
                said = "the folder has no config.json."
            elif "://" in name:
                said = "it is an address. A hub id is `owner/name`; of a vLLM server the address is base_url."
            elif constants.HF_HUB_OFFLINE:
                said = (
                    "it is not in the hub's cache, and HF_HUB_OFFLINE is set, so nothing is downloaded. Unset it, "
                    f"or run `hf download {name}` first."
                )
            raise ModelNotFoundError(
                f"No model at {name!r}: {said} Give a hub id, a folder with config.json and weights, a .gguf file, or "
                f"'embedded'.{' Did you mean that?' * bool(get_close_matches(name[:80], ['embedded']))}"
            ) from error
        raise ModelError(f"transformers cannot load {name!r}: {type(error).__name__}: {said}") from error


def _tokenizer(given: str | None, source: str, common: dict[str, Any]) -> Any:
    """The one that is given, else the model's own."""
    if given is None:
        return AutoTokenizer.from_pretrained(source, **common)
    with given_tokenizer(given) as named:
        return AutoTokenizer.from_pretrained(named, **common)


def _kinds(source: str, common: dict[str, Any]) -> list[Any]:
    """What may read this checkpoint. Many models that see are no causal language models to transformers, or are ones of
    which it would read another part than there is; their text is served."""
    config = type(AutoConfig.from_pretrained(source, **common))
    kinds: list[Any] = [AutoModelForImageTextToText] if config in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING else []
    return [AutoModelForCausalLM, *kinds] if config in MODEL_FOR_CAUSAL_LM_MAPPING or not kinds else kinds


def _refuse_missing(name: str, found: dict[str, Any]) -> None:
    """Weights that a checkpoint lacks are random numbers, and the answers with them."""
    missing = sorted(found.get("missing_keys") or ()) + sorted(str(x) for x in found.get("mismatched_keys") or ())
    if missing:
        raise ModelError(
            f"The checkpoint of {name!r} has no weights for {len(missing)} of the model's tensors ({missing[0]}, ...): "
            "it is of another model, or not complete."
        )


def engine(model: Any, options: TorchOptions, *, vocab_size: int, is_own: bool) -> TorchLM:
    """The engine of a loaded model. `is_own`: it was loaded here, so that it may be laid out anew."""
    model = without_wrapper(model)
    refuse_unsupported(model)
    _tell_shorter_window(model)
    return TorchLM(
        model,
        prepare(
            model,
            pack_weights=options.pack_weights,
            compile_layers=options.compile_layers,
            cuda_graphs=options.cuda_graphs,
            is_own=is_own,
            check_model=options.check_model,
        ),
        vocab_size=vocab_size,
        max_rows=options.max_rows,
        prompt_memory=options.prompt_memory * 2**20,
        kv_memory=None if options.kv_memory is None else options.kv_memory * 2**20,
        snapshots=options.snapshots,
    )


def _tell_shorter_window(model: Any) -> None:
    config = model.config.get_text_config(decoder=True)
    declared, end = getattr(config, "max_position_embeddings", None), right_up_to(config.to_dict())
    if end is not None and (declared is None or end < declared):
        log.warning(
            "%s is served up to %d tokens, of a window of %s: beyond, it computes the tokens before otherwise (rotary "
            "frequencies, attention temperature or kept keys that change with the length), and what is kept of them "
            "would be wrong.",
            type(model).__name__,
            end,
            declared,
        )


def _dtype(name: str) -> Any:
    if name == "auto":
        return "auto"
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigurationError(f"dtype: expected auto, float32, bfloat16, float16 or float64, got {name!r}.")
    return dtype


def _quantization(fields: dict[str, Any]) -> Any:
    from transformers.quantizers.auto import AutoQuantizationConfig

    try:
        return AutoQuantizationConfig.from_dict(fields)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(f"quantization_config: {error}") from error


def _source(model: str) -> str:
    """What `from_pretrained` is to be given."""
    if model == "embedded":
        return str(unpacked(embedded_file()))
    try:
        path = Path(model).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a user whom nobody knows, a name that can be none
        raise ModelNotFoundError(f"{model!r:.200} can be no file or folder: {error}") from error
    if path.suffix.lower() == ".gguf":
        if not is_file:
            raise ModelNotFoundError(f"There is no GGUF file at {model!r}.")
        folder = unpacked(path)
        if not can_run_gguf():
            log.warning(
                "torch runs %s, whose weights it has unpacked. llama.cpp would run it in its own bits, some 3 times "
                "faster at one row and in a fraction of the memory: pip install 'power-sampling[llama-cpp]'.",
                path.name,
            )
        return str(folder)
    if is_folder or not (path.is_absolute() or model.startswith((".", "~"))):
        return str(path) if is_folder else model
    raise ModelNotFoundError(f"There is no folder {model!r}. Give a folder with config.json and weights, or a hub id.")
