"""Rows of a GGUF model: one pass of llama.cpp per step for all of them, tokens chosen on the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from power_sampling.engines.choice import Choice, Softmax, choose, ranked
from power_sampling.engines.llama_cpp.context import Context
from power_sampling.engines.llama_cpp.sequences import Cells, CopiedState, CutState, Sequences, State
from power_sampling.engines.row import Row
from power_sampling.engines.stepped.backend import vacated
from power_sampling.types import Floats, Law, Ranked, Tokens

__all__ = ["LlamaBackend"]

SCORE_CHUNK = 64  # positions whose logits over the vocabulary exist at one time while scoring

Logits = NDArray[np.float32]


class _Slot(NamedTuple):
    """A row of the batch: the state it began with, and what it has been fed since."""

    base: State
    cells: Cells


class LlamaBackend:
    """`vocab_size` limits drawing to the tokenizer's ids where the model's vocabulary is padded beyond: p is
    renormalised over them. Logits are llama.cpp's float32, log-probabilities their float64 sums. `nbytes` is what
    states may take."""

    slack = 1.0

    def __init__(
        self, context: Context, sequences: Sequences, *, vocab_size: int, context_window: int, nbytes: int
    ) -> None:
        self._context, self._sequences, self._nbytes = context, sequences, nbytes
        self.vocab_size = min(vocab_size, context.model.vocab_size)
        self.context_window = context_window
        self.forward_calls = self.serial_steps = self.row_steps = 0
        kind = CopiedState if context.model.is_recurrent else CutState
        self.empty: State = kind(sequences.sizes)
        self._batch: list[_Slot] = []

    @property
    def batch_bytes(self) -> int:
        return sum(slot.cells.nbytes for slot in self._batch)

    def free_bytes(self) -> int:
        return self._nbytes

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError)

    # ------------------------------------------------------------ prompts

    def prefill(self, states: Sequence[State], pieces: Sequence[Tokens]) -> list[tuple[State, Logits]]:
        longer = [self._sequences.longer(state) for state in states]
        logits = self._feed(longer, pieces, [[False] * (len(piece) - 1) + [True] for piece in pieces])
        return [
            (self._joined(state, cells), row.copy())
            for state, cells, row in zip(states, longer, logits[:, : self.vocab_size], strict=True)
        ]

    def prefill_each(self, state: State, piece: Tokens) -> tuple[State, Sequence[Logits]]:
        cells = self._sequences.longer(state)
        logits = self._feed([cells], [piece], [[True] * len(piece)])[:, : self.vocab_size].copy()
        return self._joined(state, cells), list(logits)

    def choose(self, logits: Sequence[Logits], rows: Sequence[Row]) -> list[Choice]:
        return [choose(each, row) for each, row in zip(logits, rows, strict=True)]

    def score(self, state: State, logits: Logits, tokens: Tokens, temperature: float) -> Floats:
        each = self._after(state, logits, tokens)
        return np.array([Softmax(row, temperature).log(token) for row, token in zip(each, tokens, strict=True)])

    def ranked(self, state: State, logits: Logits, tokens: Tokens, law: Law, count: int) -> Iterator[list[Ranked]]:
        for t, row in enumerate(self._after(state, logits, tokens)):
            yield [ranked(row, law, tokens[:t], count)]

    def _after(self, state: State, logits: Logits, tokens: Tokens) -> Iterator[Logits]:
        """The logits before each of these tokens, those before the first being given."""
        yield logits
        for start in range(0, len(tokens) - 1, SCORE_CHUNK):
            piece = tokens[start : min(start + SCORE_CHUNK, len(tokens) - 1)]
            state, rows = self.prefill_each(state, piece)
            yield from rows

    def _joined(self, state: State, cells: Cells) -> State:
        """A state that nobody adds to."""
        cells.sequence.is_growing = False
        return type(state)(state.sizes, (*state.parts, cells), cells.end)

    def _feed(self, rows: Sequence[Cells], pieces: Sequence[Tokens], wanted: Sequence[Sequence[bool]]) -> Logits:
        self.forward_calls += 1
        tokens = [token for piece in pieces for token in piece]
        positions = [cells.end + t for cells, piece in zip(rows, pieces, strict=True) for t in range(len(piece))]
        numbers = [cells.sequence.number for cells, piece in zip(rows, pieces, strict=True) for _ in piece]
        logits = self._context.feed(tokens, positions, numbers, [each for row in wanted for each in row])
        for cells, piece in zip(rows, pieces, strict=True):
            cells.grow(len(piece))
        return logits

    # ------------------------------------------------------------ the batch

    def enter(self, states: Sequence[State], max_rows: int) -> None:
        for state in states:
            sequence = self._sequences.fork(state)
            sequence.is_growing = True
            self._batch.append(_Slot(state, self._sequences.cells(sequence)))

    def leave(self, gone: Sequence[int]) -> None:
        for place in gone:
            self._batch[place].cells.sequence.is_growing = False
        for place, source in vacated(len(self._batch), gone):
            self._batch[place] = self._batch[source]
        del self._batch[len(self._batch) - len(gone) :]

    def decode(self, rows: Sequence[Row], last: Sequence[int]) -> list[tuple[Row, Choice]]:
        self._sequences.collect()
        self.serial_steps += 1
        self.row_steps += len(rows)
        logits = self._feed([slot.cells for slot in self._batch], [(token,) for token in last], [[True]] * len(rows))
        return [(row, choose(each, row)) for row, each in zip(rows, logits[:, : self.vocab_size], strict=True)]

    def state(self, place: int, base: State, length: int) -> State:
        slot = self._batch[place]
        if isinstance(base, CutState):
            whole = CutState(base.sizes, (*slot.base.parts, slot.cells), slot.cells.end)
            return whole.head(length)
        if length == base.length or length != slot.cells.end:
            return base
        return self._joined(base, self._sequences.snapshot(slot.cells, base.length))

    def cancel_step(self, row: Row) -> None:
        """Nothing is begun early."""

    def clear(self) -> None:
        for slot in self._batch:
            slot.cells.sequence.is_growing = False
        self._batch.clear()
