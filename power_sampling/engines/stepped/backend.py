"""What a machine has to do for the stepped engine: feed tokens, fork states, choose tokens. Scheduling is not its job.

A *state* is what the model has to keep of a row's first tokens (keys and values). Backends make states and know what
is in them; the engine cuts them, keeps them and counts their bytes. The *batch* is the rows being decoded, in an order
that engine and backend share.

What a recurrent layer keeps cannot be cut: it is copied as a row goes on, and a state can be had at these *snapshots*
only. The engine says when one is taken and which are worth their bytes.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, Protocol, Self

from power_sampling.engines.choice import Choice
from power_sampling.engines.row import Row
from power_sampling.types import Floats, Law, Ranked, Tokens

__all__ = ["Backend", "Part", "State", "stored_bytes", "vacated"]


class Part(Protocol):
    """A piece of memory that states consist of; several states may share it. Told apart by identity."""

    @property
    def nbytes(self) -> int: ...


class State(Protocol):
    """What is kept of the first `length` tokens of a row. Immutable; memory is freed with its last owner."""

    @property
    def length(self) -> int: ...

    @property
    def nbytes(self) -> int:
        """Bytes that these tokens take, each as much as another, shared or not; snapshots are beside them."""

    @property
    def snapshots(self) -> Sequence[int] | None:
        """The lengths at which it can be cut, the shortest first, its own the last. None: at every length."""

    @property
    def snapshot_nbytes(self) -> int:
        """Bytes of one snapshot."""

    @property
    def parts(self) -> Sequence[Part]:
        """What it is stored in, the first tokens first. Two states that share a part share all parts before it."""

    def head(self, length: int) -> Self:
        """The state of the first `length` tokens, at most all; of fewer where no snapshot is there."""

    def keeping(self, lengths: Container[int]) -> Self:
        """Without the snapshots at other lengths than these and its own."""


class Backend(Protocol):
    """One model on one machine. Used by one thread."""

    @property
    def vocab_size(self) -> int:
        """Tokens that can be drawn; p is normalised over them."""

    @property
    def context_window(self) -> int | None: ...

    @property
    def empty(self) -> Any:
        """The state of no token."""

    @property
    def slack(self) -> float:
        """By how much the room of a row may be larger than what is in it, so that it need not grow at every step."""

    @property
    def forward_calls(self) -> int:
        """Passes of the model so far."""

    @property
    def serial_steps(self) -> int:
        """Decoding steps begun so far."""

    @property
    def row_steps(self) -> int:
        """Rows summed over these."""

    @property
    def batch_bytes(self) -> int:
        """What the batch takes."""

    def free_bytes(self) -> int:
        """What states could take now."""

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether an error says that memory ran out, which fewer rows may cure."""

    def prefill(self, states: Sequence[Any], pieces: Sequence[Tokens]) -> list[tuple[Any, Any]]:
        """Feed each state its piece, in one pass: the longer states, and the logits after each piece's last token, as
        `choose` takes them."""

    def prefill_each(self, state: Any, piece: Tokens) -> tuple[Any, Sequence[Any]]:
        """Feed a state a piece: the longer state, and the logits after each of its tokens, as `choose` takes them."""

    def choose(self, logits: Sequence[Any], rows: Sequence[Row]) -> list[Choice]:
        """The next token of every row from logits of `prefill`, or the one that is given. Law, uniform and mask are the
        row's."""

    def enter(self, states: Sequence[Any], max_rows: int) -> None:
        """Add rows with these states behind the batch's. Room for more than `max_rows` is not needed for now."""

    def leave(self, gone: Sequence[int]) -> None:
        """Remove the rows at these places; the last ones move into the gaps as `vacated` says."""

    def decode(self, rows: Sequence[Row], last: Sequence[int]) -> list[tuple[Row, Choice]]:
        """Feed every row of the batch, `rows`, the last token that it holds, and choose its next one. A backend may
        have begun the step earlier and may leave out rows that have entered since; it returns those it decoded."""

    def state(self, place: int, base: Any, length: int) -> Any:
        """The state of the first `length` tokens of the row at this place; `base` is that of its first few. Where
        states have snapshots, one is taken if the row has been fed so many tokens; else this is `base`."""

    def cancel_step(self, row: Row) -> None:
        """Forget a step that was begun early for this row: it goes on from what it holds."""

    def clear(self) -> None:
        """Empty the batch, whatever state an error has left it in."""

    def score(self, state: Any, logits: Any, tokens: Tokens, temperature: float) -> Floats:
        """log p of tokens that follow this state, whose last logits are given; shape (T,)."""

    def ranked(self, state: Any, logits: Any, tokens: Tokens, law: Law, count: int) -> Iterator[list[Ranked]]:
        """The likeliest tokens at the positions of tokens that follow this state, as `Ranks` says."""


def stored_bytes(states: Iterable[State]) -> int:
    """Bytes of these states; what several share counts once."""
    stored = {id(part): part.nbytes for state in states for part in state.parts}
    return sum(stored.values())


def vacated(rows: int, gone: Sequence[int]) -> list[tuple[int, int]]:
    """(place, source): which of the last rows fills which gap when the rows `gone` leave a list of `rows`."""
    kept = rows - len(gone)
    gaps = sorted(place for place in gone if place < kept)
    sources = sorted(set(range(kept, rows)) - set(gone))
    return list(zip(gaps, sources, strict=True))
