"""GGUF files for transformers: unpacked once into an ordinary folder."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from power_sampling.cache import CACHE_VARIABLE, cache_folder, is_whole, made, one_writer, seal
from power_sampling.engines.torch.quiet import quiet
from power_sampling.errors import MissingDependencyError, ModelError

__all__ = ["unpacked"]

FORM = 2  # of what is kept: another one is unpacked anew
# what ends a text: of a document, of a turn, of a message, and of a piece to be filled in
ENDS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")

log = logging.getLogger(__name__)


def unpacked(file: Path) -> Path:
    """A GGUF file as an ordinary folder, unpacked once: reading it as GGUF takes 20 times longer at every start.

    Kept under `$POWER_SAMPLING_CACHE`, by default `~/.cache/power-sampling`, named after path, size and time of the
    file; float32, the weights' own values. A folder that has been damaged since is made anew."""
    if importlib.util.find_spec("gguf") is None or importlib.util.find_spec("accelerate") is None:
        raise MissingDependencyError(
            f"Reading {file.name} needs the packages gguf and accelerate: pip install 'power-sampling[gguf]'"
        )
    facts = file.stat()
    identity = f"{FORM} {file.resolve()} {facts.st_size} {facts.st_mtime_ns}"
    root = made(cache_folder())
    folder = root / f"{file.stem}-{hashlib.sha256(identity.encode(errors='surrogateescape')).hexdigest()[:12]}"
    if not is_whole(folder):
        try:
            _unpack(file, root, folder)
        except OSError as error:
            raise ModelError(
                f"{str(file)!r} cannot be unpacked into {str(root)!r}: {error}. Set {CACHE_VARIABLE} to a folder that "
                f"can be written and has room for its weights in float32 (up to {facts.st_size * 8 >> 20} MiB)."
            ) from error
    return folder


def _unpack(file: Path, root: Path, folder: Path) -> None:
    with one_writer(root) as unfinished:
        if is_whole(folder):
            return  # by another process meanwhile
        if folder.is_dir():
            log.warning("%s has been damaged and is unpacked anew.", folder)
            folder.rename(unfinished / "damaged")
        log.info("Unpacking %s, once.", file.name)
        made_here = unfinished / "new"
        with quiet():
            _convert(file, made_here)
        seal(made_here)
        made_here.rename(folder)


def _convert(file: Path, folder: Path) -> None:
    ends = _ends(file)
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
    if ends:
        model.generation_config.eos_token_id = ends
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except Exception as error:  # the writers have errors of their own for a full disk
        raise OSError(f"{type(error).__name__}: {error}") from error


def _ends(file: Path) -> list[int]:
    """All ids that the file says end a text: a chat model's turn ends otherwise than its documents. The first look at a
    file, so that one which is not whole is told here."""
    from gguf import GGUFReader

    try:
        fields = GGUFReader(file).fields
    except Exception as error:  # whatever a broken file makes it raise
        raise ModelError(
            f"{str(file)!r} cannot be read as GGUF: it is cut short, damaged, or another kind of file "
            f"({type(error).__name__}: {error!s:.200}). Its size is {file.stat().st_size:,} bytes; if that is not the "
            "original's, download it again."
        ) from error
    found = [fields[name] for end in ENDS if (name := f"tokenizer.ggml.{end}_token_id") in fields]
    return sorted({int(field.parts[-1][0]) for field in found})
