"""The progress bar of everything that waits: batches, streams, the command line."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from power_sampling.types import Progress

__all__ = ["ProgressBar"]

FORMAT = "{desc}{percentage:3.0f}%|{bar}| {elapsed}{postfix}"


class ProgressBar:
    """One bar on stderr over the requests of a call, in their samplers' steps; for `with`.

    It ends full where nothing was raised. `stays`: it is left on the screen then.
    """

    def __init__(self, requests: int = 1, *, is_shown: bool = True, stays: bool = True) -> None:
        self._shares = [0.0] * requests
        self._bar: Any = None
        if is_shown:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=100, leave=stays, bar_format=FORMAT)

    def describe(self, text: str) -> None:
        """What stands before the bar."""
        if self._bar is not None:
            self._bar.set_description_str(text)

    def show(self, progress: Progress, request: int = 0) -> None:
        """How far a request is, with the numbers that its sampler tells. May be called from any thread."""
        if self._bar is not None:
            self._shares[request] = progress.done / max(1, progress.total)
            self._bar.n = round(100 * sum(self._shares) / len(self._shares))
            self._bar.set_postfix({name: f"{value:.3g}" for name, value in progress.stats.items()})

    def finish(self) -> None:
        """Full, whatever the samplers have left out."""
        if self._bar is not None:
            self._bar.n = 100
            self._bar.refresh()

    def close(self) -> None:
        """Nothing is shown any more."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        self.close()
