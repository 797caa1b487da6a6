"""Which answers a run consists of, in which order, each with a seed of its own."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from power_sampling.errors import ConfigurationError
from power_sampling.evaluation.log import Answer, Key
from power_sampling.evaluation.methods import POOL, Method
from power_sampling.evaluation.tasks import Question, Task
from power_sampling.samplers import Marginal

__all__ = ["Plan", "make_plan", "request_seed"]

ORDER = 20_251_014  # of the questions, in every run


@dataclass(frozen=True, slots=True)
class Plan:
    """The questions in their order, and how many samples of each method every seed asks for."""

    questions: tuple[Question, ...]
    methods: tuple[Method, ...]
    votes: tuple[str, ...]
    seeds: tuple[int, ...]
    samples: int
    pool: int | None = None
    """Plain samples per question that votes are counted over, over all seeds; None: as many as of any method."""

    def keys_of(self, method: Method, question: Question) -> list[Key]:
        """The answers of one method to one question, the first to be drawn first."""
        seeds, samples = self.seeds, self.samples
        if method.is_deterministic:
            seeds, samples = seeds[:1], 1
        if method.label == POOL and self.pool is not None:
            samples = max(samples, -(-self.pool // len(seeds)))
        return [Key(method.label, question.id, seed, i) for i in range(samples) for seed in seeds]

    def keys(self) -> Iterator[tuple[Key, Question, Method]]:
        """Every answer, question by question, so that a run that is stopped has whole questions."""
        for question in self.questions:
            for method in self.methods:
                for key in self.keys_of(method, question):
                    yield key, question, method

    def with_pool(self, size: int) -> Plan:
        """The same with so many plain samples per question to vote over."""
        return replace(self, pool=size)

    def answered(self, answers: Mapping[Key, Answer]) -> tuple[Question, ...]:
        """The first questions, in their order, that every method has answered as often as planned, the pool of votes
        aside. A question behind a gap is left out: what happens to be ready first is not a fair sample."""
        ready = []
        smaller = replace(self, pool=None)
        for question in self.questions:
            if not all(key in answers for method in self.methods for key in smaller.keys_of(method, question)):
                break
            ready.append(question)
        return tuple(ready)


def make_plan(
    task: Task,
    methods: tuple[Method, ...],
    votes: tuple[str, ...],
    *,
    questions: int | None = None,
    samples: int = 1,
    seeds: tuple[int, ...] = (0,),
    pool: int | None = None,
    unlabelled: bool = False,
) -> Plan:
    """A plan over the first `questions` of the task in an order that is random and always the same. `unlabelled`: the
    answers are not to be graded; without that word a task that knows no right answers is refused. `marginal` reads the
    answers of this task, where its settings name no parser."""
    if not task.is_labelled and not unlabelled:
        raise ConfigurationError(
            f"The questions of {task.name} have no answers, so nothing can be graded. Give answers, write outputs for "
            "another judge (make_plan(unlabelled=True), write_outputs), or tune_alpha."
        )
    if votes and not task.is_votable:
        raise ConfigurationError(
            f"samplers: {', '.join(votes)}: whether two answers of {task.name} are equal cannot be told, so votes "
            "cannot be counted; leave it out."
        )
    methods = tuple(_reading(method, task) for method in methods)
    for name, value in {"questions": questions, "samples": samples, "pool": pool}.items():
        if value is not None and value < 1:
            raise ConfigurationError(f"{name}: expected at least 1, got {value}.")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigurationError(f"seeds: expected different whole numbers, at least one, got {list(seeds)}.")
    order = list(task.questions)
    random.Random(ORDER).shuffle(order)  # noqa: S311 - an order, no secret
    if questions is not None and questions > len(order):
        raise ConfigurationError(f"questions: {task.name} has {len(order)}, got {questions}.")
    return Plan(tuple(order[:questions]), methods, votes, seeds, samples, pool if votes else None)


def _reading(method: Method, task: Task) -> Method:
    """The method, with the task's parser where it counts votes and has none."""
    sampler = method.generation.sampler
    if not isinstance(sampler, Marginal) or "parser" in sampler.model_fields_set:
        return method
    if not task.is_votable:
        raise ConfigurationError(
            f"samplers: {method.label}: whether two answers of {task.name} are equal cannot be told. Name a parser, as "
            "in marginal(parser=numeric), or leave it out."
        )
    told = sampler.model_copy(update={"parser": task.parser})
    return replace(method, generation=method.generation.model_copy(update={"sampler": told}))


def request_seed(key: Key) -> int:
    """A seed of this answer's own. One seed for all would make all questions of a run depend on the same draws."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
