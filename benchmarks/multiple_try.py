"""Which rule for several proposals from one cut: multiple try with independent proposals, or i-SIR?

    python benchmarks/multiple_try.py

Both leave p^alpha invariant. Compared by the spectral gap of one move on table models that can be enumerated (larger is
faster), for K = 1..4 proposals. Exact: no sampling, no seed, the same numbers on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np

from power_sampling.testing import TableLM, completions, power_law, suffixes
from power_sampling.types import Chain, Draw, Floats, Law, Termination

PROMPT, EOS, HORIZON = (1,), Termination(frozenset({0})), 3
Rule = Callable[[Floats, float], Floats]


def multiple_try(w: Floats, w_x: float) -> Floats:
    """Probability of moving to each proposal: chosen by weight, then accepted with min(1, W / (W - w_J + w_x))."""
    total = w.sum()
    return np.asarray(w / total * np.minimum(1, total / (total - w + w_x)))


def i_sir(w: Floats, w_x: float) -> Floats:
    """Probability of moving to each proposal: chosen by weight among the proposals and the present state."""
    return np.asarray(w / (w.sum() + w_x))


def gap(lm: TableLM, alpha: float, num_proposals: int, rule: Rule) -> float:
    law = Law(alpha, 1.0, 1 / alpha)
    chains = completions(lm, PROMPT, EOS, HORIZON, law)
    index = {x.tokens: i for i, x in enumerate(chains)}
    kernel = np.zeros((len(chains), len(chains)))
    for i, x in enumerate(chains):
        for cut in range(len(x.tokens)):
            options = suffixes(lm, PROMPT, EOS, Draw(x, cut, HORIZON - cut, law, 0), law.proposal_temperature)
            ys = [x.spliced(cut, c) for c, _ in options]
            w = np.array([weight(y, cut) for y in ys])
            for tries in product(range(len(ys)), repeat=num_proposals):
                probability = math.exp(sum(options[j][1] for j in tries)) / len(x.tokens)
                for j, move in zip(tries, rule(w[list(tries)], weight(x, cut)), strict=True):
                    kernel[i, index[ys[j].tokens]] += probability * move
        kernel[i, i] += 1 - kernel[i].sum()
    target = power_law(chains, alpha)
    assert np.abs(target @ kernel - target).max() < 1e-12
    return float(1 - np.sort(np.abs(np.linalg.eigvals(kernel)))[-2])


def weight(x: Chain, cut: int) -> float:
    return math.exp(float(x.log_weight[cut:].sum())) / len(x.tokens)


def main() -> None:
    print(f"{'table, alpha':<16}{'K':>3}{'multiple try':>15}{'i-SIR':>9}")
    for seed, alpha in product((0, 1, 2), (2.0, 4.0)):
        for k in (1, 2, 3):
            lm = TableLM(3, seed)
            gaps = [gap(lm, alpha, k, rule) for rule in (multiple_try, i_sir)]
            print(f"{f'{seed}, {alpha:g}':<16}{k:>3}{gaps[0]:>15.3f}{gaps[1]:>9.3f}")


if __name__ == "__main__":
    main()
