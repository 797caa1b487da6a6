"""How much is done at one time: less after memory ran out, and more again when that was passing."""

from __future__ import annotations

__all__ = ["Allowance"]

PATIENCE = 128  # steps that go well before more is tried
LONGEST_PATIENCE = 2**14


class Allowance:
    """Rows in decoding and tokens per pass of a prefill, at most. Halved when an allocation fails, doubled when a while
    has gone well. Where more fails as soon as it is tried, the next try is twice as far away: what is out for good
    costs ever less."""

    def __init__(self, rows: int, chunk: int) -> None:
        self.rows, self.chunk = rows, chunk
        self._most = rows, chunk
        self._patience = PATIENCE
        self._calm = 0  # steps since it was changed

    @property
    def is_whole(self) -> bool:
        return (self.rows, self.chunk) == self._most

    def halve(self, rows: int) -> bool:
        """Memory ran out with so many rows in decoding. False: there is nothing left to halve."""
        rows = min(self.rows, rows or self.rows)
        if rows == 1 and self.chunk == 1:
            return False
        if self._calm < self._patience and not self.is_whole:
            self._patience = min(2 * self._patience, LONGEST_PATIENCE)
        self.rows, self.chunk, self._calm = max(1, rows // 2), max(1, self.chunk // 2), 0
        return True

    def went_well(self) -> None:
        """A step has been made."""
        self._calm += 1
        if self._calm < self._patience:
            return
        if self.is_whole:
            self._patience = PATIENCE
        else:
            self.rows, self.chunk = min(2 * self.rows, self._most[0]), min(2 * self.chunk, self._most[1])
            self._calm = 0
