"""Potentials as factors of weights: the target is p(x)^alpha * phi(x), phi the product of the request's potentials.

A chain stores log phi as its last draw had it judged. Potentials of kind `prefix` judge what is not complete too; those
of kind `final` judge completions alone, so they count where every chain is one: in the last stage of a chain's moves,
in the last weight of a particle. Factors phi(x_1..t) / phi(x_1..s) of a growing particle telescope, so that its weight
ends with phi(x) whatever partial texts were worth on the way. With one restriction: what forbids a text (log phi =
-inf) has to forbid all that begin with it, for a particle of weight zero does not come back.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

from power_sampling.types import Chain, Continuation, Draw, Judged, Law, Progress, Round, Step

__all__ = ["gained", "judged", "judgement"]


def gained(before: Chain, after: Chain) -> float:
    """log phi(after) - log phi(before); what is forbidden stays so."""
    return -math.inf if -math.inf in (before.log_phi, after.log_phi) else after.log_phi - before.log_phi


def judgement(chain: Chain, law: Law, by: Judged) -> Draw:
    """A draw of nothing: the chain judged as it is."""
    return Draw(chain, len(chain.tokens), 0, law, 0, judged=by)


def judged(
    chains: Sequence[Chain], law: Law, progress: Progress, steps: tuple[Step, ...] = ()
) -> Generator[Round, list[Continuation], list[Chain]]:
    """Complete chains judged by all potentials, in one round; the chains themselves where there are none."""
    if law.judging is None or not chains:
        return list(chains)
    draws = tuple(judgement(chain, law, "final") for chain in chains)
    continuations = yield Round(draws, progress=progress, steps=steps)
    return [x.spliced(len(x.tokens), c) for x, c in zip(chains, continuations, strict=True)]
