"""Decoding steps of few shapes, so that CUDA replays a whole step as one graph instead of being told every kernel.

A step runs a power of two of rows, the last of them idle, over the first slots of the batch's buffers, a multiple of
256. Where it writes and what each row sees are tensors, so that a step is the same program wherever the rows are. On
CUDA it is captured once per shape, when the shape has come up a few times; elsewhere, and before, it is called plainly.
Tested plainly on CPU tensors and, for what the host must not read, on `meta`; capture has not yet run on a GPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from power_sampling.engines.torch.kv import BatchCache

__all__ = ["StaticSteps", "can_be_static"]

SLOTS = 256  # the window is a multiple of it
SHAPES = 16  # kept at most; the one used longest ago goes first
PATIENCE = 4  # steps of a shape that are called plainly before it is captured, which costs about two more


def can_be_static(model: PreTrainedModel) -> bool:
    """Whether a step of this model is one program, whatever its tensors hold: transformers compiles such models as a
    whole. Not so with experts, whose tokens decide what runs, with frequencies that follow the longest row, with
    attention other than torch's own, and with parts on several devices."""
    config = model.config.get_text_config(decoder=True)
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type"), *(x.get("rope_type") for x in rope.values() if isinstance(x, dict))}
    quantizer = getattr(model, "hf_quantizer", None)
    return (
        model._can_compile_fullgraph
        and (quantizer is None or quantizer.is_compileable)
        and not any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
        and "dynamic" not in kinds
        and config._attn_implementation in ("sdpa", "eager")
        and len({x.device for x in model.parameters()}) == 1
        and not hasattr(model, "_hf_hook")
    )


class StaticSteps:
    """The steps of one model, by shape. `forward` takes what `generate` would pass it and returns logits."""

    def __init__(self, forward: Callable[..., torch.Tensor], device: torch.device) -> None:
        self._forward, self._device = forward, device
        self._steps: dict[tuple[int, int], _Step] = {}  # the one used last stands last
        self._buffers: weakref.ref[torch.Tensor] | None = None
        self._capture = _Capture(device) if device.type == "cuda" else None

    def fits(self, batch: BatchCache) -> bool:
        """Whether every layer keeps states of its own."""
        return bool(batch.layers) and all(layer.is_initialized for layer in batch.layers)

    def __call__(
        self, batch: BatchCache, tokens: torch.Tensor, positions: torch.Tensor, pads: torch.Tensor
    ) -> torch.Tensor:
        """Append a token to every row of `batch`: columns in its order. Returns logits, (rows, vocabulary)."""
        batch.reserve(1)
        keys = batch.layers[0].keys
        if self._buffers is None or self._buffers() is not keys:
            self.clear()  # they would write where the batch no longer is
            self._buffers = weakref.ref(keys)
        rows = len(tokens)
        shape = (
            min(1 << (rows - 1).bit_length(), batch.row_capacity),
            min(-(-(batch.cursor + 1) // SLOTS) * SLOTS, batch.slot_capacity),
        )
        step = self._steps.pop(shape, None) or _Step(self._forward, *shape, self._device)
        self._steps[shape] = step
        if len(self._steps) > SHAPES:
            del self._steps[next(iter(self._steps))]
        step.take(tokens, positions, pads + batch.left, batch.cursor)
        logits = step.run(batch, self._capture)[:rows]
        batch.advance(1)
        return logits

    def clear(self) -> None:
        """Forget all captures: before the buffers go that they write to."""
        self._steps.clear()


class _Step:
    """One shape: what goes in, at fixed addresses; and on CUDA its graph with what comes out."""

    def __init__(self, forward: Callable[..., torch.Tensor], rows: int, slots: int, device: torch.device) -> None:
        self._forward, self._rows, self._slots = forward, rows, slots
        self._inputs = torch.zeros((3, rows, 1), dtype=torch.long, device=device)
        self._cursor = torch.zeros(1, dtype=torch.long, device=device)
        self._runs = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: torch.Tensor | None = None

    def take(self, tokens: torch.Tensor, positions: torch.Tensor, starts: torch.Tensor, cursor: int) -> None:
        """Columns of rows: their tokens, these tokens' positions, the slots where the rows begin."""
        self._inputs.zero_()  # an idle row sees its buffer from the first slot on: of nothing, kernels may make nan
        for place, column in zip(self._inputs, (tokens, positions, starts), strict=True):
            place[: len(column)] = column
        self._cursor.fill_(cursor)

    def run(self, batch: BatchCache, capture: _Capture | None) -> torch.Tensor:
        self._runs += 1
        if capture is not None and self._runs > PATIENCE and self._graph is None:
            # what is run to warm up writes the same states to the same slot as the step itself
            self._graph, self._logits = capture(lambda: self._compute(batch))
        if self._graph is None or self._logits is None:
            return self._compute(batch)
        self._graph.replay()
        return self._logits

    def _compute(self, batch: BatchCache) -> torch.Tensor:
        tokens, positions, starts = self._inputs
        window = _Window(batch, self._rows, self._slots, self._cursor)
        mask = (torch.arange(self._slots, device=starts.device) >= starts).long()  # what lies ahead is hidden as future
        return self._forward(tokens, positions, mask, window)


class _Window(Cache):
    """The first rows and slots of a batch's buffers as a cache that is full in size and written at a tensor's slot."""

    def __init__(self, batch: BatchCache, rows: int, slots: int, cursor: torch.Tensor) -> None:
        layers = [_WindowLayer(x.keys[:rows, :, :slots], x.values[:rows, :, :slots], cursor) for x in batch.layers]
        super().__init__(layers=layers)


class _WindowLayer(CacheLayerMixin):
    is_compileable = True  # its masks are made without a look at them
    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, cursor: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.cursor = keys, values, cursor
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        raise NotImplementedError("a window is made of buffers that exist")

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys.index_copy_(2, self.cursor, key_states)
        self.values.index_copy_(2, self.cursor, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[2], 0

    def get_seq_length(self) -> torch.Tensor:
        return self.cursor[0]

    def get_max_length(self) -> int:
        return int(self.keys.shape[2])


class _Capture:
    """Captures on a stream of its own; all graphs share one pool of memory, because they are replayed one at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch has no types here
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        """The graph of a computation, and where each replay leaves its result."""
        with torch.cuda.device(self._device):
            here = torch.cuda.current_stream()
            self._stream.wait_stream(here)
            with torch.cuda.stream(self._stream):
                compute()  # libraries take their workspaces for this stream outside of the graph
            here.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # other threads may use the device in the meantime
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                result = compute()
        return graph, result
