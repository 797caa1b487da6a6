"""A trial of a model at load: do numbers that come through the engine agree with full passes that keep nothing?

Some models count positions from the padding, some look at what comes later, some change with the length of a batch.
Nothing of that shows in a signature, so two texts go the engine's way: prefilled together, cut, forked, decoded beside
each other.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import torch
from transformers import DynamicCache, PreTrainedModel

from power_sampling.engines.torch.backend import TorchBackend
from power_sampling.engines.torch.forward import Forward
from power_sampling.engines.torch.keepers import keeper_of, under_every_name
from power_sampling.engines.torch.plain import input_device
from power_sampling.engines.torch.recurrent import is_recurrent
from power_sampling.errors import ModelError, UnsupportedModelError
from power_sampling.types import Tokens

__all__ = ["Gap", "first_right", "gap_of"]

F = TypeVar("F", bound=Forward)

LENGTH = 12  # tokens of a text
SHARED = 5  # that both begin with
# rows: which text, and where its pieces end: its beginning, a prefilled one, a step, one in decoding. The last row is a
# fork of the first; those that are prefilled to the same length pass through a recurrence side by side
ROWS = ((0, (SHARED, 8, 9, 12)), (1, (SHARED, 6, 7, 10)), (1, (SHARED, 8, 9, 12)), (1, (SHARED, SHARED, 6, 9)))
TRIES = 3  # texts before a model is refused: in few bits, one token may meet other experts in another batch
NOISY = 8.0  # times the noise between batch shapes that a gap may be
FLOORS = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 1e-2}  # of the range of logits; noise may be none
FLOOR = 5e-2  # of bfloat16 and fewer bits
STEPS = 4.0  # times what a recurrent model's own steps differ from its own passes that a gap may be
LOUDEST = 0.1  # of the range of logits, in any case: what differs by more is another model
WIDEST = 50.0  # nats below the most likely token from where on logits count alike: some models mask what they never say


log = logging.getLogger(__name__)


class Gap(NamedTuple):
    """The largest difference between logits, in parts of their range, and the most that the model's own ways explain:
    rounding, and `steps`, by which one token at a time differs from a piece in a recurrent model's own code."""

    size: float  # nan where there is one
    allowed: float
    steps: float = 0.0

    @property
    def is_small(self) -> bool:
        return self.size <= self.allowed


class Trial:
    """Two texts and what full passes of a model say about them."""

    def __init__(self, model: PreTrainedModel, seed: int = 0) -> None:
        self._model, self._seed = model, seed

    @torch.inference_mode()
    def gap(self, forward: Forward) -> Gap:
        """Between the logits that `forward` gives for texts in an engine's hands, and those of full passes."""
        backend = TorchBackend(self._model, forward)
        a, b = self._texts
        begun = [backend.empty, backend.empty]
        if backend.is_recurrent:  # which can be cut where it was copied
            begun = [state for state, _ in backend.prefill(begun, [a[:SHARED], b[:SHARED]])]
        at, prefilled = begun[0].length, ROWS[:-1]
        pieces = [self._texts[i][at : ends[1]] for i, ends in prefilled]
        rows, logits = zip(*backend.prefill([begun[i] for i, _ in prefilled], pieces), strict=True)
        backend.enter([*rows, rows[0].head(SHARED)], max_rows=len(ROWS))
        step = backend.feed(backend.batch, [self._texts[i][ends[1] : ends[2]] for i, ends in ROWS], keep=1)
        piece = backend.feed(backend.batch, [self._texts[i][ends[2] : ends[3]] for i, ends in ROWS], keep=3)
        found = torch.cat([torch.stack(logits), step.flatten(0, 1), piece.flatten(0, 1)])
        gap = self._gap(found, _at([self._full[i] for i, _ in ROWS]))
        return gap if gap.is_small else self._explained(found, gap)

    @torch.inference_mode()
    def sight(self) -> Gap:
        """Between the logits of what both texts begin with: nothing where a token sees only what comes before it."""
        first, second = self._full
        return self._gap(first[:SHARED], second[:SHARED])

    def _gap(self, found: torch.Tensor, expected: torch.Tensor) -> Gap:
        size, floor = _difference(found, expected), FLOORS.get(self._model.dtype, FLOOR)
        return Gap(size, floor if size <= floor else max(floor, NOISY * self._noise))

    def _explained(self, found: torch.Tensor, gap: Gap) -> Gap:
        """Allowing what a recurrent model's own steps differ by, if what was found is what its own cache says too."""
        if not is_recurrent(self._model) or keeper_of(self._model).is_elsewhere:
            return gap
        singly = [self._by_own_cache(text, range(SHARED, LENGTH)) for text in self._texts]
        steps = min(STEPS * _difference(torch.stack(singly), self._full), LOUDEST)
        own = [singly[i] for i, _ in ROWS], [self._by_own_cache(self._texts[i], ends) for i, ends in ROWS]
        is_own = min(_difference(found, _at(logits)) for logits in own) <= gap.allowed
        return Gap(gap.size, max(gap.allowed, steps), steps) if is_own else gap

    @cached_property
    def _texts(self) -> tuple[Tokens, Tokens]:
        ids = _plain_ids(self._model, 2 * LENGTH, self._seed)
        return tuple(ids[:LENGTH]), tuple(ids[:SHARED] + ids[LENGTH + SHARED :])

    @cached_property
    def _full(self) -> torch.Tensor:
        """Logits of both texts in one pass, (2, LENGTH, vocabulary)."""
        logits = _full_pass(self._model, self._texts)
        if not logits.isfinite().any(-1).all() or logits.isnan().any():
            raise ModelError(
                f"The logits of {type(self._model).__name__} are no numbers: its weights are broken, or its dtype "
                f"({self._model.dtype}) is too narrow for them. Try dtype='float32'."
            )
        return logits

    @cached_property
    def _noise(self) -> float:
        """Between one text alone and the same in the pass of both: of one length, so what is found is rounding."""
        return _difference(_full_pass(self._model, self._texts[:1])[0], self._full[0])

    def _by_own_cache(self, text: Tokens, ends: Sequence[int]) -> torch.Tensor:
        """Logits of a text by a cache of transformers that is fed it piece by piece, (LENGTH, vocabulary)."""
        names, found = inspect.signature(self._model.forward).parameters, []
        cache = DynamicCache(config=self._model.config)
        tokens = torch.tensor([text], device=input_device(self._model))
        bounds = sorted({0, *ends, LENGTH})
        for start, end in pairwise(bounds):
            positions = torch.arange(start, end, device=tokens.device)[None]
            given = {**under_every_name(cache), "position_ids": positions, "use_cache": True}
            given = {name: value for name, value in given.items() if name in names}
            found.append(self._model(input_ids=tokens[:, start:end], **given).logits)
        return torch.cat(found, 1)[0]


def _at(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of each row's text, those of the positions that are compared."""
    rows = [(row, ends) for row, (_, ends) in zip(logits, ROWS, strict=True)]
    prefilled = [row[[ends[1] - 1]] for row, ends in rows[:-1]]
    return torch.cat(
        [*prefilled, *(row[[ends[2] - 1]] for row, ends in rows), *(row[ends[2] : ends[3]] for row, ends in rows)]
    )


def gap_of(model: PreTrainedModel, forward: Forward) -> Gap:
    """How near a way to a model's logits comes to its own full passes."""
    return Trial(model).gap(forward)


def first_right(model: PreTrainedModel, ways: Sequence[F]) -> F:
    """The first of these ways to a model's logits that agrees with its full passes. Raises UnsupportedModelError where
    none does, ModelError where logits are no numbers. A window that holds no text of a trial is not tried."""
    window = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if isinstance(window, int) and 0 < window < LENGTH:
        return ways[0]
    reasons = []
    for forward in ways:
        reason = _reason(model, forward)
        if reason is None:
            return forward
        reasons.append(reason)
    raise UnsupportedModelError(
        f"{type(model).__name__} cannot be served: {reasons[0]}. Use another model (Llama, Qwen, Mistral, Gemma, "
        "GPT-2, ...); check_model=False serves it all the same, wrong numbers included."
    )


def _reason(model: PreTrainedModel, forward: Forward) -> str | None:
    """Why a way is not to be gone; None where it agrees."""
    reason = None
    for seed in range(TRIES):
        trial = Trial(model, seed)
        try:
            sight, gap = trial.sight(), trial.gap(forward)
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001 - a model's code raises what it likes
            return f"in a trial it raised {type(error).__name__}: {error!s:.300}"
        if sight.is_small and gap.is_small:
            if gap.steps:
                log.warning(
                    "%s computes one token otherwise than a piece of several, by up to %.2g of the logits' range: "
                    "log p are as near as that to each other.",
                    type(model).__name__,
                    gap.steps / STEPS,
                )
            return None
        if not sight.is_small:
            reason = (
                f"it is no causal language model: what comes later changes logits by {sight.size:.2g} of their range"
            )
        else:
            reason = (
                "in a trial of two texts of different lengths, cut and forked, logits differ from full passes by "
                f"{gap.size:.2g} of their range, where rounding explains {gap.allowed:.2g}; it counts positions from "
                "the padding, changes with the length of the batch, or computes a step otherwise than a piece"
            )
    return reason


def _full_pass(model: PreTrainedModel, texts: tuple[Tokens, ...]) -> torch.Tensor:
    tokens = torch.tensor(texts, device=input_device(model))
    logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest, over the range of what is expected."""
    a, b = (_below_the_best(x) for x in (found, expected))
    return float((a - b).abs().max() / b.abs().max().clamp(min=torch.finfo(b.dtype).tiny))


def _below_the_best(logits: torch.Tensor) -> torch.Tensor:
    logits = logits.to("cpu", torch.float64 if logits.dtype == torch.float64 else torch.float32)
    return (logits - logits.amax(-1, keepdim=True)).clamp(min=-WIDEST)


def _plain_ids(model: PreTrainedModel, number: int, seed: int) -> list[int]:
    """Ids without those that the configuration names: an image's place wants an image."""
    text = model.config.get_text_config(decoder=True)
    named: set[Any] = set()
    for config in (model.config, text):
        for name, value in vars(config).items():
            if "token" in name:
                named.update(value if isinstance(value, list) else [value] if isinstance(value, int) else [])
    random = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(text.vocab_size, (8 * number,), generator=random).tolist()
    plain = [i for i in ids if i not in named]
    return (plain if len(plain) >= number else ids)[:number]
