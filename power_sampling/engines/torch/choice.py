"""The next token of every row, with log p, log q and what its law asks for besides: one pass over the logits.

The exponentials of the logits serve both the normalisers and the choice. The token is the one that a uniform u picks by
the inverse CDF of q, found in two looks: at the sums of blocks of the vocabulary, then within one block, so that no
cumulated sum over the whole vocabulary is formed. Everything stays on the device of the logits.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._triton import has_triton

from power_sampling.engines.torch.base_law import BaseLaws
from power_sampling.types import Law

__all__ = ["Laws", "choose"]

BLOCK = 256  # tokens per block of the vocabulary


class Laws(NamedTuple):
    """The laws of a batch of rows as columns, (rows, 1), on the device where their tokens are chosen."""

    temperature: torch.Tensor | None  # None: 1 in every row
    proposal_temperature: torch.Tensor | None  # None: that of p in every row
    is_greedy: torch.Tensor | None  # None: no row is
    has_notes: bool  # whether any law asks for more than log p and log q
    score_at: tuple[torch.Tensor | None, ...]
    base: BaseLaws | None = None  # None: p is that of the model's logits in every row

    @classmethod
    def of(cls, laws: Sequence[Law], like: torch.Tensor) -> Laws:
        """The columns in the type and on the device of `like`."""

        def column(values: list[float]) -> torch.Tensor | None:
            return (
                None
                if all(v == 1.0 for v in values)
                else torch.tensor(values, dtype=like.dtype)[:, None].to(like.device)
            )

        proposals = [law.proposal_temperature or 1.0 for law in laws]
        is_greedy = [law.proposal_temperature == 0 for law in laws]
        width = max(len(law.score_at) for law in laws)
        further = [[law.score_at[k] if k < len(law.score_at) else 1.0 for law in laws] for k in range(width)]
        temperatures = [law.temperature for law in laws]
        return cls(
            column(temperatures),
            None if proposals == temperatures else torch.tensor(proposals, dtype=like.dtype)[:, None].to(like.device),
            torch.tensor(is_greedy)[:, None].to(like.device) if any(is_greedy) else None,
            any(law.wants_entropy or law.score_at for law in laws),
            tuple(column(values) for values in further),
            BaseLaws.of(laws, like),
        )


def choose(
    logits: torch.Tensor,
    laws: Laws,
    uniforms: torch.Tensor,
    allowed: Sequence[NDArray[np.bool_] | None] = (),
    excluded: Sequence[Sequence[int]] = (),
    given: Sequence[int] = (),
) -> torch.Tensor:
    """Columns, (rows, 3 + ...), float64: token, log p and log q of it; then, if any law asks for more, the entropy of p
    and log q at each temperature of `score_at`. `logits` (rows, vocabulary), `uniforms` (rows, 1) on [0, 1), float64;
    `allowed` masks q, row by row, where it is given, and `excluded` are tokens that p excludes (`Row.excluded`). Tokens
    of `given` that are not negative stand for what would be drawn.

    Fused into few kernels on CUDA where they can be compiled; not yet measured on a GPU."""
    chosen = fused() if logits.is_cuda and can_fuse() else columns
    forbidden = _forbidden(allowed, logits)
    told = torch.tensor(given)[:, None].to(logits.device) if any(token >= 0 for token in given) else None
    if laws.base is None:
        return chosen(logits, laws, uniforms, forbidden, told)
    base, laws = laws.base, laws._replace(base=None)
    logits = base.logits(logits, excluded)
    if forbidden is None:
        return chosen(logits, laws, uniforms, None, told)
    best = logits.masked_fill(forbidden, -math.inf).amax(-1, keepdim=True)
    is_dead = (best == -math.inf) & base.is_own  # see `Row.push`
    found = chosen(logits, laws, uniforms, forbidden & ~is_dead, told)
    found[:, 2:3].masked_fill_(is_dead, math.inf)
    return found


@functools.cache
def can_fuse() -> bool:
    """Whether kernels for CUDA can be compiled here: Triton knows the GPU, and has the C compiler and the headers that
    it builds its launchers with."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return has_triton() and compiler is not None and Path(sysconfig.get_path("include"), "Python.h").is_file()


@functools.cache
def fused() -> Callable[..., torch.Tensor]:
    """`columns`, compiled at its first call and again for other kinds of laws, not for other numbers of rows."""
    return torch.compile(columns, dynamic=True)


def columns(
    logits: torch.Tensor,
    laws: Laws,
    uniforms: torch.Tensor,
    forbidden: torch.Tensor | None,
    given: torch.Tensor | None = None,
) -> torch.Tensor:
    """`choose`, in terms of tensors alone; `forbidden` (rows, vocabulary), `given` (rows, 1)."""
    centred = _centred(logits)
    # the one place where a constraint enters
    legal = centred if forbidden is None else _centred(centred.masked_fill(forbidden, -math.inf))
    room = torch.empty_like(centred)
    p = _Softmax(centred, laws.temperature, room)
    notes = [torch.special.entr(p.weights / p.total).sum(-1, keepdim=True)] if laws.has_notes else []
    if laws.proposal_temperature is None and legal is centred:
        q = p
    else:
        q = _Softmax(legal, laws.temperature if laws.proposal_temperature is None else laws.proposal_temperature, room)
    token = _inverse_cdf(q.weights, uniforms)
    if laws.is_greedy is not None:
        token = torch.where(laws.is_greedy, legal.argmax(-1, keepdim=True), token)
    if given is not None:
        token = torch.where(given >= 0, given, token)
    log_q = q.log_probability(token)
    if laws.is_greedy is not None:
        log_q = torch.where(laws.is_greedy, 0.0, log_q)
    notes += [_Softmax(legal, temperature, room).log_probability(token) for temperature in laws.score_at]
    return torch.cat([column.double() for column in (token, p.log_probability(token), log_q, *notes)], -1)


class _Softmax:
    """softmax(centred logits / temperature). Its `weights`, not divided by their total, stand in `room` until another
    one is formed there: what is as large as the logits is written as seldom as can be."""

    def __init__(self, centred: torch.Tensor, temperature: torch.Tensor | None, room: torch.Tensor) -> None:
        self._centred, self._temperature = centred, temperature
        # below the smallest normal number exp takes a CPU 80 times longer; there it is 0
        least = 2 * torch.finfo(room.dtype).tiny
        scaled = centred if temperature is None else torch.div(centred, temperature, out=room)
        torch.clamp(scaled, min=math.log(least), out=room).exp_()
        self.weights = torch.nn.functional.threshold(room, 1.001 * least, 0.0, inplace=True)
        self.total = self.weights.sum(-1, keepdim=True)

    def log_probability(self, token: torch.Tensor) -> torch.Tensor:
        scaled = self._centred.gather(-1, token)
        return (scaled if self._temperature is None else scaled / self._temperature) - self.total.log()


def _inverse_cdf(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The first token whose cumulated weight exceeds u times the total. Never one of weight zero: what is sought is
    kept below each total, which rounding could reach."""
    rows, size = weights.shape
    padded = weights if size % BLOCK == 0 else torch.nn.functional.pad(weights, (0, -size % BLOCK))
    blocks = padded.view(rows, -1, BLOCK)
    ends = blocks.sum(-1).cumsum(-1, dtype=torch.float64)
    sought = _below(uniforms * ends[:, -1:], ends[:, -1:])
    # NaN is found behind the last one; its numbers are NaN too, and the row ends by them
    block = torch.searchsorted(ends, sought, right=True).clamp_max(ends.shape[1] - 1)
    start = torch.where(block > 0, ends.gather(-1, (block - 1).clamp_min(0)), 0.0)
    within = blocks.gather(1, block[:, :, None].expand(rows, 1, BLOCK))[:, 0].cumsum(-1, dtype=torch.float64)
    offset = torch.searchsorted(within, _below(sought - start, within[:, -1:]), right=True)
    return (block * BLOCK + offset).clamp_max(size - 1)


def _below(value: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    return torch.minimum(value, torch.nextafter(limit, torch.zeros_like(limit)))


def _centred(logits: torch.Tensor) -> torch.Tensor:
    return logits - logits.amax(-1, keepdim=True)


def _forbidden(allowed: Sequence[NDArray[np.bool_] | None], like: torch.Tensor) -> torch.Tensor | None:
    """Which tokens q must not draw, (rows, vocabulary); None where nothing is forbidden."""
    masks = [(i, mask) for i, mask in enumerate(allowed) if mask is not None]
    if not masks:
        return None
    forbidden = torch.zeros_like(like, dtype=torch.bool)
    forbidden[[i for i, _ in masks]] = torch.from_numpy(~np.stack([mask for _, mask in masks])).to(like.device)
    return forbidden
