"""Which sampler, power and budget to take, found on a few questions of one's own under a limit of cost.

With answers to the questions: successive halving (Jamieson & Talwalkar, arXiv 1502.07943). All candidates answer a few
questions; the better half, and always the cheapest one, answer twice as many; and so on until two are left, the
questions are used up or the limit is reached. What is taken follows the rule of every verdict: the cheapest, unless a
costlier one is really better.

Without answers: a power for which likelier answers are those that the samples agree on (`suggest_alpha`). A heuristic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from power_sampling.config import GenerationConfig
from power_sampling.errors import ConfigurationError
from power_sampling.evaluation.methods import POOL, Method, parse_methods
from power_sampling.evaluation.plan import make_plan
from power_sampling.evaluation.runs import Bounds, Listener, run
from power_sampling.evaluation.table import Row, Table
from power_sampling.evaluation.tasks import Task
from power_sampling.evaluation.verdicts import ladder
from power_sampling.runtime import PowerSampler
from power_sampling.types import Floats

__all__ = ["CANDIDATES", "Alpha", "Tuning", "settings_yaml", "suggest_alpha", "tune", "tune_alpha"]

CANDIDATES = (
    "greedy,ancestral,low_temperature(alpha=2),low_temperature(alpha=4),best_of_n(alpha=2),"
    "metropolis_hastings(alpha=2,num_steps=4),metropolis_hastings(alpha=4,num_steps=4),metropolis_hastings(alpha=4),"
    "sequential_monte_carlo(alpha=2,num_particles=8),sequential_monte_carlo(alpha=4,num_particles=8),"
    "sequential_monte_carlo(alpha=4),particle_gibbs(alpha=2,num_particles=4)"
)
ALPHAS = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
FEWEST = 2.0  # effective votes below which a power is not judged by its samples


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was found: the method, its settings, and every stage in words."""

    method: Method
    table: Table  # of the last stage
    reasons: tuple[str, ...]


def tune(
    sampler: PowerSampler,
    task: Task,
    folder: Path,
    *,
    candidates: str = CANDIDATES,
    first: int = 8,
    most_tokens: float | None = None,
    bounds: Bounds | None = None,
    listener: Listener | None = None,
) -> Tuning:
    """The method to take among `candidates` (as `evaluate` names samplers), by successive halving over `task`.

    `first` questions are answered by all of them. `most_tokens` leaves out candidates that decode more for an answer on
    average; `bounds` limits the whole search, which goes on where it was stopped when it is started again with the same
    folder. The accuracy of the winner is optimistic: it was chosen on these questions.
    """
    if not task.is_labelled:
        raise ConfigurationError(f"tune: the questions of {task.name} have no answers; use tune_alpha.")
    methods, votes = parse_methods(candidates, sampler.generation)
    if votes:
        raise ConfigurationError(f"tune: {', '.join(votes)}: a vote is no setting of one answer; leave it out.")
    if len(methods) < 2 or not 1 <= first <= len(task.questions):
        raise ConfigurationError(
            f"tune: expected at least two candidates, got {len(methods)}, and a first stage of 1 to "
            f"{len(task.questions)} questions, got {first}."
        )
    reasons: list[str] = []
    questions = first
    while True:
        plan = make_plan(task, methods, (), questions=questions)
        table = run(sampler, task, plan, folder, bounds=bounds, listener=listener)
        is_stopped = len(table.questions) < questions
        kept = _kept(table, most_tokens)
        reasons.append(_stage(table, kept, is_stopped))
        methods = tuple(method for method in plan.methods if method.label in {row.label for row in kept})
        if is_stopped or len(methods) <= 2 or questions == len(task.questions):
            return _chosen(methods, table, kept, reasons)
        questions = min(2 * questions, len(task.questions))


def _kept(table: Table, most_tokens: float | None) -> list[Row]:
    """The better half, the cheapest one among them; of equals the cheaper are kept."""
    cheapest = min(table.rows, key=lambda row: row.tokens)
    allowed = [row for row in table.rows if most_tokens is None or row.tokens <= most_tokens]
    if not allowed:
        raise ConfigurationError(
            f"tune: the cheapest candidate, {cheapest.label}, decodes {cheapest.tokens:.0f} tokens an answer, and no "
            f"more than {most_tokens:g} are allowed; raise the limit or lower max_new_tokens."
        )
    ranked = sorted(allowed, key=lambda row: (-row.accuracy.value, row.tokens))
    best = ranked[: max(1, -(-len(allowed) // 2))]
    return best if cheapest in best else [*best, cheapest]


def _stage(table: Table, kept: Sequence[Row], is_stopped: bool) -> str:
    names = {row.label for row in kept}
    shown = sorted(table.rows, key=lambda row: (-row.accuracy.value, row.tokens))
    scores = "; ".join(
        f"{row.label} {row.accuracy.value:.0%} at {row.tokens:.0f} tokens{'' if row.label in names else ' (out)'}"
        for row in shown
    )
    stopped = " The limit was reached." if is_stopped else ""
    return f"{len(table.questions)} questions: {scores}.{stopped}"


def _chosen(methods: Sequence[Method], table: Table, kept: Sequence[Row], reasons: list[str]) -> Tuning:
    rungs = ladder(kept)
    row, cheapest = rungs[-1], rungs[0]
    if row is cheapest:
        best = max(kept, key=lambda each: (each.accuracy.value, -each.tokens))
        lead = best.accuracy.value - row.accuracy.value
        reasons.append(
            f"{row.label} is the cheapest, and nothing that costs more is seen to be better on "
            f"{len(table.questions)} questions{f' ({best.label} is ahead by {lead:.0%})' if lead else ''}."
        )
    else:
        reasons.append(f"{row.label} is really better than {cheapest.label}, the cheapest one.")
    reasons.append("Its accuracy here is optimistic, for it was chosen on these questions: evaluate it on others.")
    return Tuning(next(method for method in methods if method.label == row.label), table, tuple(reasons))


# ---------------------------------------------------------------- without answers


@dataclass(frozen=True, slots=True)
class Alpha:
    """A power found without answers. A heuristic: what samples agree on may be wrong."""

    alpha: float
    slopes: tuple[tuple[float, float, float], ...]  # alpha, slope of the agreement, effective votes
    reasons: tuple[str, ...]


def tune_alpha(
    sampler: PowerSampler,
    task: Task,
    folder: Path,
    *,
    samples: int = 8,
    bounds: Bounds | None = None,
    listener: Listener | None = None,
) -> Alpha:
    """`suggest_alpha` over `samples` plain samples of every question, which need no answers. A heuristic."""
    if samples < 3 or not task.is_votable:
        raise ConfigurationError(
            f"tune_alpha: expected at least 3 samples, got {samples}, of a task whose answers can be told to be equal."
        )
    methods, _ = parse_methods(POOL, sampler.generation)
    plan = make_plan(task, methods, (), samples=samples, unlabelled=True)
    table = run(sampler, task, plan, folder, bounds=bounds, listener=listener)
    pools = []
    for question in table.questions:
        drawn = [a for a in table.of(POOL, question) if a.logp is not None]
        pools.append([(a.answer, float(a.logp or 0.0)) for a in drawn])
    return suggest_alpha(pools)


def suggest_alpha(pools: Sequence[Sequence[tuple[str | None, float]]], alphas: Sequence[float] = ALPHAS) -> Alpha:
    """The largest power up to which likelier samples agree more with the others: a heuristic, from plain samples alone.

    Sharpening helps a question iff its right answers are the likelier ones: d P(right) / d alpha is the covariance of
    rightness and log p under p^alpha (arXiv 2610.08563, theorem 1). Here v_i, the share of the other samples that give
    the answer of sample i, stands for rightness, and weights p^(alpha - 1) turn plain samples into those of p^alpha.
    The slope at alpha is the mean over questions of Cov_w(v, log p). The power goes up while the slope is positive and
    the mean number of effective votes is at least 2.

    `pools`: for every question its plain samples as (answer, log p of the whole completion).
    """
    slopes = []
    for alpha in alphas:
        found = [_slope(pool, alpha) for pool in pools if len(pool) > 2]
        if not found:
            raise ConfigurationError("suggest_alpha: expected at least one question with three plain samples.")
        slope, votes = np.mean(found, axis=0)
        slopes.append((float(alpha), float(slope), float(votes)))
    good = 0
    while good < len(slopes) and slopes[good][1] > 0 and slopes[good][2] >= FEWEST:
        good += 1
    alpha = slopes[max(0, good - 1)][0]
    stop = slopes[good] if good < len(slopes) else None
    why = (
        "the largest that was tried"
        if stop is None
        else f"at {stop[0]:g} the slope is {stop[1]:+.2g} with {stop[2]:.1f} effective votes"
    )
    return Alpha(
        alpha,
        tuple(slopes),
        (
            f"alpha {alpha:g}: up to there likelier samples agree more with the others ({why}).",
            "This is a heuristic: samples may agree on what is wrong. Questions with answers tell more.",
        ),
    )


def _slope(pool: Sequence[tuple[str | None, float]], alpha: float) -> tuple[float, float]:
    """(Cov_w(v, log p), effective votes) of one question."""
    logp: Floats = np.array([p for _, p in pool])
    answers = [answer for answer, _ in pool]
    agree = np.array([(answers.count(a) - 1) / (len(pool) - 1) if a is not None else 0.0 for a in answers])
    w = np.exp((alpha - 1) * (logp - logp.max()))
    w = w / w.sum()
    return float(w @ (agree * logp) - (w @ agree) * (w @ logp)), float(1 / (w @ w))


# ---------------------------------------------------------------- settings


def settings_yaml(sampler: PowerSampler, generation: GenerationConfig, reasons: Sequence[str] = ()) -> str:
    """A settings file for the command line and both adapters; the reasons as comments above it.

    What was set is written, and of the model what is not as it is by default. `prefetch`, which evaluation switches off
    to count tokens fairly, is left out unless it is not 0."""
    model = sampler.config.model_part()
    fields: dict[str, Any] = {"model": model.model, **model.model_dump(mode="json", exclude_defaults=True)}
    if model.engine is not None:
        fields["engine"] = {"name": model.engine.name, **model.engine.model_dump(mode="json", exclude_defaults=True)}
    fields |= generation.model_dump(mode="json", exclude_unset=True)
    options = generation.sampler.model_dump(mode="json", exclude_unset=True) | {"name": generation.sampler.name}
    if options.get("prefetch") == 0:
        del options["prefetch"]
    fields["sampler"] = {"name": options.pop("name"), **options} if len(options) > 1 else options["name"]
    comments = "".join(f"# {line}\n" for line in reasons)
    return comments + yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
