"""Stop strings: a termination event like EOS, found across token borders and left out of the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from power_sampling.text.detokenizer import Detokenizer
from power_sampling.types import Tokens

__all__ = ["StopStrings", "StopWatch", "TextStream", "held_back"]

Decode = Callable[[Sequence[int]], str]


class StopStrings:
    """The stop rule of a request: a completion ends with the first token that completes a stop string in its text."""

    def __init__(self, stop: Sequence[str], decode: Decode) -> None:
        self.strings = tuple(stop)
        self._decode = decode
        self._reach = max(len(s) for s in self.strings) - 1

    def watch(self, tokens: Tokens) -> StopWatch:
        """A watch of a completion that starts with `tokens`."""
        detokenizer = Detokenizer(self._decode)
        for token in tokens:  # one by one, as if they had been watched
            detokenizer.push(token)
        return StopWatch(self, detokenizer)

    def is_completed_by(self, new: str, text: str) -> bool:
        """Whether a stop string ends in the last piece `new` of a text."""
        tail = text[-len(new) - self._reach :] if self._reach else new
        return bool(new) and any(s in tail for s in self.strings)

    def find(self, text: str) -> tuple[int, str] | None:
        """Where the earliest stop string begins, and which; the longest of those that begin there."""
        found = [(text.find(s), -len(s), s) for s in self.strings if s in text]
        if not found:
            return None
        at, _, string = min(found)
        return at, string


def held_back(text: str, markers: Sequence[str]) -> int:
    """Length of the longest end of `text` that could be the beginning of a marker."""
    reach = max(map(len, markers)) - 1
    return next((n for n in range(min(len(text), reach), 0, -1) if any(m.startswith(text[-n:]) for m in markers)), 0)


class StopWatch:
    """Follows one row."""

    def __init__(self, rule: StopStrings, detokenizer: Detokenizer) -> None:
        self._rule, self._detokenizer = rule, detokenizer

    def push(self, token: int) -> bool:
        """Told the next token: is a stop string complete now?"""
        new = self._detokenizer.push(token)
        return self._rule.is_completed_by(new, self._detokenizer.text)

    def fork(self, length: int) -> StopWatch:
        """A watch of the same row's first `length` tokens."""
        return StopWatch(self._rule, self._detokenizer.fork(length))


class TextStream:
    """Settled tokens in, text out that will never be retracted. The pieces join to the completion's text."""

    def __init__(self, decode: Decode, eos_ids: frozenset[int], stop: StopStrings | None) -> None:
        self._detokenizer = Detokenizer(decode)
        self._eos_ids, self._stop = eos_ids, stop
        self._seen = 0
        self._is_ended = False
        self.text = ""
        self.stopped_by: str | None = None

    def advance(self, settled: Sequence[int]) -> str:
        """New text for all settled tokens so far (each call repeats the earlier ones)."""
        for token in settled[self._seen :]:
            self._seen += 1
            if token in self._eos_ids:
                return self._release(final=True)
            self._detokenizer.push(token)
        return self._release(final=False)

    def finish(self, tokens: Sequence[int]) -> str:
        """The rest of the text, once the completion is known."""
        return self.advance(tokens) + self._release(final=True)

    def _release(self, *, final: bool) -> str:
        if self._is_ended:
            return ""
        if final:
            self._is_ended = True
            self._detokenizer.flush()
        piece = self._detokenizer.text[len(self.text) :]  # where a stop string might begin was held back
        if self._stop:
            if found := self._stop.find(piece):
                end, self.stopped_by = found
                piece, self._is_ended = piece[:end], True
            elif not final:
                piece = piece[: len(piece) - held_back(piece, self._stop.strings)]
        self.text += piece
        return piece
