"""The smallest backend of the stepped engine, one to copy: states are tokens, logits come from a table."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from power_sampling.engines.choice import Choice, choose, ranked
from power_sampling.engines.row import Row
from power_sampling.engines.stepped.backend import vacated
from power_sampling.testing.table import TableLM
from power_sampling.types import Floats, Law, Ranked, Tokens

__all__ = ["TableBackend", "TableState"]


@dataclass(frozen=True, eq=False)
class TableState:
    """What a table has to keep of a row: its tokens."""

    tokens: Tokens = ()

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        return 8 * len(self.tokens)

    @property
    def parts(self) -> tuple[TableState, ...]:
        return (self,) if self.tokens else ()

    @property
    def snapshots(self) -> None:
        """It can be cut anywhere."""

    @property
    def snapshot_nbytes(self) -> int:
        return 0

    def keeping(self, lengths: Container[int]) -> TableState:
        return self

    def head(self, length: int) -> TableState:
        return self if length == self.length else TableState(self.tokens[:length])


class TableBackend:
    """Satisfies `power_sampling.engines.stepped.backend.Backend`. `free` is what `free_bytes` tells."""

    empty = TableState()
    context_window = None
    slack = 1.5

    def __init__(self, table: TableLM, *, free: int = 2**40) -> None:
        self.table, self.vocab_size, self._free = table, table.vocab_size, free
        self.forward_calls = self.serial_steps = self.row_steps = 0
        self._batch: list[list[int]] = []  # the tokens each row has been fed

    @property
    def batch_bytes(self) -> int:
        return 8 * sum(map(len, self._batch))

    def free_bytes(self) -> int:
        return self._free

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError)

    def prefill(self, states: Sequence[TableState], pieces: Sequence[Tokens]) -> list[tuple[TableState, Floats]]:
        self.forward_calls += 1
        longer = [TableState(state.tokens + tuple(piece)) for state, piece in zip(states, pieces, strict=True)]
        return [(state, self.table.logits(state.tokens)) for state in longer]

    def prefill_each(self, state: TableState, piece: Tokens) -> tuple[TableState, Sequence[Floats]]:
        each = [self.prefill([state], [piece[: t + 1]])[0] for t in range(len(piece))]
        return each[-1][0], [logits for _, logits in each]

    def choose(self, logits: Sequence[Floats], rows: Sequence[Row]) -> list[Choice]:
        return [choose(each, row) for each, row in zip(logits, rows, strict=True)]

    def enter(self, states: Sequence[TableState], max_rows: int) -> None:
        self._batch += [list(state.tokens) for state in states]

    def leave(self, gone: Sequence[int]) -> None:
        for place, source in vacated(len(self._batch), gone):
            self._batch[place] = self._batch[source]
        del self._batch[len(self._batch) - len(gone) :]

    def decode(self, rows: Sequence[Row], last: Sequence[int]) -> list[tuple[Row, Choice]]:
        self.forward_calls += 1
        self.serial_steps += 1
        self.row_steps += len(rows)
        for fed, token in zip(self._batch, last, strict=True):
            fed.append(token)
        contexts = zip(rows, self._batch, strict=True)
        return [(row, choose(self.table.logits(tuple(fed)), row)) for row, fed in contexts]

    def state(self, place: int, base: TableState, length: int) -> TableState:
        return TableState(tuple(self._batch[place][:length]))

    def cancel_step(self, row: Row) -> None:
        """Nothing is begun early."""

    def clear(self) -> None:
        self._batch.clear()

    def score(self, state: TableState, logits: Floats, tokens: Tokens, temperature: float) -> Floats:
        return np.asarray(self.table.score(state.tokens, tokens, temperature))

    def ranked(self, state: TableState, logits: Floats, tokens: Tokens, law: Law, count: int) -> Iterator[list[Ranked]]:
        for t in range(len(tokens)):
            yield [ranked(self.table.logits((*state.tokens, *tokens[:t])), law, tokens[:t], count)]
