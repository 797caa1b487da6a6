"""Models some of whose layers are recurrent: what these keep of a text is copied, since it cannot be cut.

The two forms of `kv.py`, each with recurrent states beside keys and values:

- `RecurrentStates`: what is kept of one row. A rope whose pieces may end in a `Snapshot` of the recurrent states, and
  which can be forked there alone.
- `RecurrentBatch`: rows in decoding. A recurrent layer has one state per row, whatever the rows' lengths, so nothing of
  it is ever padded: pieces that are fed together are equally long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DummyLayer, DynamicLayer, LinearAttentionLayer

from power_sampling.engines.stepped.backend import vacated
from power_sampling.engines.torch.keepers import keeper_of
from power_sampling.engines.torch.kv import AttentionLayer, BatchCache, KeyValues, Layer, Piece, Stored

__all__ = ["RecurrentBatch", "RecurrentStates", "is_recurrent", "new_batch"]

Place = tuple[int, str, int]  # of a state: the layer, which of its kinds of states, and the number in that kind
KINDS = ("conv_states", "recurrent_states")


class Snapshot:
    """The recurrent states of one row at one length; told apart by identity."""

    def __init__(self, states: dict[Place, torch.Tensor]) -> None:
        self.states = states
        self.nbytes = sum(state.nbytes for state in states.values())


class RecurrentStates(NamedTuple):
    """The states of the first `length` tokens of a row. Its last piece ends in a snapshot, those before may."""

    pieces: tuple[Piece, ...] = ()
    ends: tuple[Snapshot | None, ...] = ()  # of the pieces
    length: int = 0

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for piece in self.pieces for layer in piece.layers for x in layer or ())

    @property
    def snapshots(self) -> list[int]:
        return [length for length, end in self._lengths() if end is not None]

    @property
    def snapshot_nbytes(self) -> int:
        return self.ends[-1].nbytes if self.ends and self.ends[-1] else 0

    @property
    def parts(self) -> tuple[Stored | Snapshot, ...]:
        """What it is stored in, the first tokens first."""
        found: list[Stored | Snapshot] = []
        for piece, end in zip(self.pieces, self.ends, strict=True):
            found += [piece.stored] if end is None else [piece.stored, end]
        return tuple(found)

    def head(self, length: int) -> RecurrentStates:
        """Up to the last snapshot that is not beyond `length`."""
        kept = max((n for n in self.snapshots if n <= length), default=0)
        number = sum(n <= kept for n, _ in self._lengths())
        return RecurrentStates(self.pieces[:number], self.ends[:number], kept)

    def keeping(self, lengths: Container[int]) -> RecurrentStates:
        ends = [end if n in lengths or n == self.length else None for n, end in self._lengths()]
        return self._replace(ends=tuple(ends))

    def extended(self, layers: tuple[Layer, ...], length: int, end: Snapshot) -> RecurrentStates:
        piece = Piece(layers, length, Stored(layers, length))
        return RecurrentStates((*self.pieces, piece), (*self.ends, end), self.length + length)

    def _lengths(self) -> list[tuple[int, Snapshot | None]]:
        """Where its pieces end, and the snapshots there."""
        at, found = 0, []
        for piece, end in zip(self.pieces, self.ends, strict=True):
            at += piece.length
            found.append((at, end))
        return found


class RecurrentLayer(LinearAttentionLayer):
    """The recurrent states of a batch's rows, (rows, ...)."""

    is_initialized = False  # no keys and values in here

    def lazy_initialization(
        self,
        conv_states: torch.Tensor | None = None,
        recurrent_states: torch.Tensor | None = None,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
    ) -> None:
        """As transformers does, but for what prepares its own compilation."""
        if conv_states is not None:
            size = conv_states.shape[-1] if conv_kernel_size is None else conv_kernel_size
            self.put("conv_states", state_idx, conv_states.new_zeros((*conv_states.shape[:-1], size)))
        if recurrent_states is not None:
            self.put("recurrent_states", state_idx, torch.zeros_like(recurrent_states))

    def put(self, kind: str, index: int, states: torch.Tensor) -> None:
        getattr(self, kind)[index] = states
        getattr(self, f"is_{kind}_initialized")[index] = True
        if kind == "conv_states":
            self.conv_kernel_size[index] = states.shape[-1]
            self.device, self.dtype = states.device, states.dtype

    def states(self) -> dict[tuple[str, int], torch.Tensor]:
        found = ((kind, i, state) for kind in KINDS for i, state in getattr(self, kind).items())
        return {(kind, i): state for kind, i, state in found if state is not None}


class MixedLayer(RecurrentLayer, AttentionLayer):
    """Recurrent states, and keys and values beside them."""

    def __init__(self, batch: BatchCache, number_of_states: int) -> None:
        AttentionLayer.__init__(self, batch)
        LinearAttentionLayer.__init__(self, number_of_states=number_of_states)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Keys and values come by their places, states by their names."""
        if args:
            AttentionLayer.lazy_initialization(self, *args)
        else:
            RecurrentLayer.lazy_initialization(self, **kwargs)


class RecurrentBatch(BatchCache):
    """The rows in decoding. All of them have recurrent states, or none has: those that are fed their first tokens."""

    def __init__(self, layers: Sequence[Any], max_rows: int = 1) -> None:
        """`layers` are those of a cache of transformers for the model."""
        super().__init__(max_rows)
        self.layers = [_layer(self, layer) for layer in layers]

    @property
    def nbytes(self) -> int:
        return super().nbytes + sum(states.nbytes for states in self._states().values())

    def mask(self, new: int, pads: torch.Tensor, masked_from: float = math.inf) -> torch.Tensor | None:
        """Of keys and values: where there are none, nothing is padded."""
        has_attention = any(isinstance(layer, AttentionLayer) for layer in self.layers)
        return super().mask(new, pads, masked_from) if has_attention else None

    def enter(self, kept: Sequence[RecurrentStates]) -> None:
        super().enter(kept)
        new = [row.ends[-1] for row in kept if row.ends]
        present = self._states()
        for place in new[0].states if new and new[0] else ():
            rows = torch.stack([end.states[place] for end in new if end is not None])
            self._put(place, torch.cat([present[place], rows]) if place in present else rows)

    def leave(self, gone: Sequence[int]) -> None:
        order = list(range(len(self.lengths)))
        for gap, source in vacated(len(order), gone):
            order[gap] = order[source]
        super().leave(gone)
        index = torch.tensor(order[: len(self.lengths)])
        for place, states in self._states().items():
            self._put(place, states.index_select(0, index.to(states.device)) if len(index) else None)

    def longer(self, row: int, base: RecurrentStates, length: int) -> RecurrentStates:
        """With a snapshot, where the row is just as long; else there is none to be had, and this is `base`."""
        if length != self.lengths[row] or length == base.length:
            return base
        end = Snapshot({place: states[row].clone() for place, states in self._states().items()})
        return base.extended(self.last(row, length - base.length), length - base.length, end)

    def _states(self) -> dict[Place, torch.Tensor]:
        found: dict[Place, torch.Tensor] = {}
        for number, layer in enumerate(self.layers):
            if isinstance(layer, RecurrentLayer):
                found.update({(number, *place): states for place, states in layer.states().items()})
        return found

    def _put(self, place: Place, states: torch.Tensor | None) -> None:
        number, kind, index = place
        layer = self.layers[number]
        if states is None:
            getattr(layer, kind)[index] = None
            getattr(layer, f"is_{kind}_initialized")[index] = layer.has_previous_state[index] = False
        else:
            layer.put(kind, index, states)
            layer.has_previous_state[index] = True


def is_recurrent(model: PreTrainedModel) -> bool:
    """Whether some of its layers are, as it is configured."""
    return any(isinstance(layer, LinearAttentionLayer) for layer in keeper_of(model).layers)


def new_batch(model: PreTrainedModel) -> tuple[Callable[[], BatchCache], Any]:
    """What makes empty batches for this model, and the state of no token."""
    layers = keeper_of(model).layers if is_recurrent(model) else None
    return (BatchCache, KeyValues()) if layers is None else (lambda: RecurrentBatch(layers), RecurrentStates())


def _layer(batch: BatchCache, layer: Any) -> Any:
    if isinstance(layer, LinearAttentionLayer):
        is_mixed, number = isinstance(layer, DynamicLayer), layer.number_of_states
        return MixedLayer(batch, number) if is_mixed else RecurrentLayer(number_of_states=number)
    return _Nothing() if isinstance(layer, DummyLayer) else AttentionLayer(batch)


class _Nothing(DummyLayer):
    """A layer that keeps nothing of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.is_initialized = False  # `BatchCache` would look for its buffers
