"""Decoding steps of few shapes, so that CUDA replays a whole step as one graph instead of being told every kernel.

A step runs a power of two of rows, the last of them idle, over the first slots of the batch's buffers, a multiple of
256. Where it writes and what each row sees are tensors, so that a step is the same program wherever the rows are. On
CUDA it is captured once per shape, when the shape has come up a few times; elsewhere, and before, it is called plainly.
Tested plainly on CPU tensors and, for what the host must not read, on `meta`; capture has not yet run on a GPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from power_sampling.engines.torch.forward import Forward
from power_sampling.engines.torch.kv import BatchCache

__all__ = ["GraphedForward", "can_be_static"]

SLOTS = 256  # the window is a multiple of it
SHAPES = 16  # kept at most; the one used longest ago goes first
PATIENCE = 4  # steps of a shape that are called plainly before it is captured, which costs about two more


def can_be_static(model: PreTrainedModel) -> bool:
    """Whether a step of this model is one program, whatever its tensors hold: transformers compiles such models as a
    whole. Not so with experts, whose tokens decide what runs, with frequencies that follow the longest row, with
    attention other than torch's own, with an indexer, and with parts on several devices."""
    config = model.config.get_text_config(decoder=True)
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type"), *(x.get("rope_type") for x in rope.values() if isinstance(x, dict))}
    quantizer = getattr(model, "hf_quantizer", None)
    return (
        model._can_compile_fullgraph
        and (quantizer is None or quantizer.is_compileable)
        and not any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
        and "dynamic" not in kinds
        and "indexed_attention" not in (getattr(config, "layer_types", None) or ())
        and config._attn_implementation in ("sdpa", "eager")
        and len({x.device for x in model.parameters()}) == 1
        and not hasattr(model, "_hf_hook")
    )


class GraphedForward:
    """Another forward, whose steps of one token for every row have few shapes, and are replayed on CUDA. Captures go
    with the cache whose buffers they write to."""

    def __init__(self, forward: Forward, device: torch.device) -> None:
        self._forward, self._device = forward, device
        self._steps: weakref.WeakKeyDictionary[BatchCache, _Steps] = weakref.WeakKeyDictionary()
        self.capture = _Capture(device) if device.type == "cuda" else None

    def __call__(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        pads: torch.Tensor,
        cache: BatchCache,
        keep: int | torch.Tensor,
    ) -> torch.Tensor:
        is_step = tokens.shape[1] == 1 and isinstance(keep, int)
        # the steps of models of which some layers keep nothing of their own are not known by shape
        if not (is_step and cache.layers and all(layer.is_initialized for layer in cache.layers)):
            return self._forward(tokens, positions, pads, cache, keep)
        cache.reserve(1)
        keys = cache.layers[0].keys
        steps = self._steps.get(cache)
        if steps is None or steps.buffers() is not keys:  # else they would write where the rows no longer are
            steps = self._steps[cache] = _Steps(weakref.ref(keys), {})
        rows = len(tokens)
        step = steps.of_shape(
            min(1 << (rows - 1).bit_length(), cache.row_capacity),
            min(-(-(cache.cursor + 1) // SLOTS) * SLOTS, cache.slot_capacity),
            self._device,
        )
        step.take(tokens, positions, pads + cache.left, cache.cursor)
        logits = step.run(self._forward, cache, self.capture)[:rows]
        cache.advance(1)
        return logits


class _Steps(NamedTuple):
    """The steps over one cache's buffers, by shape; the one used last stands last."""

    buffers: weakref.ref[torch.Tensor]
    by_shape: dict[tuple[int, int], _Step]

    def of_shape(self, rows: int, slots: int, device: torch.device) -> _Step:
        step = self.by_shape.pop((rows, slots), None) or _Step(rows, slots, device)
        self.by_shape[rows, slots] = step
        if len(self.by_shape) > SHAPES:
            del self.by_shape[next(iter(self.by_shape))]
        return step


class _Step:
    """One shape: what goes in, at fixed addresses; and on CUDA its graph with what comes out."""

    def __init__(self, rows: int, slots: int, device: torch.device) -> None:
        self._rows, self._slots = rows, slots
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

    def run(self, forward: Forward, cache: BatchCache, capture: _Capture | None) -> torch.Tensor:
        self._runs += 1
        if capture is not None and self._runs > PATIENCE and self._graph is None:
            # what is run to warm up writes the same states to the same slot as the step itself
            self._graph, self._logits = capture(lambda: self._compute(forward, cache))
        if self._graph is None or self._logits is None:
            return self._compute(forward, cache)
        self._graph.replay()
        return self._logits

    def _compute(self, forward: Forward, cache: BatchCache) -> torch.Tensor:
        tokens, positions, starts = self._inputs
        return forward(tokens, positions, starts, _Window(cache, self._rows, self._slots, self._cursor), 1)


class _Window(Cache):
    """The first rows and slots of a batch's buffers as a cache that is full in size and written at a tensor's slot. It
    never grows, and its mask is the same program wherever the rows begin: what lies ahead is hidden as future."""

    def __init__(self, batch: BatchCache, rows: int, slots: int, cursor: torch.Tensor) -> None:
        layers = [_WindowLayer(x.keys[:rows, :, :slots], x.values[:rows, :, :slots], cursor) for x in batch.layers]
        super().__init__(layers=layers)
        self._slots = slots

    def reserve(self, new: int) -> None: ...

    def advance(self, new: int) -> None: ...

    def mask(self, new: int, starts: torch.Tensor, masked_from: float) -> torch.Tensor:
        return (torch.arange(self._slots, device=starts.device) >= starts).long()


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
