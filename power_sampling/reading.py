"""Outcomes of the worker read: completions, and the chunks of a stream."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from power_sampling.base_law import asked_for, label_of
from power_sampling.errors import NoLegalCompletionError
from power_sampling.frames import frame_of
from power_sampling.metering import note
from power_sampling.prepared import PreparedPrompt
from power_sampling.serving.worker import Job, Outcome, Update
from power_sampling.text.stop import TextStream
from power_sampling.types import Chain, Chunk, Completion, Diagnostics, Progress, Ranked, Reply, TopToken

if TYPE_CHECKING:
    from power_sampling.text.codec import Codec

__all__ = ["StreamReader", "Submitted", "completion_of"]


class Submitted(NamedTuple):
    """A request under way."""

    job: Job
    prompt: PreparedPrompt
    seed: int


def completion_of(
    s: Submitted, outcome: Outcome, text: TextStream | None = None, reply: Reply | None = None
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
        alpha=config.law().alpha,
        base_law=label_of(config),
        log_phi=chain.log_phi if config.potentials else None,
        **_unseen(chain, s.prompt.support),
        **outcome.facts(),
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
    )


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
