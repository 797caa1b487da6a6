"""Whether a power chosen for each prompt beats one power for all: votes over the same plain samples.

    python benchmarks/adaptive_alpha.py                       the embedded model, some minutes
    python benchmarks/adaptive_alpha.py --pools pools.json    keep the samples, or go on from kept ones
    python benchmarks/adaptive_alpha.py --log RUN             the plain samples of a run of `power-sampling evaluate`
    python benchmarks/adaptive_alpha.py --simulated 1.0       pools that are made up, some seconds: right answers are
                                                              likelier by that many standard deviations on average

Sums and products of small numbers, some of which the embedded model gets right. The samples of a question are cut into
pools of 16; every rule counts the same pools, so the differences are paired by question. A rule is

- heads: each counts one (alpha 1);
- a power for all: weights p^(alpha - 1);
- agreement: for each pool the largest power up to which likelier samples agree more with the others: what `tune` does
  for a whole set of questions (after arXiv 2610.08563);
- flat curve: for each pool the smallest power whose mean log p is within half a nat of that at 8, read off the curve
  that a ladder of powers draws (`parallel_tempering`); here the curve is that of the reweighted pool;
- oracle: for each pool the best of the powers, which nobody can know.

Made-up pools: a question is answered rightly with probability P (uniform), else one of eight wrong answers is given,
the k-th with weight 1 / k. Log p of a completion has the standard deviation 4 nats, and right ones are likelier by an
amount of the question's own, normal around the given mean with the standard deviation of 1, both in units of 4 nats.

`share` is the share of the right answer: the chance that a drawn answer is right. `winner` counts the winner.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from power_sampling import PowerSampler
from power_sampling.evaluation import suggest_alpha
from power_sampling.evaluation.log import read_log
from power_sampling.evaluation.measures import bootstrap_interval, paired_difference
from power_sampling.text.parsers import numeric
from power_sampling.vote import counted

POWERS = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
SIZE = 16
Pool: TypeAlias = list[tuple[str | None, float]]
Rule: TypeAlias = Callable[[Pool], float]


def questions(number: int) -> list[tuple[str, str]]:
    """As many sums as products, 60 at most."""
    rng = random.Random(7)
    sums = [(rng.randint(11, 89), rng.randint(11, 89)) for _ in range(30)][: number // 2]
    products = [(rng.randint(3, 12), rng.randint(3, 9)) for _ in range(30)][: number // 2]
    return [(f"What is {a} + {b}?", str(a + b)) for a, b in sums] + [
        (f"What is {a} times {b}?", str(a * b)) for a, b in products
    ]


def drawn(samples: int, number: int) -> list[tuple[str, Pool]]:
    """The right answer of every question, and plain samples as (answer, log p)."""
    sampler = PowerSampler.from_pretrained("embedded", sampler="ancestral", max_new_tokens=10, seed=0, max_rows=64)
    asked = questions(number)
    prompts = [[{"role": "user", "content": f"{text} Answer with the number alone."}] for text, _ in asked]
    found = sampler.generate(prompts, n=samples, show_progress=True)
    groups = [found[i * samples : (i + 1) * samples] for i in range(len(asked))]
    pools: list[Pool] = [[(numeric(c.text), c.logp) for c in group] for group in groups]
    return [(right, pool) for (_, right), pool in zip(asked, pools, strict=True)]


def logged(folder: Path) -> list[tuple[str, Pool]]:
    """The same of a run's log, by what the task took for the answer. Where no sample was right, none can be."""
    pools: dict[str, Pool] = {}
    right: dict[str, str] = {}
    for answer in read_log(folder).answers.values():
        if answer.method == "ancestral" and answer.logp is not None:
            pools.setdefault(answer.question, []).append((answer.answer, answer.logp))
            if answer.is_right and answer.answer is not None:
                right[answer.question] = answer.answer
    return [(right.get(question, "no sample is right"), pool) for question, pool in pools.items() if len(pool) >= SIZE]


def simulated(number: int, lead: float) -> list[tuple[str, Pool]]:
    rng = np.random.default_rng(7)
    wrong = 1 / np.arange(1, 9)
    found = []
    for _ in range(number):
        p, own = rng.uniform(), rng.normal(lead, 1.0)
        is_right = rng.uniform(size=SIZE) < p
        others = rng.choice(8, size=SIZE, p=wrong / wrong.sum())
        logp = 4 * (rng.normal(size=SIZE) + own * is_right)
        pool = [("right" if r else str(k), float(x)) for r, k, x in zip(is_right, others, logp, strict=True)]
        found.append(("right", pool))
    return found


def mean_logp(pool: Pool, alpha: float) -> float:
    logp = np.array([p for _, p in pool])
    w = np.exp((alpha - 1) * (logp - logp.max()))
    return float(w @ logp / w.sum())


def flat(pool: Pool) -> float:
    top = mean_logp(pool, POWERS[-1])
    return next(alpha for alpha in POWERS if mean_logp(pool, alpha) >= top - 0.5)


def judged(pool: Pool, alpha: float, right: str) -> tuple[float, float]:
    """(share of the right answer, whether it wins)."""
    logps = [p for _, p in pool]
    shares = counted([a for a, _ in pool], logps, [(alpha - 1) * p for p in logps]).shares
    return shares.get(right, 0.0), float(next(iter(shares)) == right)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pools", type=Path)
    parser.add_argument("--samples", type=int, default=2 * SIZE)
    parser.add_argument("--log", type=Path, help="the folder of the run")
    parser.add_argument("--simulated", type=float)
    parser.add_argument("--questions", type=int, default=60)
    args = parser.parse_args()
    if args.simulated is not None:
        found = simulated(2000, args.simulated)
    elif args.log is not None:
        found = logged(args.log)
    elif args.pools and args.pools.exists():
        found = [(right, [(a, p) for a, p in pool]) for right, pool in json.loads(args.pools.read_text())]
    else:
        found = drawn(args.samples, args.questions)
        if args.pools:
            args.pools.write_text(json.dumps(found))

    rules: dict[str, Rule] = {"heads": lambda pool: 1.0}
    rules |= {f"alpha {alpha:g}": (lambda pool, a=alpha: a) for alpha in POWERS[1:]}
    for most in (4.0, 8.0):
        powers = [alpha for alpha in POWERS if alpha <= most]
        rules[f"agreement, at most {most:g}"] = lambda pool, powers=powers: suggest_alpha([pool], powers).alpha
    rules["flat curve"] = flat

    def row(rule: Rule) -> tuple[Sequence[float], Sequence[float], float]:
        shares, wins, alphas = [], [], []
        for right, pool in found:
            parts = [pool[i : i + SIZE] for i in range(0, len(pool) - SIZE + 1, SIZE)]
            chosen = [rule(part) for part in parts]
            both = np.array([judged(part, alpha, right) for part, alpha in zip(parts, chosen, strict=True)])
            shares.append(float(both[:, 0].mean()))
            wins.append(float(both[:, 1].mean()))
            alphas += chosen
        return shares, wins, float(np.mean(alphas))

    def best(pool: Pool, right: str) -> float:
        return max(judged(pool, alpha, right)[0] for alpha in POWERS)

    heads = row(rules["heads"])
    print(f"{len(found)} questions, pools of {SIZE}; differences from heads with 95 % intervals over questions")
    print(f"{'rule':24}{'alpha':>7}{'share':>8}  {'from heads':24}{'winner':>8}  from heads")
    for name, rule in rules.items():
        shares, wins, alpha = row(rule)
        told = []
        for values, base in ((shares, heads[0]), (wins, heads[1])):
            gap = paired_difference(values, base)
            told.append((bootstrap_interval(values).value, f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"))
        (share, by_share), (win, by_win) = told
        print(f"{name:24}{alpha:7.2f}{share:8.3f}  {by_share:24}{win:8.3f}  {by_win}")
    of_the_best = [
        float(np.mean([best(pool[i : i + SIZE], right) for i in range(0, len(pool) - SIZE + 1, SIZE)]))
        for right, pool in found
    ]
    print(f"{'oracle':24}{'':7}{np.mean(of_the_best):8.3f}")


if __name__ == "__main__":
    main()
