"""One prompt answered under observation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Unpack

from power_sampling.fields import GenerationFields
from power_sampling.runtime import PowerSampler, Prompt
from power_sampling.types import Chunk, Completion, Frame

__all__ = ["Trace", "traced"]


@dataclass(frozen=True, slots=True)
class Trace:
    """An answer and the steps that led to it, in their order."""

    prompt: Prompt
    completion: Completion
    frames: tuple[Frame, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        completion = self.completion
        return {
            "prompt": prompt_text(self.prompt),
            "text": completion.text,
            "logp": completion.logp,
            "seed": completion.seed,
            "diagnostics": completion.diagnostics.to_dict(),
            "frames": [frame.to_dict() for frame in self.frames],
        }


def traced(
    sampler: PowerSampler,
    prompt: Prompt,
    /,
    *,
    show: Callable[[Chunk], None] | None = None,
    **overrides: Unpack[GenerationFields],
) -> Trace:
    """The prompt's completion, the one that it has without a trace, and what the sampler did. `show` is given every
    piece as it comes. Raises what `PowerSampler.stream` raises."""
    frames: list[Frame] = []
    completion: Completion | None = None
    with closing(sampler.stream(prompt, with_frames=True, **overrides)) as chunks:
        for chunk in chunks:
            frames += chunk.frames
            completion = chunk.completion
            if show is not None:
                show(chunk)
    assert completion is not None, "the last chunk carries the completion"
    return Trace(prompt, completion, tuple(frames))


def prompt_text(prompt: Prompt) -> str:
    """What was asked, in words: of a conversation its last message."""
    if isinstance(prompt, str):
        return prompt
    messages = prompt if not hasattr(prompt, "messages") else prompt.messages
    content = messages[-1].get("content") if messages else ""
    return content if isinstance(content, str) else ""
