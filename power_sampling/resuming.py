"""Completions gone on from: more steps of the chains that drew them, those of one call as one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack, overload

from power_sampling.configured import ConfiguredModel
from power_sampling.errors import InputError, shortened
from power_sampling.reading import Origin, Submitted, completions_of
from power_sampling.types import Completion

__all__ = ["Resuming"]


class Limits(TypedDict, total=False):
    """What may differ from the request that a completion comes from, beside the number of steps."""

    seed: int
    time_budget: float
    timeout: float


class Resuming(ConfiguredModel):
    """What `PowerSampler` does with completions of its own."""

    @overload
    def resume(self, completions: Completion, num_steps: int | None = None, **limits: Unpack[Limits]) -> Completion: ...
    @overload
    def resume(
        self, completions: Sequence[Completion], num_steps: int | None = None, **limits: Unpack[Limits]
    ) -> list[Completion]: ...
    def resume(
        self, completions: Completion | Sequence[Completion], num_steps: int | None = None, **limits: Unpack[Limits]
    ) -> Completion | list[Completion]:
        """`Completion.resume` of one completion, or of several as one batch; `limits` are `seed` (of several: the i-th
        has seed + i), `time_budget` and `timeout`. Chains of one prompt are compared (`diagnostics.r_hat`). Raises
        InputError for what another model drew, and for what cannot be gone on from."""
        submitted = self._gone_on(completions, {"num_steps": num_steps, **limits})
        try:
            found = completions_of(submitted, [s.job.future.result() for s in submitted])
        finally:
            _cancel(submitted)
        return found[0] if isinstance(completions, Completion) else found

    @overload
    async def aresume(
        self, completions: Completion, num_steps: int | None = None, **limits: Unpack[Limits]
    ) -> Completion: ...
    @overload
    async def aresume(
        self, completions: Sequence[Completion], num_steps: int | None = None, **limits: Unpack[Limits]
    ) -> list[Completion]: ...
    async def aresume(
        self, completions: Completion | Sequence[Completion], num_steps: int | None = None, **limits: Unpack[Limits]
    ) -> Completion | list[Completion]:
        """`resume`, without blocking the event loop; cancelling the task stops the work."""
        submitted = await asyncio.to_thread(self._gone_on, completions, {"num_steps": num_steps, **limits})
        try:
            outcomes = await asyncio.gather(*[asyncio.wrap_future(s.job.future) for s in submitted])
            found = completions_of(submitted, outcomes)
        finally:
            _cancel(submitted)
        return found[0] if isinstance(completions, Completion) else found

    def _gone_on(self, completions: Any, asked: Mapping[str, Any]) -> list[Submitted]:
        several = isinstance(completions, Sequence) and not isinstance(completions, str)
        every: Sequence[Any] = completions if several else [completions]
        given = {name: value for name, value in asked.items() if value is not None}
        submitted: list[Submitted] = []
        try:
            for i, completion in enumerate(every):
                origin = self._origin_of(completion)
                own = {**given, "seed": given["seed"] + i} if isinstance(given.get("seed"), int) else given
                submitted.append(origin.submitted(completion.seed, own))
        except BaseException:
            _cancel(submitted)
            raise
        return submitted

    def _origin_of(self, completion: Any) -> Origin:
        origin = completion.origin if isinstance(completion, Completion) else None
        if isinstance(origin, Origin) and origin.is_of(self._model):
            return origin
        raise InputError(
            f"resume: expected completions that this model drew, got {shortened(completion)}. Give its tokens to a new "
            "request: start=completion.tokens."
        )


def _cancel(submitted: Sequence[Submitted]) -> None:
    for s in submitted:
        s.job.cancel()
