"""Text of a growing token sequence, piece by piece, never half a character."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["Detokenizer"]

_MOST_BEGUN = 3  # tokens that can hold the beginning of a character: it has at most four bytes
_INCOMPLETE = "\ufffd"  # what a decoder prints for bytes that do not yet form a character


class Detokenizer:
    """Feeds on tokens, yields the text each one completes. The pieces join to the text of the whole sequence.

    A tokenizer's text for a token can depend on the token before (leading spaces, split characters), so a short window
    is decoded twice, without and with the new tokens, and the difference is the new text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._start = 0  # the window: from here ...
        self._read = 0  # ... to here is text that was given out
        self.text = ""
        self._marks = [(0, 0, 0)]  # after so many tokens: where the window stood, and how long the text was

    def push(self, *tokens: int) -> str:
        """The text that is complete with these tokens; may be empty."""
        new = self._advance(tokens)
        self._marks += [self._marks[-1]] * (len(tokens) - 1) + [(self._start, self._read, len(self.text))]
        return new

    def last(self, count: int) -> Sequence[int]:
        """The last tokens it was fed."""
        return self._tokens[-count:]

    def fork(self, length: int) -> Detokenizer:
        """A detokenizer that has been fed the first `length` tokens of this one. Nothing is decoded again."""
        fork = Detokenizer(self._decode)
        fork._tokens, fork._marks = self._tokens[:length], self._marks[: length + 1]
        fork._start, fork._read, end = fork._marks[-1]
        fork.text = self.text[:end]
        return fork

    def _advance(self, tokens: Sequence[int]) -> str:
        self._tokens += tokens
        before = self._decode(self._tokens[self._start : self._read])
        # what is older than a character that is begun never becomes one, and would be decoded again and again
        waits = _MOST_BEGUN if len(self._tokens) - self._read > _MOST_BEGUN else 0
        for end in range(len(self._tokens), len(self._tokens) - waits - 1, -1):
            after = self._decode(self._tokens[self._start : end])
            if not after.endswith(_INCOMPLETE):
                break
        if len(after) <= len(before) or (after.endswith(_INCOMPLETE) and not waits):
            return ""
        self._start, self._read = self._read, end
        self.text += after[len(before) :]
        return after[len(before) :]

    def flush(self) -> str:
        """What is left at the end: bytes that never became a character, as the tokenizer prints them."""
        before = self._decode(self._tokens[self._start : self._read])
        rest = self._decode(self._tokens[self._start :])[len(before) :]
        self._start = self._read = len(self._tokens)
        self.text += rest
        return rest
