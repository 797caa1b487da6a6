"""Find a model, load it once, share it: a hub id, a local folder, a GGUF file, or the embedded default.

Importing this loads no torch; `Model` does on first use.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticSerializationError

from power_sampling.config import ModelConfig
from power_sampling.engines.torch.window import context_window
from power_sampling.errors import ConfigurationError, needed_for, shortened

if TYPE_CHECKING:
    from power_sampling.engines.protocol import LanguageModel
    from power_sampling.serving.worker import Worker
    from power_sampling.text.codec import Codec
    from power_sampling.text.rules import Rules

__all__ = ["Model", "check_loaded", "get_model", "model_from_objects"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in use: its text side, its engine, and the thread that drives it."""

    source: Any  # the tokenizer that the codec is a copy of
    codec: Codec
    engine: LanguageModel
    worker: Worker
    rules: Rules


class Model:
    """A handle on one set of weights, loaded on first use and freed with its last holder. Safe from any thread."""

    def __init__(self, config: ModelConfig, loaded: Loaded | None = None) -> None:
        self.config = config
        self._lock = threading.Lock()
        self._loading: _Loading | None = None
        self._loaded: Loaded | None = None
        self.is_handed_over = loaded is not None
        """The weights were loaded by the caller, so that no settings describe them."""
        if loaded is not None:
            self._keep(loaded)

    def load(self) -> Loaded:
        """The loaded model. Raises ModelNotFoundError, MissingDependencyError, UnsupportedModelError or ModelError.

        Who is interrupted while waiting may ask again: the load goes on, and is the same one."""
        with self._lock:
            if self._loaded is not None:
                return self._loaded
            if self._loading is None:
                self._loading = _Loading(self.config)
            loading = self._loading
        try:
            loaded = loading.result()
        finally:
            with self._lock:
                if self._loading is loading and loading.is_done:
                    self._loading = None  # the next one who asks tries again, if it has failed
                    if (found := loading.found) is not None:
                        self._keep(found)
        return loaded

    def _keep(self, loaded: Loaded) -> None:
        self._loaded = loaded
        weakref.finalize(self, loaded.worker.close, wait=False)

    def invalidate(self) -> None:
        """Forget what is kept of the model's weights, before the next request. Loads nothing."""
        invalidate = getattr(self._loaded.engine if self._loaded else None, "invalidate", None)
        if invalidate is not None:
            invalidate()

    def known_context_window(self) -> int | None:
        """The context window, where the model is loaded or lies in a local folder. Loads nothing."""
        if self._loaded is not None:
            return self._loaded.engine.context_window
        fields = _fields_of(self.config.model, "config.json")
        inner = fields.get("text_config", fields)
        declared = inner.get("max_position_embeddings") if isinstance(inner, dict) else None
        return context_window(declared, fields)

    def known_chat_template(self) -> bool | None:
        """Whether there is a chat template, where the model is loaded or its tokenizer lies in a local folder; None: it
        cannot be told. Loads nothing."""
        if self._loaded is not None:
            return self._loaded.codec.has_chat_template
        folder = self.config.tokenizer or self.config.model
        if not (fields := _fields_of(folder, "tokenizer_config.json")):
            return None
        beside = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
        return bool(fields.get("chat_template")) or any((_folder(folder) / name).exists() for name in beside)


def _folder(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # of a user whom nobody knows
        return Path(name)


def _fields_of(folder: str, name: str) -> dict[str, Any]:
    """What a JSON file in a local folder says; nothing where there is none, or none that can be read."""
    try:
        fields = json.loads((_folder(folder) / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # loading says what is wrong with it
        return {}
    return fields if isinstance(fields, dict) else {}


# transformers keeps the dtype and the device of the model that it is building for all threads alike, and imports its
# own parts at their first use: two loads at once disturb each other
_ONE_AT_A_TIME = threading.Lock()


class _Loading:
    """A load under way, on a thread that ends with it.

    On a CPU torch keeps a team of threads for every thread that has computed, for as long as that one lives. With more
    of them than cores they sleep between two operations, and a step of the worker's takes 1.2 times as long."""

    def __init__(self, config: ModelConfig) -> None:
        self._future: Future[Loaded] = Future()
        # of no account to whoever interrupts the wait for it
        self._thread = threading.Thread(target=self._run, args=(config,), daemon=True)
        self._thread.start()

    def _run(self, config: ModelConfig) -> None:
        try:
            with _ONE_AT_A_TIME, _garbage_collected_once():
                loaded = serve(*load_pretrained(config), config, is_own=True)
            _give_back()
            self._future.set_result(loaded)
        except BaseException as error:  # noqa: BLE001 - the caller's, whatever it is
            self._future.set_exception(error)

    @property
    def is_done(self) -> bool:
        return self._future.done()

    @property
    def found(self) -> Loaded | None:
        """What a finished load has found; None: an error."""
        return None if self._future.exception() else self._future.result()

    def result(self) -> Loaded:
        loaded = self._future.result()
        self._thread.join()
        return loaded


def _give_back() -> None:
    """What loading has freed goes back to the system: glibc keeps 100 MiB of a tokenizer with 150,000 words."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


MANY_OBJECTS = 50_000  # a first load makes ten times as many, later ones a fifth


@contextmanager
def _garbage_collected_once() -> Iterator[None]:
    """A process's first load makes several hundred thousand objects, and nearly all stay. Python would search all of
    them for garbage again and again, which takes a sixth of loading, and once more among the first requests. A search
    holds the interpreter: for a tenth of a second and more, no event loop runs. So there is one search, when all is
    loaded. Later loads make few objects, and end without one."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
            if gc.get_count()[0] > MANY_OBJECTS:
                gc.collect()


def _collect_garbage_if_due() -> None:
    """Search all objects for garbage now, where Python is about to: better than among the first requests."""
    limit = gc.get_threshold()[2]
    if gc.isenabled() and 0 < limit < gc.get_count()[2]:
        gc.collect()


_MODELS: weakref.WeakValueDictionary[tuple[str, Any], Model] = weakref.WeakValueDictionary()
_MODELS_LOCK = threading.Lock()


def get_model(config: ModelConfig) -> Model:
    """The handle for these settings: equal settings share one, so weights are loaded once per process."""
    shared = _shared(config)
    try:
        key = shared.model_dump_json(), getattr(shared.engine, "api_key", None)
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
    """With the engine's options in one place, and without how prompts are presented: weights do not depend on it."""
    named = {name: getattr(config, name) for name in ModelConfig.model_fields if name not in ModelConfig.FLAT}
    options = config.engine_options()
    return ModelConfig(**{**named, "use_chat_template": None, "engine": type(options)(**dict(options))})


_OBJECTS_LOCK = threading.Lock()
_OBJECTS: weakref.WeakKeyDictionary[Any, weakref.WeakSet[Model]] = weakref.WeakKeyDictionary()


def model_from_objects(model: Any, tokenizer: Any, config: ModelConfig) -> Model:
    """A handle on a transformers model, or on another `LanguageModel`, that is already loaded; the same objects and
    settings keep the same handle. Raises ConfigurationError for settings of loading."""
    given = config.model_fields_set | (config.engine.model_fields_set if config.engine else set())
    if late := given - ModelConfig.SERVING - {"model", "name"}:
        raise ConfigurationError(f"{', '.join(sorted(late))}: the model is already loaded; leave it out.")
    with _OBJECTS_LOCK:
        known = _OBJECTS.setdefault(model, weakref.WeakSet())
        shared = _shared(config)
        for handle in known:
            if handle.load().source is tokenizer and handle.config == shared:
                return handle
        with _ONE_AT_A_TIME:
            handle = Model(shared, serve(model, tokenizer, config, is_own=False))
        known.add(handle)
        _collect_garbage_if_due()
        return handle


def check_loaded(model: Any, tokenizer: Any) -> None:
    """Raises ConfigurationError for objects that are no model and no tokenizer."""
    from power_sampling.engines.protocol import LanguageModel

    if not isinstance(model, LanguageModel) and not (callable(model) and hasattr(model, "config")):
        raise ConfigurationError(
            f"model: expected a causal language model of transformers, or a LanguageModel, got {shortened(model)}."
        )
    if not all(hasattr(tokenizer, name) for name in ("get_vocab", "decode", "eos_token_id", "added_tokens_decoder")):
        raise ConfigurationError(f"tokenizer: expected a tokenizer of transformers, got {shortened(tokenizer)}.")


def load_pretrained(config: ModelConfig) -> tuple[Any, Any]:
    """(model, tokenizer), by the engine that the settings name."""
    loaded: tuple[Any, Any] = _loader(config).load(config, config.engine_options())
    return loaded


def serve(model: Any, tokenizer: Any, config: ModelConfig, *, is_own: bool) -> Loaded:
    """A loaded model and tokenizer, made ready to answer requests. An engine is used as it is; any other model is made
    one by the engine that the settings name."""
    from power_sampling.engines.protocol import LanguageModel, StepsOnHost
    from power_sampling.serving.worker import Worker
    from power_sampling.text.codec import Codec
    from power_sampling.text.rules import Rules

    model_type = getattr(getattr(model, "config", None), "model_type", None)
    codec = Codec(tokenizer, _eos_ids(model), config.tool_format, model_type if isinstance(model_type, str) else "")
    if isinstance(model, LanguageModel):
        engine = model
    else:
        engine = _loader(config).engine(model, config.engine_options(), vocab_size=codec.vocab_size, is_own=is_own)
    rules = Rules(codec.decode, codec.grammars(engine.vocab_size), engine.vocab_size)
    if isinstance(engine, StepsOnHost):
        engine.rules = rules
    return Loaded(tokenizer, codec, engine, Worker(engine), rules)


def _loader(config: ModelConfig) -> Any:
    options = config.engine_options()
    with needed_for(f"engine: {options.name}", options.EXTRA):
        return importlib.import_module(options.LOADER)


def _eos_ids(model: Any) -> list[int]:
    """Every id that ends a text by the model's own word: generation_config may list several."""
    ids: set[int] = set()
    for config in (getattr(model, "config", None), getattr(model, "generation_config", None)):
        eos = getattr(config, "eos_token_id", None)
        ids.update([eos] if isinstance(eos, int) else eos or [])
    return sorted(ids)
