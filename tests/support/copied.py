"""A table behind the stepped engine, whose states can be cut where they were copied only, as recurrent ones can."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from power_sampling.testing.backend import TableBackend
from power_sampling.types import Floats, Tokens

__all__ = ["CopiedBackend", "CopiedState"]

COPY = 64  # bytes


class Copy:
    nbytes = COPY


@dataclass(frozen=True, eq=False)
class CopiedState:
    tokens: Tokens = ()
    copies: tuple[tuple[int, Copy], ...] = ()

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        return 8 * len(self.tokens)

    @property
    def snapshots(self) -> list[int]:
        return [length for length, _ in self.copies]

    @property
    def snapshot_nbytes(self) -> int:
        return COPY if self.copies else 0

    @property
    def parts(self) -> list[Copy]:
        return [copy for _, copy in self.copies]

    def head(self, length: int) -> CopiedState:
        kept = tuple((n, copy) for n, copy in self.copies if n <= length)
        return CopiedState(self.tokens[: kept[-1][0] if kept else 0], kept)

    def keeping(self, lengths: Container[int]) -> CopiedState:
        return replace(self, copies=tuple((n, x) for n, x in self.copies if n in lengths or n == self.length))

    def extended(self, tokens: Sequence[int]) -> CopiedState:
        longer = (*self.tokens, *tokens)
        return CopiedState(longer, (*self.copies, (len(longer), Copy())))


class CopiedBackend(TableBackend):
    empty = CopiedState()  # type: ignore[assignment] # its own kind of states all the way
    copies = 0  # made of rows in decoding

    def prefill(self, states: Sequence[CopiedState], pieces: Sequence[Tokens]) -> list[tuple[CopiedState, Floats]]:  # type: ignore[override] # as above
        self.forward_calls += 1
        longer = [state.extended(piece) for state, piece in zip(states, pieces, strict=True)]
        return [(state, self.table.logits(state.tokens)) for state in longer]

    def state(self, place: int, base: CopiedState, length: int) -> CopiedState:  # type: ignore[override] # as above
        fed = tuple(self._batch[place])
        assert base.tokens == fed[: base.length] and base.length <= length
        if length != len(fed) or length == base.length:
            return base
        self.copies += 1
        return base.extended(fed[base.length :])
