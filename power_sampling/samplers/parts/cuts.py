"""Where a suffix move cuts, and what its ratio owes for that.

Position c of a completion x is cut with probability lambda(c | x) = s_c / N(x), N(x) the sum of s over all positions.
Uniform cuts: s_c = 1, so N(x) is the length. Entropy cuts (Zhou et al., arXiv 2605.30327):

    s_c = max(0, H_c - H_{c-1})^beta + EVERYWHERE,     H_c the entropy of p(. | x_<c),     H_{-1} = 0.

Either way s_c depends on x_<c alone, which x and a proposal y cut at c share, so lambda(c | y) / lambda(c | x) =
N(x) / N(y): for any lengths, one number per completion.

The small constant EVERYWHERE is not in the paper, which cuts uniformly where no entropy rises at all. That rule would
let y have a cut that x has not, a ratio of zero to be told apart; with the constant the one formula holds everywhere,
every position can be cut, and where nothing rises cuts are uniform.
"""

from __future__ import annotations

import math

from power_sampling.samplers.parts.rng import Rng
from power_sampling.types import Chain, Law

__all__ = ["choose_cut", "log_span"]


def choose_cut(chain: Chain, law: Law, rng: Rng) -> int:
    """A position of the chain from lambda(c | x)."""
    if law.cut_exponent is None:
        return rng.integers(len(chain.tokens))
    return rng.categorical(law.cut_weights(chain.entropy))


def log_span(chain: Chain, law: Law) -> float:
    """log N(x). It never falls as a completion grows, so that it may enter the bound of early rejection."""
    if law.cut_exponent is None:
        return math.log(len(chain.tokens))
    return math.log(float(law.cut_weights(chain.entropy).sum()))
