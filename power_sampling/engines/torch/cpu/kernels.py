"""The operators of a decoder layer by loops of our own (`kernels.cpp`), on processors that they are made for.

They read and write memory where they are told to, so every method looks at shapes, types and strides first, and leaves
to torch what does not fit.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from torch.nn import functional

from power_sampling.engines.torch.cpu.build import built
from power_sampling.engines.torch.cpu.operators import Operators, Product, Sight

__all__ = ["Kernels", "operators"]

SOURCE = Path(__file__).with_suffix(".cpp")
BLOCK = 32  # inputs of a weight's block
BITS = (4, 8, 16, 32)  # of a weight
TOLERANCE = 1e-5  # of the largest number, for sums in another order

_SIZE, _INT, _FLOAT, _BOOL, _AT = ctypes.c_long, ctypes.c_int, ctypes.c_float, ctypes.c_bool, ctypes.c_void_p
SIGNATURES = {
    "words_of": (_INT, _SIZE, _SIZE),
    "lay_out_weights": (_INT, _AT, _SIZE, _SIZE, _AT, _INT),
    "multiply_weights": (_INT, _AT, _SIZE, _SIZE, _AT, _AT, _SIZE, _AT, _BOOL, _INT),
    "rms_norm": (_AT, _SIZE, _SIZE, _AT, _FLOAT, _AT, _INT),
    "silu_gate": (_AT, _SIZE, _SIZE, _AT, _INT),
    "append": (_AT,) * 3 + (_SIZE,) * 5 + (_AT, _AT, _SIZE, _SIZE, _INT),
    "attend": (_AT,) * 3 + (_SIZE, _AT) + (_SIZE,) * 7 + (_FLOAT, _AT, _INT),
}
RESULTS = {"words_of": _SIZE, "lay_out_weights": _BOOL}

log = logging.getLogger(__name__)


@cache
def operators() -> Operators:
    """The fastest that this machine has: ours, where they can be built and a trial agrees with torch's."""
    library = built(SOURCE)
    if library is None:
        return Operators()
    try:
        kernels = Kernels(library)
        if _agree(kernels, Operators()):
            return kernels
        reason = "failed its trial"
    except AttributeError as error:  # another compiler's library may lack a function
        reason = f"is not whole: {error}"
    log.warning("Decoding goes on without faster loops: %s %s.", SOURCE.name, reason)
    return Operators()


class Kernels(Operators):
    """By the loops of a library where they take what they are given, by torch elsewhere."""

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, types in SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = types, RESULTS.get(name)
        self.library, self.lanes = library, library.vector()

    def product(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Product | None:
        if weight.shape[1] % BLOCK or not self.are_single(weight, bias):
            return super().product(weight, bias)
        return PackedProduct(self.library, weight.contiguous(), bias)

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        width, is_single = x.shape[-1], x.dtype == weight.dtype == torch.float32
        if not (x.is_cpu and is_single and width % self.lanes == 0 and weight.shape == (width,)):
            return super().norm(x, weight, eps)
        x, weight = x.contiguous(), weight.contiguous()
        y = x.new_empty(x.shape)
        rows = x.numel() // width
        self.library.rms_norm(x.data_ptr(), rows, width, weight.data_ptr(), eps, y.data_ptr(), _threads())
        return y

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        rows, width = x.shape[0], x.shape[1] // 2
        if not (x.is_cpu and x.dtype == torch.float32 and width % self.lanes == 0):
            return super().gate(x)
        x = x.contiguous()
        y = x.new_empty(rows, width)
        self.library.silu_gate(x.data_ptr(), rows, width, y.data_ptr(), _threads())
        return y

    def attend(
        self,
        states: torch.Tensor,
        turns: tuple[torch.Tensor, torch.Tensor],
        keys: torch.Tensor,
        values: torch.Tensor,
        sight: Sight,
        window: int,
        scale: float,
    ) -> torch.Tensor:
        if not self._takes(states, turns, keys, values, sight):
            return super().attend(states, turns, keys, values, sight, window, scale)
        rows, new, heads, dim = states.shape
        groups = keys.shape[1]
        at, buffers = states.data_ptr(), (keys.data_ptr(), values.data_ptr(), keys.shape[2])
        sizes = heads - 2 * groups, groups, dim
        cos, sin = turns
        self.library.append(at, cos.data_ptr(), sin.data_ptr(), rows, new, *sizes, *buffers, sight.cursor, _threads())
        if new > 1:
            return self.weighted(states[:, :, : sizes[0]], keys, values, sight, window, scale)
        y = states.new_empty(rows, 1, sizes[0] * dim)
        hidden, slots = sight.hidden.data_ptr(), (sight.left, sight.slots, window)
        self.library.attend(at, *buffers, hidden, rows, *sizes, *slots, scale, y.data_ptr(), _threads())
        return y

    def _takes(
        self,
        states: torch.Tensor,
        turns: tuple[torch.Tensor, torch.Tensor],
        keys: torch.Tensor,
        values: torch.Tensor,
        sight: Sight,
    ) -> bool:
        rows, new, heads, dim = states.shape
        capacity, groups, slots, width = keys.shape
        cos, sin = turns
        return (
            states.is_cpu
            and dim % self.lanes == 0
            and width == dim
            and (heads - 2 * groups) % groups == 0
            and (sight.rows, sight.new) == (rows, new)
            and rows <= capacity
            and sight.cursor + new <= slots
            and keys.shape == values.shape
            and cos.shape == sin.shape == (rows, new, dim)
            and sight.hidden.shape == (rows,)
            and states.dtype == keys.dtype == values.dtype == cos.dtype == sin.dtype == torch.float32
            and states.is_contiguous()
            and cos.is_contiguous()
            and sin.is_contiguous()
            and keys.is_contiguous()
            and values.is_contiguous()
            and sight.hidden.is_contiguous()
        )


class PackedProduct:
    """Weights (out, in) in the fewest bits that keep each of them as it is."""

    def __init__(self, library: ctypes.CDLL, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._multiply, self._out, self._in = library.multiply_weights, *weight.shape
        self._bias = None if bias is None else bias.contiguous()
        self._bias_at = None if self._bias is None else self._bias.data_ptr()
        for bits in BITS:
            self.bits, self._words = bits, torch.empty(library.words_of(bits, *weight.shape), dtype=torch.int32)
            if library.lay_out_weights(bits, weight.data_ptr(), *weight.shape, self._words.data_ptr(), _threads()):
                break
        self._at, self.nbytes = self._words.data_ptr(), self._words.nbytes

    def __call__(self, x: torch.Tensor, onto: torch.Tensor | None = None) -> torch.Tensor:
        x, rows, adds = x.contiguous(), x.shape[0], onto is not None
        y = x.new_empty(rows, self._out) if onto is None else onto
        self._multiply(
            self.bits, x.data_ptr(), rows, self._in, self._at, self._bias_at, self._out, y.data_ptr(), adds, _threads()
        )
        return y


def _threads() -> int:
    return torch.get_num_threads()


@torch.inference_mode()
def _agree(ours: Operators, theirs: Operators) -> bool:
    """Whether shapes that fill neither the last task nor the last group of rows come out as torch has them."""
    random = torch.Generator().manual_seed(0)
    pairs = [*_products(ours, random)]
    x, weight = torch.randn(5, 64, generator=random), torch.randn(64, generator=random)
    pairs += [(ours.norm(x, weight, 0.1), theirs.norm(x, weight, 0.1)), (ours.gate(x), theirs.gate(x))]
    buffers = torch.randn(2, 6, 2, 100, 32, generator=random)
    new = torch.randn(5, 3, 12, 32, generator=random)  # 6 queries, 2 keys, 2 values; cos and sin
    sides = [_attention(side, buffers.clone(), new) for side in (ours, theirs)]
    pairs += zip(*sides, strict=True)
    return all(bool((a - b).abs().max() <= TOLERANCE * b.abs().max()) for a, b in pairs)


def _products(ours: Operators, random: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    bias, onto = torch.randn(100, generator=random), torch.randn(200, 100, generator=random)
    for weight in _of_all_bits(random):
        x = torch.randn(200, weight.shape[1], generator=random)
        expected, product = functional.linear(x, weight, bias), ours.product(weight, bias)
        if product is not None:
            yield from ((product(x[:rows]), expected[:rows]) for rows in (1, 3, 37, 200))
            yield product(x, onto.clone()), expected + onto


def _attention(side: Operators, buffers: torch.Tensor, states: torch.Tensor) -> list[torch.Tensor]:
    found = [*buffers]
    for new, window in ((1, 100), (1, 20), (3, 100)):
        some, cos, sin = (x.clone() for x in states[:, :new].split_with_sizes((10, 1, 1), 2))
        sight = Sight(5, new, 3, 80, 15 * torch.arange(5), hides=True)
        found.append(side.attend(some, (cos[:, :, 0], sin[:, :, 0]), buffers[0], buffers[1], sight, window, 0.5))
    return found


def _of_all_bits(random: torch.Generator) -> Iterator[torch.Tensor]:
    for bits in BITS:
        if bits > 8:
            weight = torch.randn(100, 3 * BLOCK, generator=random)
            yield weight if bits == 32 else weight.bfloat16().float()
        else:
            lowest, highest = (0, 15) if bits == 4 else (-127, 127)
            codes = torch.randint(lowest, highest + 1, (100, 3, BLOCK), generator=random)
            codes[..., 0], codes[..., 1] = lowest, highest
            yield (0.25 * codes - 0.5 * (bits == 4)).flatten(1)
