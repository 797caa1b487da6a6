"""The one progress bar: over all requests of a call, in the samplers' steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from power_sampling.serving.worker import Update

__all__ = ["ProgressBar", "progress_bar"]


@contextmanager
def progress_bar(requests: int, *, is_shown: bool) -> Iterator[ProgressBar | None]:
    """The bar of a call, where it is to be shown; it ends full where the call succeeds."""
    if not is_shown:
        yield None
        return
    bar = ProgressBar(requests)
    try:
        yield bar
        bar.finish()
    finally:
        bar.close()


class ProgressBar:
    """One progress bar over all requests of a call, in the samplers' steps."""

    def __init__(self, requests: int) -> None:
        from tqdm.auto import tqdm

        self._shares = [0.0] * requests
        self._bar = tqdm(total=100, unit="%", bar_format="{desc}{percentage:3.0f}%|{bar}| {elapsed}{postfix}")

    def listener(self, index: int) -> Callable[[Update], None]:
        def update(u: Update) -> None:
            self._shares[index] = u.progress.done / max(1, u.progress.total)
            self._bar.n = round(100 * sum(self._shares) / len(self._shares))
            self._bar.set_postfix({name: f"{value:.3g}" for name, value in u.progress.stats.items()})

        return update

    def finish(self) -> None:
        self._bar.n = 100

    def close(self) -> None:
        self._bar.close()
