"""Outcomes of the worker read: completions, and the chunks of a stream."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from power_sampling.base_law import asked_for, label_of
from power_sampling.config import GenerationConfig
from power_sampling.errors import ConfigurationError, InputError, NoLegalCompletionError
from power_sampling.frames import frame_of
from power_sampling.metering import note
from power_sampling.prepared import PreparedPrompt
from power_sampling.samplers.parts.mixing import effective_steps, split_r_hat
from power_sampling.serving.worker import Job, Outcome, Update
from power_sampling.text.stop import TextStream
from power_sampling.types import (
    Answer,
    Chain,
    Chunk,
    Completion,
    Diagnostics,
    Progress,
    Ranked,
    Reply,
    Tokens,
    TopToken,
)

if TYPE_CHECKING:
    from power_sampling.models import Model
    from power_sampling.text.codec import Codec

__all__ = ["Origin", "StreamReader", "Submitted", "completion_of", "completions_of"]

RESUMED = ("num_steps", "seed", "time_budget", "timeout")  # what may differ in a request that goes on
MOST_R_HAT = 1.1  # above it chains of one target are said to disagree


class Submitted(NamedTuple):
    """A request under way."""

    job: Job
    prompt: PreparedPrompt
    seed: int
    model: Callable[[], Model | None]  # a weak reference: a completion keeps no weights


def completions_of(submitted: Sequence[Submitted], outcomes: Sequence[Outcome]) -> list[Completion]:
    """The completions of a call. What its chains say about each other stands in those that have the same prompt."""
    chains: dict[tuple[Tokens, Any], dict[int, tuple[float, ...]]] = {}
    for s, outcome in zip(submitted, outcomes, strict=True):
        if outcome.answer.trace:  # of one seed there is one chain, however often it is asked for
            chains.setdefault((s.prompt.tokens, s.prompt.termination), {})[s.seed] = outcome.answer.trace
    r_hats = {key: split_r_hat(list(of_prompt.values())) for key, of_prompt in chains.items()}

    def r_hat(s: Submitted, outcome: Outcome) -> float | None:
        return r_hats[s.prompt.tokens, s.prompt.termination] if outcome.answer.trace else None

    return [completion_of(s, outcome, r_hat=r_hat(s, outcome)) for s, outcome in zip(submitted, outcomes, strict=True)]


def completion_of(
    s: Submitted,
    outcome: Outcome,
    text: TextStream | None = None,
    reply: Reply | None = None,
    r_hat: float | None = None,
) -> Completion:
    """The completion a finished request stands for; `text` and `reply` where they are read already."""
    chain, config = outcome.answer.chain, s.prompt.config
    if chain.end == "illegal":
        changed = " and ".join(asked_for(config))
        if chain.log_phi == -math.inf:
            raise NoLegalCompletionError(
                "The potentials forbid every completion that was found. Let them forbid less (a low log phi instead of "
                "-inf), or spend more steps or particles."
            )
        raise NoLegalCompletionError(
            f"No completion of at most {config.max_new_tokens} tokens (max_new_tokens) that obeys the constraint was "
            "found. Raise max_new_tokens, bound the constraint (maxLength, maxItems), or spend more steps or particles."
            + (f" What {changed} excludes may be what the constraint needs." if changed else "")
        )
    if text is None:
        text = s.prompt.text_stream()
        text.finish(chain.tokens)
        if reader := s.prompt.reply_reader(s.seed):
            reader.push(s.prompt.control_text(chain.tokens) or text.text)
            _, reply = reader.finish()
    diagnostics = Diagnostics(
        sampler=config.sampler.name,
        alpha=config.law().alpha if outcome.answer.alpha is None else outcome.answer.alpha,
        base_law=label_of(config),
        log_phi=chain.log_phi if config.potentials else None,
        **_unseen(chain, s.prompt.support),
        **{**outcome.facts(), **_mixing(outcome.answer, r_hat)},
    )
    note(diagnostics)
    return Completion(
        text=text.text,
        reply=reply,
        tokens=chain.tokens,
        logp=float(chain.logp.sum()),
        token_logp=tuple(chain.logp.tolist()),
        token_text=s.prompt.codec.token_strings(chain.tokens),
        top_logprobs=tuple(_named(ranked, s.prompt.codec) for ranked in outcome.ranked),
        finish_reason="stop" if chain.is_terminated else "length",
        stop=text.stopped_by,
        prompt_tokens=len(s.prompt.tokens),
        seed=s.seed,
        diagnostics=diagnostics,
        origin=Origin(s, chain),
    )


def _mixing(answer: Answer, r_hat: float | None) -> dict[str, Any]:
    """What the states of a chain say about it, by the names of `Diagnostics`."""
    trace, told = answer.trace, list(answer.warnings)
    if trace and not answer.num_moved:
        told.append(f"The chain did not move: none of its {len(trace)} steps at full length was accepted.")
    if r_hat is not None and r_hat > MOST_R_HAT:
        told.append(f"The chains of this prompt disagree: split R-hat of log p is {r_hat:.2f}.")
    return {"effective_steps": effective_steps(trace), "r_hat": r_hat, "warnings": tuple(told)}


class Origin:
    """What a completion can be gone on from: its chain, whose numbers are never computed again."""

    def __init__(self, submitted: Submitted, chain: Chain) -> None:
        self._prompt, self._model, self._chain = submitted.prompt, submitted.model, chain

    def __reduce__(self) -> tuple[type[Lost], tuple[()]]:
        """A copy or a pickle holds neither weights nor numbers."""
        return Lost, ()

    def is_of(self, model: Model) -> bool:
        """Whether this model drew it; of a copy nobody knows."""
        return self._model() is model

    def submitted(self, seed: int, asked: Mapping[str, Any]) -> Submitted:
        """The request that goes on from it. Raises InputError where there is no way to."""
        config, model = self._prompt.config, self._model()
        if other := asked.keys() - RESUMED:
            raise ConfigurationError(
                f"resume: {', '.join(sorted(other))} stays as the completion's request had it; only "
                f"{', '.join(RESUMED)} may be given."
            )
        if not config.temperature:
            raise InputError("resume: at temperature=0 there is one completion, and no step leads to another.")
        if not config.sampler.takes_start():
            raise InputError(
                f"resume: the sampler {config.sampler.name} makes no steps from a completion. Ask one that does for a "
                "further one: sampler='metropolis_hastings', start=completion.tokens."
            )
        if model is None:
            raise InputError("resume: the completion's model is gone. Load it again, with start=completion.tokens.")
        given = {name: getattr(config, name) for name in config.model_fields_set if name != "start"} | dict(asked)
        if "num_steps" in given:
            given["sampler"] = {**dict(config.sampler), "num_steps": given.pop("num_steps")}
        now = GenerationConfig.parse(given)
        # plain sampling at alpha 1 stores no entropies
        is_known = not now.law().wants_entropy or len(self._chain.entropy) > 0
        prompt = replace(self._prompt, config=now, start=self._chain if is_known else self._chain.tokens)
        seed = asked["seed"] if "seed" in asked else _next_seed(seed)
        (job,) = model.load().worker.submit_all([prompt.request(seed, time.monotonic(), None)])
        return Submitted(job, prompt, seed, self._model)

    def resume(self, seed: int, asked: Mapping[str, Any]) -> Completion:
        """As `Completion.resume` says."""
        s = self.submitted(seed, asked)
        try:
            return completion_of(s, s.job.future.result())
        finally:
            s.job.cancel()

    async def aresume(self, seed: int, asked: Mapping[str, Any]) -> Completion:
        """As `Completion.aresume` says."""
        s = await asyncio.to_thread(self.submitted, seed, asked)
        try:
            return completion_of(s, await asyncio.wrap_future(s.job.future))
        finally:
            s.job.cancel()


class Lost(Origin):
    """What a copy of a completion has in its place."""

    def __init__(self) -> None:
        """Of nothing."""

    def is_of(self, model: Model) -> bool:
        return True

    def submitted(self, seed: int, asked: Mapping[str, Any]) -> Submitted:
        raise InputError("resume: a copy or a pickle of a completion has its tokens alone: start=completion.tokens.")


def _next_seed(seed: int) -> int:
    """Of what goes on from a completion: its own seed would draw its steps again."""
    return int(np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _unseen(chain: Chain, support: str | None) -> dict[str, Any]:
    """What the engine could not see of p beside a completion, by the names of `Diagnostics`."""
    if not len(chain.unseen):
        return {}
    left_out, error = chain.unseen.sum(0).tolist()
    told = {"support": support, "mass_left_out": -math.expm1(-left_out)} if left_out else {}
    return {**told, "error_bound": error}


def _named(ranked: Ranked, codec: Codec) -> tuple[TopToken, ...]:
    texts = codec.token_strings([token for token, _ in ranked])
    return tuple(TopToken(token, text, logp) for (token, logp), text in zip(ranked, texts, strict=True))


class StreamReader:
    """Updates of one request turned into chunks."""

    def __init__(self, submitted: Submitted) -> None:
        self._submitted = submitted
        self._text = submitted.prompt.text_stream()
        self._reply = submitted.prompt.reply_reader(submitted.seed)
        self._waits = submitted.prompt.is_read_at_the_end
        self._progress: Progress | None = None

    def chunk(self, update: Update) -> Chunk | None:
        """A chunk where there is new text or new progress."""
        text = self._text.advance(update.settled)
        if not text and update.progress is self._progress and not update.events:
            return None
        self._progress = update.progress
        content, reasoning = self._reply.push(text) if self._reply and not self._waits else ("", "")
        frames = tuple(frame_of(event, self._submitted.prompt.text_of) for event in update.events)
        return Chunk(text, progress=update.progress, content=content, reasoning=reasoning, frames=frames)

    def last(self, outcome: Outcome) -> Chunk:
        tokens = outcome.answer.chain.tokens
        text, content, reasoning, reply = self._text.finish(tokens), "", "", None
        if self._reply:
            pushed = self._reply.push(self._submitted.prompt.control_text(tokens) or text)
            rest, reply = self._reply.finish()
            content, reasoning = pushed[0] + rest[0], pushed[1] + rest[1]
        completion = completion_of(self._submitted, outcome, self._text, reply)
        return Chunk(text, completion, self._progress, content, reasoning)
