"""Rows of a transformers model: tokens fed, states forked, tokens chosen on its device.

Weights, positions and masks reach the model as `generate` would pass them. With `lag` a step is launched before the
host has seen the one before it (`pipeline.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import psutil
import torch
from transformers import PreTrainedModel

from power_sampling.engines.choice import Choice
from power_sampling.engines.row import Row
from power_sampling.engines.torch.base_law import BaseLaws
from power_sampling.engines.torch.choice import Laws, choose
from power_sampling.engines.torch.cpu.layers import LlamaForward
from power_sampling.engines.torch.cpu.linear import PackedLinear
from power_sampling.engines.torch.devices import choice_device
from power_sampling.engines.torch.forward import Forward
from power_sampling.engines.torch.kv import BatchCache
from power_sampling.engines.torch.pipeline import Pending, Steady
from power_sampling.engines.torch.plain import PlainForward, input_device
from power_sampling.engines.torch.recurrent import is_recurrent, new_batch
from power_sampling.engines.torch.window import context_window
from power_sampling.errors import UnsupportedModelError
from power_sampling.types import Floats, Law, Ranked, Tokens

__all__ = ["TorchBackend"]

SCORE_CHUNK = 64  # positions whose logits over the vocabulary exist at one time while scoring


class TorchBackend:
    """`vocab_size` limits drawing to the tokenizer's ids where the model's vocabulary is padded beyond: p is
    renormalised over them. Log-probabilities are float32 from upcast logits (float64 for a float64 model).

    With `lag` (None: on CUDA) a step is launched before the host has seen the one before it, while no row enters or
    leaves, none has a constraint and none is at its last token: all results are the same, and a row that ended before
    its limit has been decoded once too often, which is discarded. `forward` is the way to the model's logits, which
    `prepare` chooses; None: the model as transformers has it.
    """

    slack = 1.5

    def __init__(
        self,
        model: PreTrainedModel,
        forward: Forward | None = None,
        *,
        vocab_size: int | None = None,
        lag: bool | None = None,
    ) -> None:
        self.model = model.eval()
        config = model.config.get_text_config(decoder=True)
        self.vocab_size: int = min(vocab_size or config.vocab_size, config.vocab_size)
        declared = getattr(config, "max_position_embeddings", None)
        self.context_window = context_window(declared, config.to_dict())
        self.forward_calls = self.serial_steps = self.row_steps = 0
        self._forward: Forward = forward or PlainForward(model)
        self._device = input_device(model)
        self._choice_device = choice_device(self._device)
        self._float = torch.float64 if model.dtype == torch.float64 else torch.float32
        self._new_batch, self.empty = new_batch(model)
        self.is_recurrent = is_recurrent(model)
        self.batch = self._new_batch()
        self._lag = (self._device.type == "cuda" if lag is None else lag) and not self.is_recurrent
        self._steady: Steady | None = None
        self.pending: Pending | None = None  # a step that was launched ahead

    @property
    def batch_bytes(self) -> int:
        return self.batch.nbytes

    def free_bytes(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.mem_get_info(self._device)[0]
        return int(psutil.virtual_memory().available)

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether a device or the host refused an allocation; the host and Apple's GPUs say so in words only."""
        in_words = any(words in str(error) for words in ("can't allocate memory", "MPS backend out of memory"))
        return in_words or isinstance(error, torch.OutOfMemoryError | MemoryError)

    # ------------------------------------------------------------ prompts

    @torch.inference_mode()
    def prefill(self, states: Sequence[Any], pieces: Sequence[Tokens]) -> list[tuple[Any, torch.Tensor]]:
        """Recurrent layers see padding: there, pieces of one length make a pass, those of rows that begin apart."""
        if not self.is_recurrent:
            return self._prefill(states, pieces)
        groups: dict[tuple[int, bool], list[int]] = {}
        for row, (state, piece) in enumerate(zip(states, pieces, strict=True)):
            groups.setdefault((len(piece), bool(state.length)), []).append(row)
        found: dict[int, tuple[Any, torch.Tensor]] = {}
        for rows in groups.values():
            fed = self._prefill([states[row] for row in rows], [pieces[row] for row in rows])
            found.update(zip(rows, fed, strict=True))
        return [found[row] for row in range(len(pieces))]

    def _prefill(self, states: Sequence[Any], pieces: Sequence[Tokens]) -> list[tuple[Any, torch.Tensor]]:
        batch = self._new_batch()
        batch.enter(states)
        ends = sorted({len(piece) - 1 for piece in pieces})
        logits = self.feed(batch, pieces, keep=torch.tensor(ends))
        return [
            (batch.longer(row, state, state.length + len(piece)), logits[row, ends.index(len(piece) - 1)].clone())
            for row, (state, piece) in enumerate(zip(states, pieces, strict=True))
        ]

    @torch.inference_mode()
    def prefill_each(self, state: Any, piece: Tokens) -> tuple[Any, Sequence[torch.Tensor]]:
        batch = self._new_batch()
        batch.enter([state])
        logits = self.feed(batch, [piece], keep=len(piece))[0]
        return batch.longer(0, state, state.length + len(piece)), list(logits)

    @torch.inference_mode()
    def choose(self, logits: Sequence[torch.Tensor], rows: Sequence[Row]) -> list[Choice]:
        base = torch.stack(list(logits))[:, : self.vocab_size].to(self._choice_device, self._float)
        laws = Laws.of([row.draw.law for row in rows], base)
        uniforms = torch.tensor([row.uniform() for row in rows], dtype=torch.float64)[:, None]
        allowed, excluded = [row.allowed() for row in rows], [row.excluded() for row in rows]
        given = [row.given[0] if row.given else -1 for row in rows]
        columns = choose(base, laws, uniforms.to(base.device), allowed, excluded, given).tolist()
        return [_choice(row.draw.law, numbers) for row, numbers in zip(rows, columns, strict=True)]

    # ------------------------------------------------------------ the batch

    @torch.inference_mode()
    def enter(self, states: Sequence[Any], max_rows: int) -> None:
        self.batch.max_rows = max_rows
        self.batch.enter(states)

    @torch.inference_mode()
    def leave(self, gone: Sequence[int]) -> None:
        self.batch.leave(gone)

    @torch.inference_mode()
    def decode(self, rows: Sequence[Row], last: Sequence[int]) -> list[tuple[Row, Choice]]:
        """One token for every row of the step that is under way, or else of a new one."""
        rows = list(rows)
        step, self.pending = self.pending, None
        if step is None or set(rows).isdisjoint(step.rows):
            step = self.launch(rows, last)
        if self._lag and step.rows == rows and all(row.may_go_on for row in rows):
            self.pending = self.launch(rows, last)
        # rows that have left since it was launched are passed over
        numbers = zip(step.rows, step.numbers(), strict=True)
        return [(row, _choice(row.draw.law, found)) for row, found in numbers if row is not None and row in rows]

    def launch(self, rows: list[Row], last: Sequence[int]) -> Pending:
        """Feed every row its last token and draw its next one, without waiting for it."""
        if self._steady is None or self._steady.rows != rows:
            like = torch.empty(0, dtype=self._float, device=self._choice_device)
            self._steady = Steady(rows, last, self.batch, like, self._steady)
        self.serial_steps += 1
        self.row_steps += len(rows)
        self.forward_calls += 1
        steady = self._steady
        tokens, positions, pads = (x.to(self._device) for x in (steady.tokens, steady.positions, steady.pads))
        logits = self._logits(tokens, positions, pads, self.batch, 1)
        return steady.choose(logits[:, -1, : self.vocab_size])

    @torch.inference_mode()
    def state(self, place: int, base: Any, length: int) -> Any:
        # the batch holds one token more where a step that was launched ahead has been fed it
        return self.batch.longer(place, base, length)

    def cancel_step(self, row: Row) -> None:
        if self.pending:
            self.pending.forget(row)
            self._steady = None  # it is one step ahead of the row

    def clear(self) -> None:
        self.batch = self._new_batch()
        self._steady = self.pending = None

    # ------------------------------------------------------------ the model

    def forget_copies(self) -> None:
        """Read the model's weights from now on, where copies of them were laid out."""
        for holder in (self._forward, *self.model.modules()):
            if isinstance(holder, LlamaForward | PackedLinear):
                holder.forget()

    @torch.inference_mode()
    def score(self, state: Any, logits: torch.Tensor, tokens: Tokens, temperature: float) -> Floats:
        parts = [torch.zeros(0, dtype=torch.float64)]
        for piece, known in self._teacher_forced(state, logits, tokens):
            logp = torch.log_softmax(known / temperature, -1)
            index = torch.tensor(piece, device=logp.device)
            parts.append(logp.gather(-1, index[:, None])[:, 0].double().cpu())
        return torch.cat(parts).numpy()

    @torch.inference_mode()
    def ranked(self, state: Any, logits: torch.Tensor, tokens: Tokens, law: Law, count: int) -> Iterator[list[Ranked]]:
        start = 0
        for piece, known in self._teacher_forced(state, logits, tokens):
            bases = BaseLaws.of([law] * len(piece), known)
            if bases is not None and law.base is not None:
                befores = [tokens[:at] if law.base.looks_back else () for at in range(start, start + len(piece))]
                known = bases.logits(known, [law.base.excluded(before) for before in befores])
            top = torch.log_softmax(known / law.temperature, -1).topk(min(count, self.vocab_size))
            found = zip(top.indices.tolist(), top.values.tolist(), strict=True)
            yield [tuple((t, p) for t, p in zip(*row, strict=True) if p > -math.inf) for row in found]
            start += len(piece)

    def _teacher_forced(
        self, state: Any, logits: torch.Tensor, tokens: Tokens
    ) -> Iterator[tuple[Tokens, torch.Tensor]]:
        """Pieces of tokens that follow a state, and the logits of their positions."""
        batch = self._new_batch()
        batch.enter([state])
        before = logits[None]
        for start in range(0, len(tokens), SCORE_CHUNK):
            piece = tokens[start : start + SCORE_CHUNK]
            fed = self.feed(batch, [piece], keep=len(piece))[0]
            yield piece, torch.cat([before, fed[:-1]])[:, : self.vocab_size].to(self._choice_device, self._float)
            before = fed[-1:]

    def feed(self, batch: BatchCache, pieces: Sequence[Tokens], *, keep: int | torch.Tensor) -> torch.Tensor:
        """Append a piece to every row of `batch`. Returns logits as `Forward` does.

        Shorter pieces are padded on the right, where nothing of theirs looks."""
        widest = max(map(len, pieces))
        tokens = torch.tensor([piece + (0,) * (widest - len(piece)) for piece in pieces])
        positions = torch.tensor(batch.lengths)[:, None] + torch.arange(widest)
        pads = torch.tensor(batch.pads)[:, None]
        tokens, positions, pads = (x.to(self._device) for x in (tokens, positions, pads))
        self.forward_calls += 1
        return self._logits(tokens, positions, pads, batch, keep if isinstance(keep, int) else keep.to(self._device))

    def _logits(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        pads: torch.Tensor,
        batch: BatchCache,
        keep: int | torch.Tensor,
    ) -> torch.Tensor:
        """What the model says, if it says something of every token that can be drawn."""
        logits = self._forward(tokens, positions, pads, batch, keep)
        if logits.shape[-1] < self.vocab_size:
            raise UnsupportedModelError(
                f"The model gives {logits.shape[-1]} logits for a vocabulary of {self.vocab_size} tokens: its output "
                "layer does not fit its configuration or tokenizer. Resize the embeddings, or load the right files."
            )
        return logits


def _choice(law: Law, numbers: Sequence[float]) -> Choice:
    """A row's columns as its law asks for them: the entropy stands first where any row of the batch asks for it."""
    token, logp, logq, *extras = numbers
    return Choice(int(token), logp, logq, extras[int(not law.wants_entropy) : 1 + len(law.score_at)])
