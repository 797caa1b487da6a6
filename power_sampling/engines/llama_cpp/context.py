"""The memory in which llama.cpp keeps sequences of tokens, and the passes that feed them."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from power_sampling.engines.llama_cpp.library import last_words, library
from power_sampling.engines.llama_cpp.model import LlamaModel, set_fields
from power_sampling.errors import EngineError, ModelError

__all__ = ["MOST_SEQUENCES", "Context"]

MOST_SEQUENCES = 256  # of one context, by llama.cpp's own limit
NO_ROOM = (1, -2)  # what `llama_decode` returns where memory is out


class Context:
    """`cells` tokens of `sequences` sequences, any of which may have any number of them; what several begin with is
    stored once. `tokens` go through the model in one pass at most, `outputs` of them with logits."""

    def __init__(
        self,
        model: LlamaModel,
        *,
        cells: int,
        sequences: int,
        tokens: int,
        outputs: int,
        threads: int | None,
        fields: Mapping[str, Any],
    ) -> None:
        api = self._api = library()
        self.model, self.tokens, self.outputs = model, tokens, outputs
        parameters = api.llama_context_default_params()
        parameters.n_ctx, parameters.n_seq_max = cells, sequences
        parameters.n_batch = parameters.n_ubatch = tokens
        parameters.n_outputs_max = outputs
        parameters.kv_unified = True
        parameters.swa_full = True  # a row can be cut anywhere; the masks still do the windows
        parameters.no_perf = True
        if threads is not None:
            parameters.n_threads = parameters.n_threads_batch = threads
        set_fields(parameters, fields, "engine")
        self.pointer = api.llama_init_from_model(model.pointer, parameters)
        if not self.pointer:
            raise ModelError(
                f"llama.cpp cannot make a cache of {cells} tokens for {model.file.name}: {last_words()} "
                "Where that is memory, lower kv_memory."
            )
        weakref.finalize(self, api.llama_free, self.pointer).atexit = False
        self.cells: int = api.llama_n_ctx(self.pointer)
        self._memory = api.llama_get_memory(self.pointer)
        self._set_adapters()
        self._batch = _Batch(api, tokens)

    def _set_adapters(self) -> None:
        if not (adapters := self.model.adapters):
            return
        addresses = [ctypes.cast(adapter, ctypes.c_void_p) for adapter, _ in adapters]
        pointers = (ctypes.c_void_p * len(adapters))(*addresses)
        factors = (ctypes.c_float * len(adapters))(*[factor for _, factor in adapters])
        kind = self._api.llama_set_adapters_lora.argtypes[1]
        if self._api.llama_set_adapters_lora(self.pointer, ctypes.cast(pointers, kind), len(adapters), factors):
            raise ModelError(f"lora: llama.cpp cannot apply these adapters: {last_words()}")

    def feed(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int], wanted: Sequence[bool]
    ) -> NDArray[np.float32]:
        """One pass over tokens at these positions of these sequences. The logits after those that are wanted, in their
        order, shape (wanted, vocabulary): good until the next pass. Raises MemoryError where they have no room."""
        batch = self._batch.filled(tokens, positions, sequences, wanted)
        failure = self._api.llama_decode(self.pointer, batch)
        if failure in NO_ROOM:
            raise MemoryError(f"llama.cpp found no room for {len(tokens)} tokens")
        if failure:
            raise EngineError(f"llama.cpp failed ({failure}) at {len(tokens)} tokens: {last_words()}")
        logits = self._api.llama_get_logits(self.pointer)
        return np.ctypeslib.as_array(logits, shape=(sum(wanted), self.model.vocab_size))

    def copy(self, source: int, to: int, length: int = -1) -> None:
        """Let an empty sequence begin with the first tokens of another; all of them where no length is given."""
        self._api.llama_memory_seq_cp(self._memory, source, to, -1, length)

    def cut(self, sequence: int, start: int = -1) -> None:
        """Remove the tokens of a sequence from this one on; all of them where none is given."""
        self._api.llama_memory_seq_rm(self._memory, sequence, start, -1)

    def stored_bytes(self, sequence: int) -> int:
        """Bytes of what is kept of a sequence."""
        return int(self._api.llama_state_seq_get_size(self.pointer, sequence))


class _Batch:
    """llama.cpp's batch, over arrays of ours."""

    def __init__(self, api: Any, size: int) -> None:
        self._tokens, self._positions, self._ids, self._counts = (np.zeros(size, np.int32) for _ in range(4))
        self._counts[:] = 1
        self._wanted = np.zeros(size, np.int8)
        int32 = ctypes.POINTER(ctypes.c_int32)
        start, step = self._ids.ctypes.data, self._ids.itemsize
        self._id_of = (int32 * size)(*[ctypes.cast(start + i * step, int32) for i in range(size)])
        self._batch = api.llama_batch(
            n_tokens=0,
            token=self._tokens.ctypes.data_as(int32),
            embd=None,
            pos=self._positions.ctypes.data_as(int32),
            n_seq_id=self._counts.ctypes.data_as(int32),
            seq_id=ctypes.cast(self._id_of, ctypes.POINTER(int32)),
            logits=self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def filled(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int], wanted: Sequence[bool]
    ) -> Any:
        n = len(tokens)
        self._tokens[:n], self._positions[:n], self._ids[:n], self._wanted[:n] = tokens, positions, sequences, wanted
        self._batch.n_tokens = n
        return self._batch
