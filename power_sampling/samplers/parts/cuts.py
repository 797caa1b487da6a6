"""Where a suffix move cuts, and what its ratio owes for that.

Position c of a completion x is cut with probability lambda(c | x) = s_c / N(x), N(x) the sum of s over all positions.
Uniform cuts: s_c = 1, so N(x) is the length. Entropy cuts (Zhou et al., arXiv 2605.30327):

    s_c = max(0, H_c - H_{c-1})^beta + MIN_CUT_WEIGHT,     H_c the entropy of p(. | x_<c),     H_{-1} = 0.

Either way s_c depends on x_<c alone, which x and a proposal y cut at c share, so lambda(c | y) / lambda(c | x) =
N(x) / N(y): for any lengths, one number per completion.

The small constant MIN_CUT_WEIGHT is not in the paper, which cuts uniformly where no entropy rises at all. That rule
would let y have a cut that x has not, a ratio of zero to be told apart; with the constant the one formula holds
everywhere, every position can be cut, and where nothing rises cuts are uniform.

The constant also bounds N(y) of a proposal y that is still being drawn: behind the cut, each of its positions adds at
least that much (for uniform cuts exactly 1). So the ratio of a proposal can only fall, and it is known to be rejected
before it has ended (`floors`).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from power_sampling.samplers.base import SamplerOptions
from power_sampling.samplers.parts.rng import Rng
from power_sampling.types import Chain, Floats

__all__ = ["MIN_CUT_WEIGHT", "SuffixCuts", "choose_cut", "cut_weights", "floors", "log_span"]

MIN_CUT_WEIGHT = 1e-3  # of every position under entropy cuts, beside its jump


class SuffixCuts(SamplerOptions):
    """Where a suffix sampler cuts the completion whose suffix it redraws. Its law has to want entropies for entropy
    cuts."""

    cut: Literal["uniform", "entropy"] = "uniform"
    """`uniform` over the positions of the completion; `entropy`: mostly where the entropy of the next token jumps up
    (Entropy-Cut, arXiv 2605.30327), the ratio corrected for it."""
    cut_exponent: float = Field(default=4.0, gt=0)
    """Experimental. The power of a jump in the law of an entropy cut."""


def cut_weights(entropy: Floats, exponent: float) -> Floats:
    """s_c of all positions of a completion with these entropies, for entropy cuts. Shape (T,)."""
    jumps = np.maximum(0.0, np.diff(entropy, prepend=0.0))
    return np.asarray(jumps**exponent + MIN_CUT_WEIGHT)


def choose_cut(chain: Chain, cuts: SuffixCuts, rng: Rng) -> int:
    """A position of the chain from lambda(c | x)."""
    if cuts.cut == "uniform":
        return rng.integers(len(chain.tokens))
    return rng.categorical(cut_weights(chain.entropy, cuts.cut_exponent))


def log_span(chain: Chain, cuts: SuffixCuts) -> float:
    """log N(x)."""
    return math.log(_span(chain, cuts))


def floors(chain: Chain, cut: int, length: int, least: float, cuts: SuffixCuts) -> Floats:
    """Floors of a draw from a cut of the chain, of at most `length` tokens, that is of use only if its

        sum_{t >= cut} log_weight_t(y) - log N(y)  >=  least.

    After t of its tokens N(y) >= N(x_<=cut) + (t - 1) * (1, or MIN_CUT_WEIGHT for entropy cuts): s at the cut is the
    same for both. For uniform cuts that is an equality. For entropy cuts the bound leaves out the jumps of y, which are
    not known in advance: a draw is abandoned a little later than it could be, at 0.4 percent more tokens on a table
    model (exponent 4; 2.4 percent for exponent 1), and the chain is the same.
    """
    step = 1.0 if cuts.cut == "uniform" else MIN_CUT_WEIGHT
    return np.asarray(least + np.log(_span(chain.head(cut + 1), cuts) + step * np.arange(length)))


def _span(chain: Chain, cuts: SuffixCuts) -> float:
    """N(x)."""
    if cuts.cut == "uniform":
        return float(len(chain.tokens))
    return float(cut_weights(chain.entropy, cuts.cut_exponent).sum())
