"""Key/value rows: kept, forked at a cut, dropped; and the batch they are decoded in.

Knows shapes, not tokens. Two forms of the same states:

- `KeyValues`: what is kept of one row, immutable. A rope of pieces, so a fork shares the prompt and everything before
  its cut with its parent and nothing is stored twice; freed with its last owner.
- `BatchCache`: the rows being decoded, a transformers `Cache`. All rows end at one slot, the cursor; shorter ones are
  padded on the left. So one step appends one slot to every row, distances within a row are slot distances (sliding
  windows and ALiBi hold), and a two-dimensional mask tells a model everything, exactly as `generate` tells it.

        slots   left           cursor
        row 0   . . a b c d e |      content of 5
        row 1   . . . . . f g |      content of 2, mask 0000011
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from typing import Any, NamedTuple
from weakref import ref

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from power_sampling.engines.stepped.backend import vacated

__all__ = ["AttentionLayer", "BatchCache", "KeyValues", "Layer", "Piece", "Stored"]

# keys, values, and the keys of an indexer where there is one: (heads, length, dim); None: the layer keeps nothing
Layer = tuple[torch.Tensor, ...] | None


class Stored:
    """What the views of the same tensors take together; told apart by identity."""

    def __init__(self, layers: tuple[Layer, ...], length: int) -> None:
        self.length = length
        self.nbytes = sum(states.nbytes for layer in layers for states in layer or ())


class Piece(NamedTuple):
    layers: tuple[Layer, ...]
    length: int
    stored: Stored

    def head(self, length: int) -> Piece:
        """The first `length` positions: views, or copies where views would keep more alive than they show."""
        copies = 2 * length < self.stored.length

        def first(states: torch.Tensor) -> torch.Tensor:
            view = states[:, :length]
            return view.clone() if copies else view

        layers = tuple(layer and tuple(map(first, layer)) for layer in self.layers)
        return Piece(layers, length, Stored(layers, length) if copies else self.stored)


class KeyValues(NamedTuple):
    """The states of the first `length` tokens of a row."""

    pieces: tuple[Piece, ...] = ()
    length: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of these tokens, shared or not."""
        return sum(x.nbytes for piece in self.pieces for layer in piece.layers for x in layer or ())

    @property
    def snapshots(self) -> None:
        """It can be cut anywhere."""

    @property
    def snapshot_nbytes(self) -> int:
        return 0

    @property
    def parts(self) -> tuple[Stored, ...]:
        """What it is stored in, the first tokens first."""
        return tuple(piece.stored for piece in self.pieces)

    def keeping(self, lengths: Container[int]) -> KeyValues:
        return self

    def head(self, length: int) -> KeyValues:
        """Forked at `length`, which is at most its own."""
        kept: list[Piece] = []
        room = length
        for piece in self.pieces:
            if room <= 0:
                break
            kept.append(piece if piece.length <= room else piece.head(room))
            room -= piece.length
        return KeyValues(tuple(kept), length)

    def extended(self, layers: tuple[Layer, ...], length: int) -> KeyValues:
        if not length:
            return self
        return KeyValues((*self.pieces, Piece(layers, length, Stored(layers, length))), self.length + length)


class AttentionLayer(CacheLayerMixin):
    """One layer's buffers, (rows, heads, slots, dim), written at the cursor of its batch."""

    is_sliding = False  # every position is kept; a sliding model's mask hides what its window has left
    is_compileable = False

    def __init__(self, batch: BatchCache) -> None:
        super().__init__()
        # not held: a cycle would keep the buffers of a batch that is done with until Python looks for garbage, which it
        # may not do for hours where few objects are made
        self._batch = ref(batch)
        self._index: torch.Tensor | None = None  # the keys of an indexer, (rows, 1, slots, dim)

    @property
    def batch(self) -> BatchCache:
        batch = self._batch()
        assert batch is not None, "a batch outlives its layers"
        return batch

    @property
    def buffers(self) -> list[torch.Tensor]:
        """Whatever it holds."""
        if not self.is_initialized:
            return []
        return [self.keys, self.values] if self._index is None else [self.keys, self.values, self._index]

    def make_buffers(self, like: Sequence[torch.Tensor]) -> None:
        """For states of these heads and sizes, one for each."""
        self.lazy_initialization(*like[:2])
        self._index = self._buffer(like[2]) if len(like) > 2 else None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys, self.values = self._buffer(key_states), self._buffer(value_states)
        self.is_initialized = True

    def _buffer(self, states: torch.Tensor) -> torch.Tensor:
        shape = (self.batch.row_capacity, states.shape[-3], self.batch.slot_capacity, states.shape[-1])
        return states.new_zeros(shape)  # zeros: a masked slot still meets a product, and 0 * nan is nan

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return self._updated(self.keys, key_states), self._updated(self.values, value_states)

    def update_indexer(self, indexer_key_states: torch.Tensor) -> torch.Tensor:
        """The same for the keys of an indexer, (rows, new, dim), which says what a token looks at."""
        states = indexer_key_states[:, None]
        if self._index is None:
            self._index = self._buffer(states)
        return self._updated(self._index, states)[:, 0]

    @property
    def indexer_position_ids(self) -> torch.Tensor | None:
        """Of what the rows hold, three times over, for indexers that turn their keys when they read them."""
        return self.batch.positions.expand(3, -1, -1).to(self.keys.device) if self.get_seq_length() else None

    @indexer_position_ids.setter
    def indexer_position_ids(self, positions: torch.Tensor) -> None:
        """They follow from the lengths of the rows."""

    def _updated(self, buffer: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """The slots that the rows see, the new ones written."""
        batch = self.batch
        rows, left, cursor, new = len(states), batch.left, batch.cursor, states.shape[2]
        # `narrow` takes a third of the time of an index, twice for every layer and step
        of_rows = buffer.narrow(0, 0, rows)
        of_rows.narrow(2, cursor, new).copy_(states)
        return of_rows.narrow(2, left, cursor + new - left)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        batch = self.batch
        return batch.cursor - batch.left

    def get_max_length(self) -> int:
        return -1


class BatchCache(Cache):
    """The rows in decoding. `lengths[i]` tokens of row i are held, in the slots before the cursor."""

    def __init__(self, max_rows: int = 1) -> None:
        """`max_rows`: beyond what is needed, no room is made for more rows."""
        super().__init__(layers=[])
        self.max_rows = max_rows
        self._is_masked = False
        self.lengths: list[int] = []
        self.cursor = 0
        self.row_capacity = self.slot_capacity = 0

    @property
    def left(self) -> int:
        """First slot any row uses."""
        return self.cursor - max(self.lengths, default=0)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._layer(layer_idx).update(key_states, value_states)

    def update_indexer(self, indexer_key_states: torch.Tensor, layer_idx: int) -> torch.Tensor:
        return self._layer(layer_idx).update_indexer(indexer_key_states)

    def buffers(self, layer_idx: int, groups: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and the values of a layer, (rows, groups, slots, dim), with room for more of both than there are:
        for who writes there without `update`. Its numbers are of the kind and as many as `like` has in a row."""
        layer = self._layer(layer_idx)
        if not layer.is_initialized:
            states = like.new_empty(1, groups, 1, like.shape[-1])
            layer.lazy_initialization(states, states)
        return layer.keys, layer.values

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.cursor - self.left

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.cursor - self.left

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.cursor - self.left + query_length, 0

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return sum(states.nbytes for layer in self._initialized() for states in layer.buffers)

    @property
    def pads(self) -> list[int]:
        """Empty slots before each row's content, counted from `left`. Steps do not change them."""
        longest = max(self.lengths)
        return [longest - length for length in self.lengths]

    @property
    def is_compileable(self) -> bool:
        """Asked by transformers before decoding: True builds a mask without reading from the device whether it hides
        anything."""
        return self._is_masked

    @property
    def positions(self) -> torch.Tensor:
        """(rows, window): of what the rows hold, counted from each row's beginning; 0 where there is nothing."""
        slots = torch.arange(self.cursor - self.left)
        return (slots - torch.tensor(self.pads)[:, None]).clamp(min=0)

    def mask(self, new: int, pads: torch.Tensor, masked_from: float = math.inf) -> torch.Tensor | None:
        """(rows, window + new): which slots a row sees, its `new` next ones included; None where it sees them all,
        unless a step of one token has a window of `masked_from` slots or more. `pads` are those of the batch as a
        column on the device of the mask."""
        is_long = new == 1 and self.cursor - self.left >= masked_from
        self._is_masked = is_long or min(self.lengths) != max(self.lengths)
        if not self._is_masked:
            return None
        slots = torch.arange(self.cursor - self.left + new, device=pads.device)
        return (slots >= pads).long()

    def enter(self, kept: Sequence[Any]) -> None:
        """Add rows behind the present ones."""
        if not self.lengths:
            self.cursor = 0
        longest = max(row.length for row in kept)
        self.reserve(1, len(self.lengths) + len(kept), longest)
        for row in kept:
            self.lengths.append(row.length)
            slot = self.cursor - row.length
            for piece in row.pieces:
                self._write(len(self.lengths) - 1, slot, piece)
                slot += piece.length

    def leave(self, gone: Sequence[int]) -> None:
        """Remove rows; the last ones move into the gaps, as `vacated` says."""
        for place, source in vacated(len(self.lengths), gone):
            window = slice(self.cursor - self.lengths[source], self.cursor)
            for layer in self._initialized():
                for states in layer.buffers:
                    states[place, :, window] = states[source, :, window]
            self.lengths[place] = self.lengths[source]
        del self.lengths[len(self.lengths) - len(gone) :]

    def reserve(self, new: int, rows: int = 0, longest: int = 0) -> None:
        """Make room for `new` more slots in every row, the ones the next forward pass writes, and for `rows` rows, the
        longest of `longest`; content moves only if it must."""
        rows, needed = max(rows, len(self.lengths)), max(longest, max(self.lengths, default=0))
        cursor = max(self.cursor, needed)
        if rows <= self.row_capacity and cursor + new <= self.slot_capacity:
            if cursor != self.cursor:
                self._shift(cursor)
        elif rows <= self.row_capacity and 2 * (needed + new) <= self.slot_capacity:
            self._shift(needed)  # half of the buffer is what finished rows left behind: take it back
        else:
            row_capacity = self.row_capacity * (2 if rows > self.row_capacity else 1)
            row_capacity = max(rows, min(row_capacity, self.max_rows))
            self._shift(needed, row_capacity, needed + new + max(64, needed // 2))

    def advance(self, new: int) -> None:
        """Count `new` slots, which a forward pass has just written, as content of every row."""
        self.cursor += new
        self.lengths = [length + new for length in self.lengths]

    def longer(self, row: int, base: Any, length: int) -> Any:
        """The state of the first `length` tokens of a row, of which `base` has the first few."""
        return base.extended(
            self.last(row, self.lengths[row] - base.length, length - base.length), length - base.length
        )

    def last(self, row: int, new: int, length: int | None = None) -> tuple[Layer, ...]:
        """A copy, layer by layer, of the last `new` slots of a row; of their first `length` only, where given."""
        start = self.cursor - new
        window = slice(start, start + (new if length is None else length))
        return tuple(
            tuple(states[row, :, window].clone() for states in layer.buffers) if layer.is_initialized else None
            for layer in self.layers
        )

    def _initialized(self) -> list[AttentionLayer]:
        return [layer for layer in self.layers if layer.is_initialized]

    def _layer(self, index: int) -> AttentionLayer:
        while len(self.layers) <= index:
            self.layers.append(AttentionLayer(self))
        layer: AttentionLayer = self.layers[index]
        return layer

    def _write(self, row: int, slot: int, piece: Piece) -> None:
        window = slice(slot, slot + piece.length)
        for index, states in enumerate(piece.layers):
            layer = self._layer(index)
            if states is None:
                continue
            if not layer.is_initialized:
                layer.make_buffers(states)
            for buffer, kept in zip(layer.buffers, states, strict=True):
                buffer[row, :, window] = kept

    def _shift(self, cursor: int, row_capacity: int | None = None, slot_capacity: int | None = None) -> None:
        """Move all content so that it ends at `cursor`, into larger buffers where capacities are given."""
        used = max(self.lengths, default=0)
        rows, old, new = len(self.lengths), slice(self.left, self.cursor), slice(cursor - used, cursor)
        if row_capacity is not None and slot_capacity is not None:
            self.row_capacity, self.slot_capacity = row_capacity, slot_capacity
        for layer in self._initialized():
            content = [states[:rows, :, old] for states in layer.buffers]
            if slot_capacity is not None:
                layer.make_buffers(content)
            else:
                content = [states.clone() for states in content]
            for states, moved in zip(layer.buffers, content, strict=True):
                states[:rows, :, new] = moved
        self.cursor = cursor
