"""What llama.cpp keeps of rows: sequences of its context, forked, cut, and free again with their last owner."""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeAlias

from power_sampling.engines.llama_cpp.context import Context

__all__ = ["Cells", "CopiedState", "CutState", "Sequences", "Sizes", "State"]


class Sizes(NamedTuple):
    """Bytes of what is kept."""

    token: int
    sequence: int  # whatever its length: recurrent states, and its share of the context's few numbers


class Sequence:
    """One of the context's sequences: its number, how many tokens it has, and whether somebody adds to it now."""

    __slots__ = ("cells", "is_growing", "length", "number")

    def __init__(self, number: int, length: int) -> None:
        self.number, self.length = number, length
        self.cells = 0  # objects of `Cells` in it
        self.is_growing = False


class Cells:
    """Tokens of a sequence from `start` on, up to where the next ones start: a part of states, told apart by identity.
    With its last owner they are removed from the context, before its next pass."""

    __slots__ = ("__weakref__", "_gone", "_sizes", "end", "is_first", "sequence", "start")

    def __init__(self, gone: deque[tuple[Sequence, int]], sizes: Sizes, sequence: Sequence, start: int) -> None:
        self._gone, self._sizes = gone, sizes
        self.sequence, self.start, self.end = sequence, start, start
        self.is_first = not sequence.cells
        sequence.cells += 1

    def grow(self, tokens: int) -> None:
        """So many were fed."""
        self.end += tokens
        self.sequence.length = self.end

    @property
    def nbytes(self) -> int:
        return (self.end - self.start) * self._sizes.token + self.is_first * self._sizes.sequence

    def __del__(self) -> None:  # on any thread
        self._gone.append((self.sequence, self.start))


@dataclass(frozen=True, eq=False)
class _Kept:
    """The state of a row's first `length` tokens. The sequence of its last part has all of them."""

    sizes: Sizes
    parts: tuple[Cells, ...] = ()
    length: int = 0

    @property
    def nbytes(self) -> int:
        return self.length * self.sizes.token

    @property
    def snapshot_nbytes(self) -> int:
        return self.sizes.sequence

    @property
    def sequence(self) -> Sequence | None:
        return self.parts[-1].sequence if self.parts else None


class CutState(_Kept):
    """Of a model all of whose layers are attention."""

    @property
    def snapshots(self) -> None:
        """It can be cut anywhere."""

    def head(self, length: int) -> Self:
        return type(self)(self.sizes, tuple(part for part in self.parts if part.start < length), length)

    def keeping(self, lengths: Container[int]) -> Self:
        return self


class CopiedState(_Kept):
    """Of a recurrent or hybrid model: every part ends in a snapshot, which is a sequence that nobody continues."""

    @property
    def snapshots(self) -> list[int]:
        return [part.end for part in self.parts]

    def head(self, length: int) -> Self:
        return self._of([part for part in self.parts if part.end <= length])

    def keeping(self, lengths: Container[int]) -> Self:
        return self._of([part for part in self.parts if part.end in lengths or part.end == self.length])

    def _of(self, parts: list[Cells]) -> Self:
        return type(self)(self.sizes, tuple(parts), parts[-1].end if parts else 0)


State: TypeAlias = CutState | CopiedState


class Sequences:
    """Those of a context, used by one thread."""

    def __init__(self, context: Context, count: int, sizes: Sizes) -> None:
        self._context, self.sizes = context, sizes
        self._free = list(range(count - 1, -1, -1))
        self._gone: deque[tuple[Sequence, int]] = deque()

    def fork(self, state: State) -> Sequence:
        """A new one with the tokens of a state. Raises MemoryError where all are in use."""
        self.collect()
        if not self._free:
            raise MemoryError("all of llama.cpp's sequences are in use")
        sequence = Sequence(self._free.pop(), state.length)
        if (source := state.sequence) is not None:
            self._context.copy(source.number, sequence.number, -1 if isinstance(state, CopiedState) else state.length)
        return sequence

    def cells(self, sequence: Sequence) -> Cells:
        """A part of it that begins at its end."""
        return Cells(self._gone, self.sizes, sequence, sequence.length)

    def longer(self, state: State) -> Cells:
        """A part that goes on from a state: in its own sequence where that ends there, else in a fork. Nobody else adds
        to it until it is `settled`."""
        self.collect()
        own = state.sequence if isinstance(state, CutState) else None
        goes_on = own is not None and own.length == state.length and not own.is_growing
        sequence = own if own is not None and goes_on else self.fork(state)
        sequence.is_growing = True
        return self.cells(sequence)

    def snapshot(self, cells: Cells, start: int) -> Cells:
        """All that a running row has been fed, in a sequence that nobody continues; as a part from `start` on."""
        sequence = self.fork(CopiedState(self.sizes, (cells,), start))
        kept = self.cells(sequence)
        kept.grow(cells.end - start)
        return kept

    def collect(self) -> None:
        """Remove what has no owner any more."""
        while self._gone:
            sequence, start = self._gone.popleft()
            sequence.cells -= 1
            if sequence.cells:
                sequence.length, sequence.is_growing = start, False
                self._context.cut(sequence.number, start)
            else:
                self._context.cut(sequence.number)
                self._free.append(sequence.number)
