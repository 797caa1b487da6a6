"""Which device a model is put on, and on which one its tokens are chosen."""

from __future__ import annotations

import torch

__all__ = ["choice_device", "default_device"]


def default_device() -> str:
    """Where a model goes when no setting says it: a GPU, if there is one. On Apple's it has not been run yet."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choice_device(device: torch.device) -> torch.device:
    """Where the tokens of a model on this device are chosen. Sums over the vocabulary are float64, which Apple's GPUs
    do not have: their logits come to the processor, with which they share the memory."""
    return torch.device("cpu") if device.type == "mps" else device
