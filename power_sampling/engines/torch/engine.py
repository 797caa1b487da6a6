"""A Hugging Face causal language model that decodes rows: one batch, refilled between any two steps.

Knows tokens, numbers and devices; no sampler and no text. A prompt is prefilled once, and the logits at its end are
kept too: a draw from cut 0 takes its first token from them. A draw from a later cut takes the stored states of what
lies before, less one position, and is fed that last token. What prompts of different requests begin with is shared. So
no token is prefilled twice. Weights, positions and masks reach the model as `generate` would pass them.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter, deque
from collections.abc import Sequence, Set
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.integrations import sdpa_attention

from power_sampling.engines.protocol import Cost, Ending
from power_sampling.engines.row import Row, context_of
from power_sampling.engines.stepped.budget import Memo, Memory, is_out_of_memory
from power_sampling.engines.stepped.prefixes import Prefixes, shared_length
from power_sampling.engines.torch.choice import Laws, choose
from power_sampling.engines.torch.cuda_graphs import StaticSteps, can_be_static
from power_sampling.engines.torch.kv import BatchCache, KeyValues, stored_bytes, vacated
from power_sampling.engines.torch.pipeline import Pending, Steady
from power_sampling.errors import OutOfMemoryError, UnsupportedModelError
from power_sampling.types import Continuation, Draw, Floats, Tokens

__all__ = ["TorchLM"]

PREFILL_CHUNK = 512  # tokens of a prompt per step, so that rows in decoding and cancellations do not wait for all of it
PREFILL_ROWS = 8  # prompts in one pass, because their logits at each other's ends exist for a moment
MIN_SHARED = 16  # tokens that a prompt must share with another one for its prefill to wait for the other's
MASKED_FROM = 256  # slots; measured by benchmarks/processor.py: a quarter faster at 2,000, equal near 200
SCORE_CHUNK = 64  # positions whose logits over the vocabulary exist at one time while scoring


class _Prompt:
    """The handle of `open`: its tokens, its ending, and once it is prefilled its states and the logits at its end."""

    def __init__(self, tokens: Tokens, ending: Ending) -> None:
        self.tokens, self.ending = tokens, ending
        self.kept = KeyValues()
        self.logits: torch.Tensor | None = None  # (vocabulary,)
        self.prefilled_tokens = self.reused_tokens = 0
        self.served = 0  # at which call of the model it got its last piece

    @property
    def missing(self) -> int:
        """Tokens whose states are needed before a draw can start."""
        return len(self.tokens) - self.kept.length


class _Seat(NamedTuple):
    row: Row
    prompt: _Prompt
    memo: Memo  # states of a beginning of what the row holds: what is not there is the prompt's, or computed again
    context: Tokens

    @property
    def longest(self) -> int:
        """Tokens of the row at its end."""
        return len(self.context) + self.row.draw.max_new_tokens

    @property
    def starts_at_prompt(self) -> bool:
        """Whether its next token is drawn from the logits at the end of the prompt."""
        return self.row.draw.cut == 0 and not self.row.tokens

    @property
    def fed(self) -> Tokens:
        """What the model has to have seen before the row's next step: all, or all but the token fed in that step."""
        seen = (*self.context, *self.row.tokens)
        return seen if self.starts_at_prompt else seen[:-1]


class TorchLM:
    """A causal language model of transformers behind the `LanguageModel` protocol.

    `vocab_size` limits drawing to the tokenizer's ids where the model's vocabulary is padded beyond: p is renormalised
    over them. Log-probabilities are float32 from upcast logits (float64 for a float64 model), sums are Python floats.
    `prompt_memory` bytes of prompts are remembered across requests. The prompts of unfinished draws and the rows in
    decoding take `kv_memory` bytes at most, by default a share of what is free, and other draws wait; what they leave
    holds states of chains, which may be forked: the oldest go first, and are computed again at need. When memory runs
    out all the same, the batch is halved, its rows go on from their tokens, and nothing is drawn twice. With `lag`
    (None: on CUDA) a step is launched before the host has seen the one before it, while no row enters or leaves, none
    has a constraint and none is at its last token: all results are the same, and a row that ended before its limit has
    been decoded once too often, which is discarded. With `static_shapes` decoding steps have few shapes and are
    replayed on CUDA as graphs, if `can_be_static(model)`.
    Raises UnsupportedModelError for a model whose state cannot be cut at a position (recurrent, hybrid).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        vocab_size: int | None = None,
        max_rows: int = 32,
        prompt_memory: int = 0,
        kv_memory: int | None = None,
        lag: bool | None = None,
        static_shapes: bool = False,
    ) -> None:
        _refuse_uncuttable(model)
        self.model = model.eval()
        config = model.config.get_text_config(decoder=True)
        self.vocab_size: int = min(vocab_size or config.vocab_size, config.vocab_size)
        self.context_window: int | None = getattr(config, "max_position_embeddings", None)
        self.max_rows = max_rows
        self._logits = partial(_logits, model, set(inspect.signature(model.forward).parameters))
        self._device = _input_device(model)
        self._float = torch.float64 if model.dtype == torch.float64 else torch.float32
        self._tickets = count()
        self._waiting: deque[_Seat] = deque()
        self._seats: list[_Seat] = []
        self._masked_from = MASKED_FROM if _masks_help(model, self._device) else math.inf
        self._batch = BatchCache(self.max_rows, masked_from=self._masked_from)
        self._lag = self._device.type == "cuda" if lag is None else lag
        self._steady: Steady | None = None
        self._pending: Pending | None = None  # a step that was launched ahead
        self._static = StaticSteps(self._logits, self._device) if static_shapes and can_be_static(model) else None
        self._prefixes = Prefixes(prompt_memory)
        self._memory = Memory(self._device, kv_memory)
        self._prefill_chunk = PREFILL_CHUNK
        self._finished: list[tuple[int, Continuation]] = []
        self._forward_calls = self._serial_steps = self._row_steps = self._prefilled_tokens = 0

    # ------------------------------------------------------------ the protocol

    @property
    def cost(self) -> Cost:
        return Cost(self._forward_calls, self._serial_steps, self._row_steps, self._prefilled_tokens)

    def open(self, prompt: Tokens, ending: Ending) -> _Prompt:
        return _Prompt(prompt, ending)

    @torch.inference_mode()
    def add(self, prompt: _Prompt, draw: Draw) -> int:
        ticket = next(self._tickets)
        context = context_of(prompt.tokens, draw)
        memo = self._remembered(draw.chain.memo, len(context) - 1) if draw.cut else Memo(KeyValues())
        seat = _Seat(Row(ticket, draw, prompt.ending), prompt, memo, context)
        beside = self._memory.per_token * len(prompt.tokens)
        if not self._memory.fits(1, seat.longest, beside):
            needed = self._memory.needed(1, seat.longest) + beside
            raise OutOfMemoryError(
                f"{seat.longest} tokens take {needed >> 20} MiB of keys and values, the prompt's own included; "
                f"{self._memory.budget >> 20} MiB may be used. Shorten the prompt, lower max_new_tokens, or raise "
                "kv_memory."
            )
        self._waiting.append(seat)
        return ticket

    @torch.inference_mode()
    def drop(self, ticket: int) -> None:
        self._waiting = deque(seat for seat in self._waiting if seat.row.ticket != ticket)
        self._vacate([i for i, seat in enumerate(self._seats) if seat.row.ticket == ticket])

    def drawn(self, ticket: int) -> Tokens:
        return next((tuple(seat.row.tokens) for seat in self._seats if seat.row.ticket == ticket), ())

    def so_far(self, ticket: int) -> Continuation:
        seat = self._seat(ticket)
        return seat.row.so_far(memo=seat)

    def set_floors(self, ticket: int, floors: Floats | None) -> None:
        self._seat(ticket).row.floors = floors

    @property
    def spare_rows(self) -> int:
        unfinished = [*self._seats, *self._waiting]
        return self._most_rows(unfinished) - len(unfinished)

    @torch.inference_mode()
    def step(self) -> tuple[list[int], list[tuple[int, Continuation]]]:
        tickets: list[int] = []
        try:
            self._admit()
            tickets = self._decode()
            ended = [i for i, seat in enumerate(self._seats) if seat.row.end]
            self._finished += [(self._seats[i].row.ticket, self._continuation(i)) for i in ended]
            self._vacate(ended)
            if ended:
                self._make_room()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not self._halve():
                raise
        finished, self._finished = self._finished, []
        return tickets, finished

    def _halve(self) -> bool:
        """After an allocation failed: give everything back, and go on with half as much at a time. False: there is
        nothing left to halve."""
        rows = min(self.max_rows, len(self._seats) or self.max_rows)
        if rows == 1 and self._prefill_chunk == 1:
            return False
        self.max_rows, self._prefill_chunk = max(1, rows // 2), max(1, self._prefill_chunk // 2)
        known = {ticket for ticket, _ in self._finished}
        ended = [seat.row for seat in self._seats if seat.row.end and seat.row.ticket not in known]
        self._finished += [(row.ticket, row.continuation()) for row in ended]
        self._waiting.extendleft(seat for seat in reversed(self._seats) if not seat.row.end)
        self._clear()
        self._prefixes.clear()
        self._memory.forget(0)
        return True

    def reset(self) -> None:
        self._waiting.clear()
        self._finished.clear()
        self._clear()

    def _clear(self) -> None:
        """Forget all rows in decoding, with what was launched for them."""
        self._seats.clear()
        self._batch = BatchCache(self.max_rows, masked_from=self._masked_from)
        self._steady = self._pending = None
        if self._static:
            self._static.clear()

    @torch.inference_mode()
    def score(self, prompt: Tokens, tokens: Tokens, temperature: float) -> Floats:
        """log p(x_t | x_<t) by fresh forward passes over prompt and tokens, nothing remembered. Shape (T,)."""
        handle = self.open(prompt, Ending(frozenset()))
        while handle.missing:
            self._prefill([handle])
        batch = BatchCache()
        batch.enter([handle.kept])
        parts = [torch.zeros(0, dtype=torch.float64)]
        logits = _end_of(handle)[None]  # of the positions whose next tokens are scored
        for start in range(0, len(tokens), SCORE_CHUNK):
            piece = tokens[start : start + SCORE_CHUNK]
            fed = self._feed(batch, [piece], keep=len(piece))[0, -len(piece) :]
            known = torch.cat([logits, fed[:-1]])[:, : self.vocab_size].to(self._float)
            logp = torch.log_softmax(known / temperature, -1)
            index = torch.tensor(piece, device=logp.device)
            parts.append(logp.gather(-1, index[:, None])[:, 0].double().cpu())
            logits = fed[-1:]
        return torch.cat(parts).numpy()

    # ------------------------------------------------------------ seats

    def _seat(self, ticket: int) -> _Seat:
        return next(seat for seat in (*self._seats, *self._waiting) if seat.row.ticket == ticket)

    def _remembered(self, known: object, length: int) -> Memo:
        """What a chain's memo has of its first `length` tokens: the states of a row that has ended, or the seat of one
        that is still being decoded."""
        if isinstance(known, _Seat):
            place = next((i for i, seat in enumerate(self._seats) if seat.row is known.row), None)
            if place is not None and length > known.memo.kept.length:
                return self._memory.remember(self._states(place, length))
            known = known.memo
        return known if isinstance(known, Memo) else Memo(KeyValues())

    def _admit(self) -> None:
        """Seat waiting draws while rows and memory last, after one forward pass of some tokens for prompts that have
        no states yet. A draw whose prompt is not ready lets later ones pass. Those at the end of their prompt take
        their first token from its logits."""
        self._make_way()
        queue, free = self._queue(), self.max_rows - len(self._seats)
        candidates = queue[:free]
        # so many requests without a row may have one soon: their prompts are taken first, and no more of them
        soon = self._most_rows([*self._seats, *queue]) - len({seat.prompt for seat in self._seats})
        self._prepare(list(dict.fromkeys(seat.prompt for seat in queue[: max(1, soon)] if seat.prompt.missing)))
        beside = self._prompt_bytes()
        admitted: list[_Seat] = []
        for seat in candidates:
            longest = max(x.longest for x in (*self._seats, *admitted, seat))
            rows = len(self._seats) + len(admitted) + 1
            # alone, a row is tried: what a token takes may not have been known when it was added, and it must not wait
            # for ever
            if not seat.prompt.missing and (rows == 1 or self._memory.fits(rows, longest, beside)):
                admitted.append(self._ready(seat))
        first = [seat for seat in admitted if seat.starts_at_prompt]
        if first:
            self._choose(torch.stack([_end_of(seat.prompt) for seat in first]), first)
        taken = {seat.row.ticket for seat in admitted}
        self._waiting = deque(seat for seat in self._waiting if seat.row.ticket not in taken)
        self._finished += [(seat.row.ticket, seat.row.continuation()) for seat in admitted if seat.row.end]
        staying = [seat for seat in admitted if not seat.row.end]
        self._seats += staying
        if staying:
            kept = [seat.memo.kept for seat in staying]
            self._make_room()
            self._batch.max_rows = self._most_rows(self._seats)
            self._batch.enter(kept)

    def _prompt_bytes(self) -> int:
        """What the prompts of unfinished draws take."""
        return stored_bytes(prompt.kept for prompt in self._prompts())

    def _prompts(self) -> set[_Prompt]:
        return {seat.prompt for seat in (*self._seats, *self._waiting)}

    def _most_rows(self, seats: Sequence[_Seat]) -> int:
        """How many rows as long as the longest of these may be decoded at one time."""
        longest = max((seat.longest for seat in seats), default=0)
        return min(self.max_rows, self._memory.rows(longest, self._prompt_bytes()))

    def _make_room(self) -> None:
        """Forget states that have no room beside the rows in decoding."""
        longest = max((seat.longest for seat in self._seats), default=0)
        buffers = max(self._batch.nbytes, self._memory.needed(len(self._seats), longest))
        self._memory.forget(self._memory.budget - buffers, [prompt.kept for prompt in self._prompts()])

    def _queue(self) -> list[_Seat]:
        """The waiting draws: first those of requests that have no row, then those of requests that have one, and so
        on, each time in the order they came."""
        held = Counter(seat.prompt for seat in self._seats)
        ranked = []
        for seat in self._waiting:
            ranked.append((held[seat.prompt], seat))
            held[seat.prompt] += 1
        return [seat for _, seat in sorted(ranked, key=lambda ranked_seat: ranked_seat[0])]

    def _make_way(self) -> None:
        """While a request without a row waits for one, take one from the request that has most; that row goes on from
        its states when its turn comes."""
        held = Counter(seat.prompt for seat in self._seats)
        poor = {seat.prompt: seat for seat in self._waiting if not seat.prompt.missing and seat.prompt not in held}
        if not poor:
            return
        short = len(self._seats) + len(poor) - self._most_rows([*self._seats, *poor.values()])
        while short > 0 and (richest := max(held, key=lambda prompt: held[prompt], default=None)):
            if held[richest] < 2:
                return
            self._suspend(max(i for i, seat in enumerate(self._seats) if seat.prompt is richest))
            held[richest] -= 1
            short -= 1

    def _suspend(self, index: int) -> None:
        seat = self._seats[index]
        self._waiting.append(seat._replace(memo=self._memory.remember(self._states(index))))
        self._vacate([index])
        if self._pending:
            self._pending.forget(seat.row)
            self._steady = None  # it is one step ahead of the row

    def _prepare(self, prompts: list[_Prompt]) -> None:
        """Find or compute what is missing of these prompts: a piece of it, per step."""
        for prompt in prompts:
            self._recall(prompt)
        self._prefill([prompt for prompt in prompts if prompt.missing])
        for prompt in prompts:
            if not prompt.missing:
                self._memory.measure(prompt.kept)
                self._prefixes.put(prompt.tokens, prompt.kept, _end_of(prompt))

    def _recall(self, prompt: _Prompt) -> None:
        """Take what other requests have left of this prompt, if that is more than it has."""
        kept, logits = self._prefixes.find(prompt.tokens)
        if kept.length > prompt.kept.length:
            prompt.kept, prompt.logits, prompt.reused_tokens = kept, logits, kept.length - prompt.prefilled_tokens

    def _prefill(self, prompts: list[_Prompt]) -> None:
        """The next piece of the prompt that has waited longest for one, together with as many whole prompts as fit
        beside it. A prompt that begins like one of them waits, and finds their common beginning computed."""
        if not prompts:
            return
        prompts = sorted(prompts, key=lambda prompt: prompt.served)
        pieces = {prompts[0]: prompts[0].tokens[prompts[0].kept.length :][: self._prefill_chunk]}
        for prompt in prompts[1:]:
            widest = max(prompt.missing, *map(len, pieces.values()))
            if len(pieces) == PREFILL_ROWS or widest * (len(pieces) + 1) > self._prefill_chunk:
                continue
            if not any(self._waits_for(other, prompt) for other in pieces):
                pieces[prompt] = prompt.tokens[prompt.kept.length :]
        batch = BatchCache()
        batch.enter([prompt.kept for prompt in pieces])
        widest = max(map(len, pieces.values()))
        ends = sorted({len(piece) - 1 for piece in pieces.values()})
        logits = self._feed(batch, list(pieces.values()), keep=torch.tensor(ends))
        for row, (prompt, piece) in enumerate(pieces.items()):
            at = ends.index(len(piece) - 1) if logits.shape[1] == len(ends) else len(piece) - 1
            prompt.logits = logits[row, at].clone()
            prompt.kept = prompt.kept.extended(batch.last(row, widest, len(piece)), len(piece))
            prompt.prefilled_tokens += len(piece)
            prompt.served = self._forward_calls
            self._prefilled_tokens += len(piece)

    def _waits_for(self, other: _Prompt, prompt: _Prompt) -> bool:
        shared = shared_length(np.array(other.tokens), np.array(prompt.tokens))
        return self._prefixes.capacity > 0 and shared - prompt.kept.length >= MIN_SHARED

    def _ready(self, seat: _Seat) -> _Seat:
        """The seat with the states it needs: its chain's, or its prompt's and, for a chain whose states are not
        remembered, those of its tokens."""
        fed = seat.fed
        kept = seat.memo.kept.head(min(seat.memo.kept.length, len(fed)))
        if not kept.length:
            kept = seat.prompt.kept.head(min(len(seat.prompt.tokens), len(fed)))
        while piece := fed[kept.length :][: self._prefill_chunk]:
            batch = BatchCache()
            batch.enter([kept])
            self._feed(batch, [piece], keep=1)
            self._prefilled_tokens += len(piece)
            seat.prompt.prefilled_tokens += len(piece)
            kept = kept.extended(batch.last(0, len(piece)), len(piece))
        return seat._replace(memo=self._memory.remember(kept))

    def _continuation(self, index: int) -> Continuation:
        """What the row drew, with its states as memo: of everything but the last token, which was never fed."""
        seat = self._seats[index]
        if seat.row.end == "floor":
            return seat.row.continuation()
        return seat.row.continuation(self._memory.remember(self._states(index)))

    def _states(self, index: int, length: int | None = None) -> KeyValues:
        """Of the row's first `length` tokens; of all it has been fed but its last token, where none is given."""
        seat = self._seats[index]
        length = len(seat.fed) if length is None else length
        base = seat.memo.kept if seat.memo.kept.length else seat.prompt.kept
        base = base.head(min(base.length, length))
        # the batch holds one token more where a step that was launched ahead has been fed it
        own = self._batch.last(index, self._batch.lengths[index] - base.length, length - base.length)
        return base.extended(own, length - base.length)

    def _vacate(self, gone: list[int]) -> None:
        if not gone:
            return
        for place, source in vacated(len(self._seats), gone):
            self._seats[place] = self._seats[source]
        del self._seats[len(self._seats) - len(gone) :]
        self._batch.leave(gone)

    # ------------------------------------------------------------ the model

    def _decode(self) -> list[int]:
        """One token for every row of the step that is under way, or else of a new one. Returns the rows' tickets."""
        rows = [seat.row for seat in self._seats]
        if not rows:
            return []
        step, self._pending = self._pending, None
        if step is None or set(rows).isdisjoint(step.rows):
            step = self._launch()
        if self._lag and step.rows == rows and all(row.may_go_on for row in rows):
            self._pending = self._launch()
        # rows that have left since it was launched are passed over
        drawn = {row: numbers for row, numbers in zip(step.rows, step.numbers(), strict=True) if row in rows}
        for row, (token, *others) in drawn.items():
            _push(row, int(token), *others)
        return [row.ticket for row in drawn]

    def _launch(self) -> Pending:
        """Feed every row its last token and draw its next one, without waiting for it."""
        rows = [seat.row for seat in self._seats]
        if self._steady is None or self._steady.rows != rows:
            last = [seat.row.tokens[-1] if seat.row.tokens else seat.context[-1] for seat in self._seats]
            like = torch.empty(0, dtype=self._float, device=self._device)
            self._steady = Steady(rows, last, self._batch, like, self._steady)
        self._serial_steps += 1
        self._row_steps += len(rows)
        steady = self._steady
        if self._static and self._static.fits(self._batch):
            self._forward_calls += 1
            logits = self._static(self._batch, steady.tokens, steady.positions, steady.pads)
        else:
            logits = self._forward(self._batch, steady.tokens, steady.positions, steady.pads)
        return steady.choose(logits[:, -1, : self.vocab_size])

    def _feed(self, batch: BatchCache, pieces: Sequence[Tokens], *, keep: int | torch.Tensor) -> torch.Tensor:
        """Append a piece to every row of `batch`. Returns the logits of the last `keep` positions, or of these
        positions, or of all for a model that has no such argument: (rows, positions, vocabulary).

        Shorter pieces are padded on the right, where nothing of theirs looks."""
        widest = max(map(len, pieces))
        tokens = torch.tensor([piece + (0,) * (widest - len(piece)) for piece in pieces])
        positions = torch.tensor(batch.lengths)[:, None] + torch.arange(widest)
        pads = torch.tensor(batch.pads)[:, None]
        tokens, positions, pads = (x.to(self._device) for x in (tokens, positions, pads))
        return self._forward(batch, tokens, positions, pads, keep if isinstance(keep, int) else keep.to(self._device))

    def _forward(
        self,
        batch: BatchCache,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        pads: torch.Tensor,
        keep: int | torch.Tensor = 1,
    ) -> torch.Tensor:
        """`_feed`, all of it on the device: (rows, new), (rows, new), (rows, 1)."""
        new = tokens.shape[1]
        batch.reserve(new)
        self._forward_calls += 1
        logits = self._logits(tokens, positions, batch.mask(new, pads), batch, keep)
        batch.advance(new)
        return logits

    def _choose(self, logits: torch.Tensor, seats: list[_Seat]) -> None:
        """Give every seat its next token, and wait for it."""
        base = logits[:, : self.vocab_size].to(self._device, self._float)
        laws = Laws.of([seat.row.draw.law for seat in seats], base)
        uniforms = torch.tensor([seat.row.uniform() for seat in seats], dtype=torch.float64)[:, None]
        allowed = [seat.row.allowed() for seat in seats]
        numbers = choose(base, laws, uniforms.to(base.device), allowed).tolist()
        for seat, (token, *others) in zip(seats, numbers, strict=True):
            _push(seat.row, int(token), *others)


def _logits(
    model: PreTrainedModel,
    accepted: Set[str],
    tokens: torch.Tensor,
    positions: torch.Tensor,
    mask: torch.Tensor | None,
    cache: Cache,
    keep: int | torch.Tensor = 1,
) -> torch.Tensor:
    arguments: dict[str, Any] = {
        "input_ids": tokens,
        "position_ids": positions,
        "attention_mask": mask,
        "past_key_values": cache,
        "use_cache": True,
        "logits_to_keep": keep,
    }
    logits: torch.Tensor = model(**{name: value for name, value in arguments.items() if name in accepted}).logits
    return logits


def _push(row: Row, token: int, logp: float, logq: float, *notes: float) -> None:
    """Tell a row its next token and those of the notes that its law asks for."""
    law = row.draw.law
    row.push(token, logp, logq, notes[int(not law.wants_entropy) : 1 + len(law.score_at)])


def _end_of(prompt: _Prompt) -> torch.Tensor:
    assert prompt.logits is not None, "a draw is seated after its prompt"
    return prompt.logits


def _input_device(model: PreTrainedModel) -> torch.device:
    """Where a model takes its tokens: where its embeddings are. Those that accelerate has put away are nowhere between
    two calls; its hook on the model knows where they come to, and brings the logits back there."""
    device: torch.device = model.get_input_embeddings().weight.device
    hook = getattr(model, "_hf_hook", None)
    return torch.device(hook.execution_device) if device.type == "meta" and hook is not None else device


def _masks_help(model: PreTrainedModel, device: torch.device) -> bool:
    """Whether a long step is faster with a mask, even one that hides nothing: on a processor, transformers' attention
    then reads the keys and values of a group of heads once, and without a mask torch repeats them for every head."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", 0)
    is_grouped = getattr(config, "num_key_value_heads", None) not in (None, heads)
    return device.type == "cpu" and is_grouped and hasattr(sdpa_attention, "pack_gqa")


def _refuse_uncuttable(model: PreTrainedModel) -> None:
    name = type(model).__name__
    if model.config.is_encoder_decoder or not model.can_generate():
        raise UnsupportedModelError(f"{name} is no causal language model; load one with AutoModelForCausalLM.")
    parameters = inspect.signature(model.forward).parameters
    cuttable = (DynamicLayer, DynamicSlidingWindowLayer)
    if model._is_stateful or "past_key_values" not in parameters:
        foreign = ["a recurrent state"]
    else:
        foreign = [type(x).__name__ for x in DynamicCache(config=model.config).layers if type(x) not in cuttable]
    if foreign:
        raise UnsupportedModelError(
            f"{name} keeps {foreign[0]}, which cannot be cut at a position, so suffixes cannot be redrawn from it. "
            "Use a model whose layers keep attention keys and values only (Llama, Qwen2/3, Mistral, Gemma, GPT-2, ...)."
        )
