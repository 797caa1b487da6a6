"""How close every sampler comes to p(x)^alpha, against what it costs: the table the defaults are chosen from.

    python benchmarks/quality.py --out quality.jsonl              all of it; an interrupted run goes on where it was
    python benchmarks/quality.py --out quality.jsonl --table      print the tables of what is there so far
    python benchmarks/quality.py --out quality.jsonl --seconds    time one request of each setting, alone
    python benchmarks/quality.py --out quick.jsonl --quick        4 prompts

The embedded model in float32 on real questions (`prompts.json`), at most 32 new tokens. Row-steps (tokens decoded),
serial steps and laws do not depend on the machine or on what runs beside it. What is compared per prompt:

- E[log p(x)] under the sampler minus that under pi = p^alpha / Z;
- pi(a) of the sampler's answer a (the last number of the text, or all of it where there is none) minus what that is on
  average under pi: below 0 for a sampler that misses what is likely, above 0 for one that runs to the mode;
- the law P of its answers against that under pi, sum_a (P(a) - pi(a))^2, by a U-statistic over pairs of seeds:
  unbiased, so it can come out below 0. It needs two seeds.

Intervals are of the mean over prompts: 95 %, bootstrap over prompts with all their seeds.

The reference is exact where the mass is, and sampled elsewhere. Enumeration: every completion of log p >= f is found by
expanding every prefix of log p >= f; these have their exact weights p^alpha. All others lie behind the first token that
falls below f, so that they weigh at most B = sum over those prefixes h of p(h)^alpha: at alpha = 4, where a handful of
completions holds nearly everything, that bound alone can prove the reference. Importance sampling: independent
completions at temperature 0.7, weighed by p^alpha / q, stand for what is below f. Those above f check the two methods
against each other: they estimate a mass that is known. Importance sampling alone, or long chains, would not do: on some
prompts they never meet the one completion that matters.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from tqdm import tqdm
from transformers import DynamicCache

from power_sampling import PowerSampler
from power_sampling.config import GenerationConfig
from power_sampling.samplers import NumpyRng, Sampler, sampler_for
from power_sampling.serving.worker import Outcome, Request
from power_sampling.types import Answer, Chain, Continuation, Draw, Floats, Law, Round, Termination, Tokens

HORIZON = 32
ALPHA, LOW_ALPHA = 4.0, 2.0
ROWS, IN_FLIGHT = 128, 48  # rows decoded together; requests live at one time, so that rows are always full
DRAWS, DRAW_TEMPERATURE = 64, 0.7  # of importance sampling: completions per request
FIRST_FLOOR, NEGLIGIBLE, MAX_PREFIXES = -6.5, 0.02, 3000  # of the enumeration: it ends at this share, or this cost
GROUP, TIMED_PROMPTS = 4, 3  # prompts that are finished before the next ones are begun; prompts that are timed
FEW = 5  # prompts, below which no interval is given
PROMPTS = Path(__file__).with_name("prompts.json")
Record = dict[str, Any]


class Setting(NamedTuple):
    alpha: float
    sampler: dict[str, Any]

    @property
    def label(self) -> str:
        options = [f"{name} {value}" for name, value in self.sampler.items() if name != "name"]
        return ", ".join([self.sampler["name"], *options])


def settings() -> list[Setting]:
    """Every line of the table."""
    at_low_alpha = [
        {"name": "ancestral"},
        {"name": "low_temperature"},
        mh(4, 10),
        mh(4, 10, proposal_temperature=0.7),
        smc(8, 8),
        smc(16, 8),
        smc(16, 8, proposal_temperature=0.7),
        gibbs(8, 4),
    ]
    return [*(Setting(ALPHA, s) for s in at_alpha()), *(Setting(LOW_ALPHA, s) for s in at_low_alpha)]


def core() -> list[Setting]:
    """The lines that the defaults are chosen among: a third of the time."""
    at_alpha: list[dict[str, Any]] = [
        {"name": "ancestral"},
        {"name": "low_temperature"},
        {"name": "best_of_n", "num_completions": 8, "proposal_temperature": 0.7},
        *(mh(blocks, steps) for blocks, steps in ((4, 5), (4, 10), (16, 10))),
        mh(4, 10, cut="entropy"),
        mh(4, 10, proposal_temperature=0.5),
        *(smc(n, 8) for n in (8, 16)),
        smc(16, 16),
        *(smc(16, 8, proposal_temperature=t) for t in (0.5, 0.7)),
        gibbs(8, 4),
        gibbs(8, 4, proposal_temperature=0.7),
        pt(4, 4, 2),
        lookahead(8, 8, 2, proposal_temperature=0.7),
    ]
    at_low_alpha = [mh(4, 10), smc(16, 8), smc(16, 8, proposal_temperature=0.7)]
    return [*(Setting(ALPHA, s) for s in at_alpha), *(Setting(LOW_ALPHA, s) for s in at_low_alpha)]


def at_alpha() -> list[dict[str, Any]]:
    return [
        {"name": "ancestral"},
        {"name": "low_temperature"},
        {"name": "best_of_n", "num_completions": 8},
        {"name": "best_of_n", "num_completions": 8, "proposal_temperature": 0.5},
        {"name": "best_of_n", "num_completions": 8, "proposal_temperature": 0.7},
        *(mh(blocks, steps) for blocks, steps in ((1, 10), (4, 5), (4, 10), (16, 4), (16, 10), (1, 40))),
        mh(4, 5, num_proposals=2),
        mh(4, 3, num_proposals=4),
        mh(4, 10, cut="entropy"),
        *(mh(1, 10, proposal_temperature=t) for t in (0.5, 0.7)),
        *(mh(4, 10, proposal_temperature=t) for t in (0.5, 0.7)),
        *(smc(n, 8) for n in (4, 8, 16, 32)),
        *(smc(16, block) for block in (4, 16)),
        smc(16, 8, resampling="chopthin"),
        smc(16, 8, ramp_tokens=16),
        smc(8, 8, num_runs=2),
        *(smc(16, 8, proposal_temperature=t) for t in (0.5, 0.7)),
        smc(16, HORIZON, proposal_temperature=0.7),
        smc(32, 8, proposal_temperature=0.7),
        *(gibbs(n, steps) for n, steps in ((2, 4), (4, 4), (8, 1), (8, 4), (16, 1))),
        gibbs(8, 4, block_size=8),
        gibbs(4, 4, proposal_temperature=0.7),
        gibbs(8, 4, proposal_temperature=0.7),
        pt(3, 1, 5),
        pt(4, 1, 5),
        pt(4, 4, 2),
        lookahead(8, 4, 2),
        lookahead(8, 8, 2, proposal_temperature=0.7),
    ]


def mh(blocks: int, steps: int, **more: Any) -> dict[str, Any]:
    return {"name": "metropolis_hastings", "block_size": HORIZON // blocks, "num_steps": steps, **more}


def smc(particles: int, block: int, **more: Any) -> dict[str, Any]:
    return {"name": "sequential_monte_carlo", "num_particles": particles, "block_size": block, **more}


def gibbs(particles: int, steps: int, **more: Any) -> dict[str, Any]:
    return {"name": "particle_gibbs", "num_particles": particles, "num_steps": steps, **more}


def pt(rungs: int, blocks: int, steps: int) -> dict[str, Any]:
    block = HORIZON // blocks
    return {"name": "parallel_tempering", "num_rungs": rungs, "block_size": block, "num_steps": steps}


def lookahead(block: int, candidates: int, rollouts: int, **more: Any) -> dict[str, Any]:
    return {"name": "lookahead", "block_size": block, "num_candidates": candidates, "num_rollouts": rollouts, **more}


# ---------------------------------------------------------------- what is run


class Lab:
    """The model and the questions."""

    def __init__(self, max_rows: int) -> None:
        asked = json.loads(PROMPTS.read_text(encoding="utf-8"))
        self.sampler = PowerSampler.from_pretrained("embedded", dtype="float32", max_rows=max_rows)
        loaded = self.sampler._model.load()
        self.codec, self.worker, self.engine = loaded.codec, loaded.worker, loaded.engine
        self.prompts: dict[str, Tokens] = {
            prompt["id"]: loaded.codec.encode_chat(
                [{"role": "user", "content": f"{prompt['text']} {asked['instruction']}"}]
            )
            for prompt in asked["prompts"]
        }

    def request(self, prompt: str, make_sampler: Callable[[Callable[[], bool]], Sampler]) -> Request:
        return Request(
            prompt=self.prompts[prompt], termination=Termination(self.codec.eos_ids), make_sampler=make_sampler
        )

    def describe(self, chain: Chain | Continuation) -> Record:
        """Its numbers, for the file."""
        text = self.codec.decode(chain.tokens)
        return {"tokens": list(chain.tokens), "logp": float(chain.logp.sum()), "text": text}


class Task(NamedTuple):
    """One request: what its line in the file is found by, and how the rest of the line is made."""

    key: Record
    request: Request
    result: Callable[[Outcome], Record]


def sampling_task(lab: Lab, setting: Setting, prompt: str, seed: int) -> Task:
    rounds: list[list[int]] = []
    config = GenerationConfig.parse({"sampler": setting.sampler, "alpha": setting.alpha, "max_new_tokens": HORIZON})

    def result(outcome: Outcome) -> Record:
        cost = {"row_steps": sum(map(sum, rounds)), "serial_steps": sum(map(max, rounds))}
        return {**lab.describe(outcome.answer.chain), **cost, "log_z": outcome.answer.log_z}

    def make_sampler(is_over: Callable[[], bool]) -> Sampler:
        return watched(sampler_for(config, HORIZON, NumpyRng(seed), is_over), rounds)

    key = {"kind": "answer", "alpha": setting.alpha, "setting": setting.label, "prompt": prompt, "seed": seed}
    return Task(key, lab.request(prompt, make_sampler), result)


def watched(sampler: Sampler, rounds: list[list[int]]) -> Sampler:
    """The sampler itself; told on the side: the tokens of every draw it asked for, round by round. A request waits for
    the longest of a round where there are rows enough; here, among others, it waits for more."""
    continuations: list[Continuation] | None = None
    while True:
        try:
            current = next(sampler) if continuations is None else sampler.send(continuations)
        except StopIteration as stop:
            answer: Answer = stop.value
            return answer
        continuations = yield current
        rounds.append([len(c.tokens) for c in continuations])


def importance_task(lab: Lab, prompt: str, seed: int) -> Task:
    kept: list[Continuation] = []
    law = Law(1.0, 1.0, DRAW_TEMPERATURE)  # the weight is then p / q

    def sampler(_: Callable[[], bool]) -> Generator[Round, list[Continuation], Answer]:
        rng = NumpyRng(seed)
        kept.extend((yield Round(tuple(Draw(Chain.empty(), 0, HORIZON, law, rng.seed()) for _ in range(DRAWS)))))
        return Answer(Chain.empty(), "approximate")

    def result(outcome: Outcome) -> Record:
        draws = [{**lab.describe(c), "logq": float(c.logp.sum() - c.log_weight.sum())} for c in kept]
        return {"completions": draws, "row_steps": outcome.tokens_decoded}

    return Task({"kind": "importance", "prompt": prompt, "seed": seed}, lab.request(prompt, sampler), result)


def run(lab: Lab, tasks: Sequence[Task], write: Callable[[Record], None]) -> None:
    """All of them as one batch, refilled as requests end."""
    waiting, pending = iter(tasks), dict[Future[Outcome], Task]()
    with tqdm(total=len(tasks), unit="request", smoothing=0.05, leave=False) as bar:
        while True:
            for task in waiting:
                pending[lab.worker.submit(task.request).future] = task
                if len(pending) >= IN_FLIGHT:
                    break
            if not pending:
                return
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                task = pending.pop(future)
                write({**task.key, **task.result(future.result())})
                bar.update()


def time_alone(lab: Lab, prompts: Sequence[str], lines: Sequence[Setting], write: Callable[[Record], None]) -> None:
    """Seconds of one request with the machine to itself; prompts have been prefilled before."""
    for prompt in prompts:
        lab.worker.submit(sampling_task(lab, lines[0], prompt, 0).request).future.result()
    for setting in tqdm(lines, unit="setting"):
        for prompt in prompts:
            outcome = lab.worker.submit(sampling_task(lab, setting, prompt, 0).request).future.result()
            line = {"kind": "seconds", "alpha": setting.alpha, "setting": setting.label, "prompt": prompt}
            cost = {"row_steps": outcome.tokens_decoded, "serial_steps": outcome.serial_steps}
            write({**line, **cost, "seconds": outcome.seconds})


# ---------------------------------------------------------------- the target, by enumeration


class Enumeration(NamedTuple):
    floor: float
    completions: list[tuple[float, Tokens]]  # all of log p >= floor
    log_bound: float  # of the mass of all others at ALPHA
    num_prefixes: int

    @property
    def log_share(self) -> float:
        """The logarithm of the bound against the mass that was found."""
        return self.log_bound - float(
            np.logaddexp.reduce([ALPHA * logp for logp, _ in self.completions] or [-math.inf])
        )


def enumerate_target(lab: Lab, prompt: str) -> Record:
    """Once down to a high floor, then to the one below which next to nothing can lie, or to the lowest that can be
    afforded: per unit of log p the bound falls about 20-fold and prefixes grow about 3-fold."""
    found = enumerated(lab, prompt, FIRST_FLOOR)
    if (excess := found.log_share - math.log(NEGLIGIBLE)) > 0:
        affordable = math.log(MAX_PREFIXES / max(1, found.num_prefixes))
        found = enumerated(lab, prompt, FIRST_FLOOR - min(excess / 3 + 0.3, affordable))
    lines = [{"tokens": list(x), "logp": logp, "text": lab.codec.decode(x)} for logp, x in found.completions]
    facts = {"floor": found.floor, "log_bound": found.log_bound, "row_steps": found.num_prefixes}
    return {"kind": "enumeration", "prompt": prompt, **facts, "completions": lines}


@torch.inference_mode()
def enumerated(lab: Lab, prompt: str, floor: float) -> Enumeration:
    """Level by level: all prefixes of log p >= floor with the completions that end there."""
    model, eos = lab.engine.model, sorted(lab.codec.eos_ids)  # type: ignore[attr-defined] # of the engine for transformers
    cache, fed = DynamicCache(), torch.tensor([lab.prompts[prompt]])
    prefixes, logp = [()], torch.zeros(1)
    completions: list[tuple[float, Tokens]] = []
    log_bound, num_prefixes = -math.inf, 0
    for length in range(1, HORIZON + 1):
        logits = model(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        joint = torch.log_softmax(logits[:, : lab.engine.vocab_size].float(), -1).add_(logp[:, None])
        is_kept = joint >= floor
        parents, tokens = is_kept.nonzero(as_tuple=True)
        children = [(*prefixes[i], v) for i, v in zip(parents.tolist(), tokens.tolist(), strict=True)]
        values = joint[is_kept]
        lost = torch.logsumexp(joint.masked_fill_(is_kept, -math.inf).mul_(ALPHA), (0, 1))
        log_bound = float(np.logaddexp(log_bound, float(lost)))
        ends = torch.isin(tokens, torch.tensor(eos)) | (length == HORIZON)
        completions += [(float(values[i]), children[i]) for i in ends.nonzero()[:, 0].tolist()]
        (staying,) = (~ends).nonzero(as_tuple=True)
        if not len(staying):
            break
        num_prefixes += len(staying)
        prefixes, logp = [children[i] for i in staying.tolist()], values[staying]
        fed = tokens[staying][:, None]
        cache.batch_select_indices(parents[staying])
    return Enumeration(floor, completions, log_bound, num_prefixes)


# ---------------------------------------------------------------- what the file says


REFERENCE_COLUMNS = [
    "prompt",
    "floor",
    "missing at most",
    *(f"alpha {alpha:g}: {name}" for alpha in (ALPHA, LOW_ALPHA) for name in ("sampled", "E[log p]", "s.e.")),
    "likeliest answer",
]
CHECK_COLUMNS = ["power", "mass above the floor, estimated / exact"]
SETTING_COLUMNS = [
    "alpha",
    "sampler",
    "requests, prompts",
    "E[log p], difference",
    "pi(answer), difference",
    "answers, squared distance",
    "row-steps",
    "serial steps",
    "alone: s",
    "row-steps",
    "serial steps",
]


class Target(NamedTuple):
    """pi at one prompt."""

    mean_logp: float
    answers: dict[str, float]
    sampled: float  # the share of it that is not enumerated


def answer_of(text: str) -> str:
    """The last number, or everything."""
    numbers = re.findall(r"\d[\d,]*(?:\.\d+)?", text)
    return numbers[-1].rstrip(",") if numbers else " ".join(text.lower().split())


class Reference:
    """pi at one prompt, for any alpha: enumerated above a floor, sampled below."""

    def __init__(self, enumeration: Record, draws: Sequence[Record]) -> None:
        self.enumerated: list[Record] = enumeration["completions"]
        self.floor, self.log_bound, self.draws = enumeration["floor"], enumeration["log_bound"], list(draws)
        known = {tuple(x["tokens"]) for x in self.enumerated}
        self.is_known = np.array([tuple(x["tokens"]) in known for x in self.draws])

    def target(self, alpha: float, chosen: Sequence[int] | None = None) -> Target:
        """From these of the draws; None: all."""
        chosen = range(len(self.draws)) if chosen is None else chosen
        below = [self.draws[i] for i in chosen if not self.is_known[i]]
        log_w = [alpha * x["logp"] for x in self.enumerated]
        log_w += [alpha * x["logp"] - x["logq"] - math.log(len(chosen)) for x in below]
        w: Floats = np.exp(np.array(log_w) - max(log_w))
        w /= w.sum()
        answers: dict[str, float] = defaultdict(float)
        for x, share in zip([*self.enumerated, *below], w.tolist(), strict=True):
            answers[answer_of(x["text"])] += share
        mean_logp = float(w @ np.array([x["logp"] for x in [*self.enumerated, *below]]))
        return Target(mean_logp, dict(answers), float(w[len(self.enumerated) :].sum()))

    def standard_error(self, alpha: float) -> float:
        """Of the mean log p: bootstrap over the draws."""
        rng, n = np.random.default_rng(0), len(self.draws)
        return float(np.std([self.target(alpha, rng.integers(n, size=n).tolist()).mean_logp for _ in range(100)]))

    def square(self, alpha: float) -> float:
        """The sum over answers of pi^2, from two halves of the draws: a square would count their noise."""
        n = len(self.draws)
        one, other = (self.target(alpha, range(start, n, 2)).answers for start in (0, 1))
        return inner(one, other)

    def missing(self) -> float:
        """The largest share of the mass at ALPHA that the enumeration can have left out."""
        log_mass = np.logaddexp.reduce([ALPHA * x["logp"] for x in self.enumerated] or [-math.inf])
        return float(1 / (1 + np.exp(log_mass - self.log_bound)))

    def estimated_over_exact(self, alpha: float) -> float:
        """Importance sampling's estimate of the mass above the floor, over that mass: 1 on average."""
        exact = np.logaddexp.reduce([alpha * x["logp"] for x in self.enumerated])
        log_w = np.array([alpha * x["logp"] - x["logq"] for x in self.draws])
        return float((np.exp(log_w - exact) * self.is_known).mean())


class Findings:
    """The lines of a file."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.by_kind: dict[str, list[Record]] = defaultdict(list)
        for record in {identity(r) if r["kind"] != "seconds" else i: r for i, r in enumerate(records)}.values():
            self.by_kind[record["kind"]].append(record)
        draws: dict[str, list[Record]] = defaultdict(list)
        for record in self.by_kind["importance"]:
            draws[record["prompt"]] += record["completions"]
        enumerations = {r["prompt"]: r for r in self.by_kind["enumeration"]}
        self.references = {p: Reference(r, draws[p]) for p, r in enumerations.items() if p in draws}

    def overlooked(self) -> tuple[int, int, float]:
        """How many completions above the floor anything has found; how many of them the enumeration has not; the
        largest difference in log p of the others between engine and enumeration."""
        num_missed, differences = 0, [0.0]
        found = {(r["prompt"], tuple(r["tokens"])): r["logp"] for r in self.by_kind["answer"]}
        found |= {(p, tuple(x["tokens"])): x["logp"] for p, ref in self.references.items() for x in ref.draws}
        known = {(p, tuple(x["tokens"])): x["logp"] for p, ref in self.references.items() for x in ref.enumerated}
        above = {k: v for k, v in found.items() if k[0] in self.references and v > self.references[k[0]].floor + 1e-3}
        for key, logp in above.items():
            if key in known:
                differences.append(abs(logp - known[key]))
            else:
                num_missed += 1
        return len(above), num_missed, max(differences)


def inner(a: dict[str, float], b: dict[str, float]) -> float:
    """The sum over answers of a * b."""
    return sum(share * b.get(answer, 0.0) for answer, share in a.items())


def distance(answers: Sequence[str], target: dict[str, float], target_squared: float) -> float:
    """sum_a (P(a) - pi(a))^2 from independent draws of P: pairs estimate P.P, single ones P.pi."""
    n = len(answers)
    if n < 2:
        return math.nan
    pairs = sum(c * (c - 1) for c in Counter(answers).values()) / (n * (n - 1))
    return pairs - 2 * statistics.mean(target.get(a, 0.0) for a in answers) + target_squared


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval over prompts; of a few there is no saying how they vary."""
    known: Floats = np.array([v for v in values if not math.isnan(v)])
    if len(known) < FEW:
        return f"{known.mean():.2f}" if len(known) else "-"
    means = np.random.default_rng(0).choice(known, (4000, len(known))).mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{known.mean():.2f} [{low:.2f}, {high:.2f}]"


def print_references(found: Findings) -> None:
    """Each prompt's target, and whether the two methods agree about it."""
    print(f"\n|{'|'.join(REFERENCE_COLUMNS)}|\n{'|---' * len(REFERENCE_COLUMNS)}|")
    for prompt, reference in found.references.items():
        numbers = []
        for alpha in (ALPHA, LOW_ALPHA):
            target = reference.target(alpha)
            error = reference.standard_error(alpha)
            numbers += [f"{target.sampled:.0%}", f"{target.mean_logp:.2f}", f"{error:.2f}"]
        answers = reference.target(ALPHA).answers
        top = max(answers, key=lambda a: answers[a])
        facts = [
            prompt,
            f"{reference.floor:.1f}",
            f"{reference.missing():.1%}",
            *numbers,
            f"{top[:30]} ({answers[top]:.0%})",
        ]
        print(f"| {' | '.join(facts)} |")
    print(f"\n|{'|'.join(CHECK_COLUMNS)}|\n{'|---' * len(CHECK_COLUMNS)}|")
    for alpha in (1.0, LOW_ALPHA, ALPHA):
        ratios = [reference.estimated_over_exact(alpha) for reference in found.references.values()]
        print(f"| {alpha:g} | {interval(ratios)} |")
    num_above, num_missed, difference = found.overlooked()
    print(
        f"\nAbove the floors, samplers have met {num_above} completions; {num_missed} of them are not enumerated; "
        f"log p differs by {difference:.1e} at most."
    )


def print_settings(found: Findings) -> None:
    """One line per setting. The intervals of two lines may overlap and the lines differ all the same: the prompts are
    the same ones."""
    lines: dict[tuple[float, str], list[Record]] = {(s.alpha, s.label): [] for s in settings()}
    alone: dict[tuple[float, str], list[Record]] = defaultdict(list)
    for record in found.by_kind["answer"]:
        if record["prompt"] in found.references:
            lines.setdefault((record["alpha"], record["setting"]), []).append(record)
    for record in found.by_kind["seconds"]:
        alone[record["alpha"], record["setting"]].append(record)
    targets = {
        (prompt, alpha): (reference.target(alpha), reference.square(alpha))
        for prompt, reference in found.references.items()
        for alpha in (ALPHA, LOW_ALPHA)
    }
    print(f"\n|{'|'.join(SETTING_COLUMNS)}|\n{'|---' * len(SETTING_COLUMNS)}|")
    for (alpha, label), records in lines.items():
        if not records:
            continue
        by_prompt: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            by_prompt[record["prompt"]].append(record)
        gaps, likely, apart = [], [], []
        for prompt, own in by_prompt.items():
            target, square = targets[prompt, alpha]
            gaps.append(statistics.mean(r["logp"] for r in own) - target.mean_logp)
            answers = [answer_of(r["text"]) for r in own]
            likely.append(statistics.mean(target.answers.get(a, 0.0) for a in answers) - square)
            apart.append(distance(answers, target.answers, square))
        costs = [mean_of(records, "row_steps"), mean_of(records, "serial_steps")]
        costs += [median_of(alone[alpha, label], cost) for cost in ("seconds", "row_steps", "serial_steps")]
        numbers = " | ".join([interval(gaps), interval(likely), interval(apart), *costs])
        print(f"| {alpha:g} | {label} | {len(records)} on {len(by_prompt)} | {numbers} |")


def mean_of(records: Sequence[Record], name: str) -> str:
    return f"{statistics.mean(r[name] for r in records):.0f}" if records else "-"


def median_of(records: Sequence[Record], name: str) -> str:
    return f"{statistics.median(r[name] for r in records):.3g}" if records else "-"


# ---------------------------------------------------------------- the command line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a file of JSON lines, appended to")
    parser.add_argument("--prompts", type=int, default=20, help="the first so many of 24")
    parser.add_argument("--seeds", type=int, default=2, help="requests per setting and prompt")
    parser.add_argument("--draws", type=int, default=192, help="completions per prompt of importance sampling")
    parser.add_argument("--only", help="settings whose line contains this")
    parser.add_argument("--core", action="store_true", help="only the settings that the defaults are chosen among")
    parser.add_argument("--quick", action="store_true", help=f"{GROUP} prompts")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--seconds", action="store_true", help="time every setting alone")
    args = parser.parse_args()
    if not args.table:
        measure(args)
    found = Findings(read(args.out))
    print_references(found)
    print_settings(found)


def read(path: Path) -> list[Record]:
    """The complete lines of the file: the last one may be under way."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def measure(args: argparse.Namespace) -> None:
    """What is not in the file yet, group of prompts after group of prompts, so that any part makes a table."""
    done = {identity(record) for record in read(args.out)}
    lab = Lab(max_rows=32 if args.seconds else ROWS)
    prompts = list(lab.prompts)[: GROUP if args.quick else args.prompts]
    chosen = [s for s in (core() if args.core else settings()) if not args.only or args.only in s.label]
    with args.out.open("a+b") as file:
        drop_incomplete_line(file)

        def write(record: Record) -> None:
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()

        if args.seconds:
            time_alone(lab, prompts[:TIMED_PROMPTS], chosen, write)
            return
        for start in tqdm(range(0, len(prompts), GROUP), unit=f"{GROUP} prompts"):
            group = prompts[start : start + GROUP]
            for prompt in group:
                if identity({"kind": "enumeration", "prompt": prompt}) not in done:
                    write(enumerate_target(lab, prompt))
            tasks = [importance_task(lab, p, seed) for seed in range(math.ceil(args.draws / DRAWS)) for p in group]
            tasks += [sampling_task(lab, s, p, seed) for seed in range(args.seeds) for p in group for s in chosen]
            run(lab, [task for task in tasks if identity(task.key) not in done], write)


def drop_incomplete_line(file: BinaryIO) -> None:
    """What an interrupted run may have left at the end of a file."""
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


def identity(record: Record) -> tuple[Any, ...]:
    return tuple(record.get(name) for name in ("kind", "alpha", "setting", "prompt", "seed"))


if __name__ == "__main__":
    main()
