"""Prompts get their states: a piece of them per step, so that rows in decoding and cancellations do not wait long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from power_sampling.engines.stepped.allowance import Allowance
from power_sampling.engines.stepped.backend import Backend
from power_sampling.engines.stepped.budget import Budget
from power_sampling.engines.stepped.prefixes import PrefixCache, shared_length
from power_sampling.engines.stepped.sequence import Prompt
from power_sampling.types import Tokens

__all__ = ["Prefill"]

PREFILL_CHUNK = 512  # tokens of a prompt per step
PREFILL_ROWS = 8  # prompts in one pass, because their logits at each other's ends exist for a moment
MIN_SHARED = 16  # tokens that a prompt must share with another one for its prefill to wait for the other's


class Prefill:
    """Prefilling over a backend."""

    def __init__(self, backend: Backend, prefixes: PrefixCache, budget: Budget, allowance: Allowance) -> None:
        self._backend, self.prefixes, self._budget, self._allowance = backend, prefixes, budget, allowance
        self.tokens = 0  # so far

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Find or compute what is missing of these prompts: a piece, per step."""
        for prompt in prompts:
            self._recall(prompt)
        self.feed([prompt for prompt in prompts if prompt.missing])
        for prompt in prompts:
            if not prompt.missing:
                self._budget.measure(prompt.state)
                self.prefixes.put(prompt.tokens, prompt.state, prompt.logits)

    def feed(self, prompts: Sequence[Prompt]) -> None:
        """The next piece of the prompt that has waited longest for one, together with as many whole prompts as fit
        beside it. A prompt that begins like one of them waits, and finds their common beginning computed."""
        if not prompts:
            return
        prompts = sorted(prompts, key=lambda prompt: prompt.served)
        pieces = {prompts[0]: self._piece(prompts[0], prompts)}
        for prompt in prompts[1:]:
            widest = max(prompt.missing, *map(len, pieces.values()))
            if len(pieces) == PREFILL_ROWS or widest * (len(pieces) + 1) > self._allowance.chunk:
                continue
            if not any(self._waits_for(other, prompt) for other in pieces):
                pieces[prompt] = self._piece(prompt, prompts)
        fed = self._backend.prefill([prompt.state for prompt in pieces], list(pieces.values()))
        for (prompt, piece), (state, logits) in zip(pieces.items(), fed, strict=True):
            prompt.state, prompt.logits = state.keeping(()), logits
            if state.length in prompt.partings:
                self.prefixes.put(prompt.tokens[: state.length], prompt.state, logits)
            prompt.served = self._backend.forward_calls
            self.count(prompt, piece)

    def _piece(self, prompt: Prompt, prompts: Sequence[Prompt]) -> Tokens:
        """As much as is fed at one time. Where states can be cut at snapshots only, it ends where another prompt, known
        or waiting, parts from this one: their common beginning is kept as a prompt of its own."""
        start: int = prompt.state.length
        end = start + self._allowance.chunk
        if prompt.state.snapshots is not None and self.prefixes.capacity:
            shared = {shared_length(prompt.tokens, other.tokens) for other in prompts if other is not prompt}
            shared.add(self.prefixes.shared(prompt.tokens))
            prompt.partings |= {n for n in shared if n - start >= MIN_SHARED}
            end = min([end, *(n for n in prompt.partings if n > start)])
        return prompt.tokens[start:end]

    def extend(self, wanted: Sequence[tuple[Prompt, Any, Tokens]]) -> list[Any]:
        """For each prompt, the state of all these tokens of a row of it, from that of the first few. Pieces of one
        length go together: what rows of many lengths lack takes some log2 of the longest passes."""
        states = [state for _, state, _ in wanted]
        while pieces := self._alike(
            [tokens[state.length :] for state, (_, _, tokens) in zip(states, wanted, strict=True)]
        ):
            fed = self._backend.prefill([states[i] for i in pieces], list(pieces.values()))
            for (i, piece), (longer, _) in zip(pieces.items(), fed, strict=True):
                states[i] = longer.keeping(states[i].snapshots or ())  # not the ends of pieces on the way
                self.count(wanted[i][0], piece)
        return states

    def _alike(self, missing: Sequence[Tokens]) -> dict[int, Tokens]:
        """The next pieces of those that lack any, by their places, as many as fit of one length: of the longest, or of
        the power of two below it where there are more lengths than such powers."""
        lengths = {min(len(tokens), self._allowance.chunk) for tokens in missing if tokens}
        length = max(lengths, default=0)
        if len(lengths) > length.bit_length():
            length = 1 << (length.bit_length() - 1)
        most = max(1, min(PREFILL_ROWS, self._allowance.chunk // max(length, 1)))
        long_enough = [i for i, tokens in enumerate(missing) if tokens and len(tokens) >= length]
        return {i: missing[i][:length] for i in long_enough[:most]}

    def count(self, prompt: Prompt, piece: Tokens) -> None:
        """Note that a piece of this prompt, or of one of its rows, went through the model."""
        prompt.prefilled_tokens += len(piece)
        self.tokens += len(piece)

    def _recall(self, prompt: Prompt) -> None:
        """Take what other requests have left of this prompt, if that is more than it has."""
        state, logits = self.prefixes.find(prompt.tokens)
        if state.length > prompt.state.length:
            prompt.state, prompt.logits, prompt.reused_tokens = state, logits, state.length - prompt.prefilled_tokens

    def _waits_for(self, other: Prompt, prompt: Prompt) -> bool:
        if not self.prefixes.capacity:
            return False
        return shared_length(other.tokens, prompt.tokens) - int(prompt.state.length) >= MIN_SHARED
