"""Weights in the few bits that they need, for products of few rows on a CPU.

Decoding is bound by reading weights, and most of their bits say nothing: weights of a checkpoint in bfloat16, loaded as
float32, end in 16 zeros; those unpacked from GGUF are a small number each, and a scale for 32 of them. They are stored
like that where every float comes back bit by bit, so the model stays what it is, and are read by a loop of our own
(`compact.cpp`).
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch.nn import functional

from power_sampling.engines.torch.cpu.native import built

__all__ = ["Compact", "compact"]

SOURCE = Path(__file__).with_suffix(".cpp")
LANES, BLOCK = 16, 32  # outputs and inputs of a block, as the source has them
BITS = (4, 8, 16)
OUTPUTS = 3072  # laid out at a time, which bounds the memory that it takes; a multiple of any task's
TOLERANCE = 1e-4  # of the largest weight, for sums in another order


class Compact:
    """Weights (out, in) laid out by `compact`."""

    most = 24  # rows; measured: MKL is faster for more

    def __init__(
        self, library: ctypes.CDLL, words: torch.Tensor, bits: int, shape: torch.Size, bias: torch.Tensor | None
    ) -> None:
        self._multiply, self._words, self._bits, self._bias = library.multiply_compact, words, bits, bias
        self._out, self._in = shape

    @property
    def nbytes(self) -> int:
        return self._words.nbytes

    def __call__(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        x = x.contiguous()
        y = x.new_empty((*x.shape[:-1], self._out))
        bias = None if self._bias is None else self._bias.data_ptr()
        words, threads = self._words.data_ptr(), torch.get_num_threads()
        self._multiply(self._bits, x.data_ptr(), rows, self._in, words, bias, self._out, y.data_ptr(), threads)
        return y


def compact(weight: torch.Tensor, bias: torch.Tensor | None) -> Compact | None:
    """A linear layer with its weights (out, in) in the fewest bits that keep each as it is. None where that takes all
    of them, and on a machine without a processor or a compiler for it."""
    library = _library()
    if library is None or (bias is not None and bias.dtype != torch.float32):
        return None
    return _compact(library, weight, None if bias is None else bias.contiguous())


def _compact(library: ctypes.CDLL, weight: torch.Tensor, bias: torch.Tensor | None) -> Compact | None:
    for bits in BITS if weight.numel() and weight.shape[1] % BLOCK == 0 else ():
        words = _words(weight, bits, library.panels())
        if words is not None:
            return Compact(library, words, bits, weight.shape, bias)
    return None


def _words(weight: torch.Tensor, bits: int, panels: int) -> torch.Tensor | None:
    """The words that the library reads; None if some weight needs more bits."""
    parts = []
    for i in range(0, len(weight), OUTPUTS):
        part = weight[i : i + OUTPUTS]
        codes, common = _codes(part, bits)
        if not torch.equal(_floats(codes, common, bits), part):
            return None
        parts.append(_laid_out(codes, common, bits, panels))
    return torch.cat(parts)


def _codes(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Integers (out, in), and what a block of them has in common, each (out, blocks): nothing, a scale, or a scale and
    an offset. GGUF's Q8_0 has a block's largest weight at 127 or -127 and Q4_1 its extremes at 0 and 15, with scales in
    half precision: so they can be read off the floats."""
    if bits == 16:
        return weight.view(torch.int32) >> 16, []
    blocks = weight.reshape(len(weight), -1, BLOCK)
    common = [blocks.abs().amax(-1) / 127] if bits == 8 else [blocks.amax(-1), blocks.amin(-1)]
    if bits == 4:
        blocks = blocks - common[1].unsqueeze(-1)
        common[0] = blocks.amax(-1) / 15
    scale = common[0] = common[0].half().float()
    codes = (blocks / scale.where(scale != 0, 1).unsqueeze(-1)).round_()
    return codes.nan_to_num_().clamp_(*((0, 15) if bits == 4 else (-128, 127))).int().flatten(1), common


def _floats(codes: torch.Tensor, common: list[torch.Tensor], bits: int) -> torch.Tensor:
    """What the library makes of codes, to the bit: their products with a scale in half precision are exact."""
    if bits == 16:
        return (codes << 16).view(torch.float32)
    scale, *offset = (x.unsqueeze(-1) for x in common)
    floats = codes.float().view(len(codes), -1, BLOCK) * scale
    return sum(offset, floats).flatten(1)


def _laid_out(codes: torch.Tensor, common: list[torch.Tensor], bits: int, panels: int) -> torch.Tensor:
    """Words (tasks, blocks, panels, words, lanes)."""
    padding = -len(codes) % (panels * LANES)
    blocks, several = codes.shape[1] // BLOCK, 32 // bits  # codes in a word

    def ordered(x: torch.Tensor) -> torch.Tensor:
        padded = functional.pad(x.view(torch.int32), (0, 0, 0, padding))
        return padded.reshape(-1, panels, LANES, blocks, x.shape[1] // blocks).permute(0, 3, 1, 4, 2)

    split = (ordered(codes) & (2**bits - 1)).unflatten(3, (-1, several))
    words = split[..., 0, :].clone()
    for place in range(1, several):
        words |= split[..., place, :] << (bits * place)
    return torch.cat([*map(ordered, common), words], 3).contiguous()


@cache
def _library() -> ctypes.CDLL | None:
    return built(SOURCE, _serves)


def _serves(library: ctypes.CDLL) -> bool:
    size, at = ctypes.c_long, ctypes.c_void_p
    library.multiply_compact.argtypes = (ctypes.c_int, at, size, size, at, at, size, at, ctypes.c_int)
    library.multiply_compact.restype = None
    return all(_agrees(library, bits) for bits in BITS)


@torch.inference_mode()
def _agrees(library: ctypes.CDLL, bits: int) -> bool:
    """Whether a layer that fills neither its last task nor its last group of rows comes out as torch has it."""
    random = torch.Generator().manual_seed(0)
    lowest, highest = (0, 15) if bits == 4 else (-127, 127)
    codes = torch.randint(lowest, highest + 1, (100, 3, BLOCK), generator=random)
    codes[..., 0], codes[..., 1] = lowest, highest
    weight = (0.25 * codes - 0.5 * (bits == 4)).flatten(1)
    x, bias = torch.randn(37, weight.shape[1], generator=random), torch.randn(len(weight), generator=random)
    product = _compact(library, weight, bias)
    if product is None:
        return False
    gap = product(x, len(x)) - functional.linear(x, weight, bias)
    return bool(gap.abs().max() < TOLERANCE * weight.abs().max())
