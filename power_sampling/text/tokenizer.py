"""A copy of a tokenizer for one's own use, and an encoder of texts in which only marks are control tokens."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tokenizers import AddedToken, Encoding, Tokenizer

from power_sampling.text.control import BREAK, ControlTokens, Marks

__all__ = ["MarkedEncoder", "PiecewiseEncoder", "encoder_of", "private_copy"]


def private_copy(tokenizer: Any) -> Any:
    """A tokenizer of transformers that shares no setting with this one, for settings (padding, truncation, added
    tokens) are what calls from several threads corrupt.

    A fast tokenizer's vocabulary and merges never change and are shared: to copy them, `copy.deepcopy` writes all as
    JSON and parses that, and holds the interpreter for as long as it takes, a quarter of a second with large ones."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    shared = None if backend is None else _sharing_vocabulary(backend)
    return copy.deepcopy(tokenizer, None if shared is None else {id(backend): shared})


def _sharing_vocabulary(backend: Any) -> Any:
    """A copy of a `tokenizers.Tokenizer` around the same model; None where it would not be the same tokenizer."""
    if type(backend) is not Tokenizer:
        return None
    added = backend.get_added_tokens_decoder()
    shared = _around_model(backend, [added[i] for i in sorted(added)])
    shared.encode_special_tokens = backend.encode_special_tokens
    return shared if shared.get_added_tokens_decoder() == added else None


def _around_model(backend: Any, added: Sequence[Any]) -> Any:
    """Another tokenizer around the same model, with these added tokens."""
    # as JSON, for `copy.deepcopy` cannot make all kinds of parts anew; and before tokens are added, for a normalizer
    # says how they look in normalized text
    parts = {name: getattr(backend, name) for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder")}
    written = {name: None if part is None else json.loads(part.__getstate__()) for name, part in parts.items()}
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    tokenizer = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], **written, "model": empty}))
    tokenizer.model = backend.model
    tokenizer.add_tokens(list(added))
    return tokenizer


def encoder_of(tokenizer: Any, control: ControlTokens, marks: Marks) -> MarkedEncoder | PiecewiseEncoder:
    """The faster one where it can be had."""
    if isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
        encoder = MarkedEncoder(tokenizer, control, marks)
        if not encoder.is_ambiguous:
            return encoder
    return PiecewiseEncoder(tokenizer, control, marks)


class MarkedEncoder:
    """Token ids of a marked text: its marks are control tokens, and its letters are letters whatever they spell.

    It is a tokenizer that knows the marks in place of the control tokens: so a text has the ids that the tokenizer
    itself gives it, where nobody has written what spells a control token. One pass, from any thread, without a lock.
    """

    def __init__(self, tokenizer: Any, control: ControlTokens, marks: Marks) -> None:
        backend = tokenizer.backend_tokenizer
        known = backend.get_added_tokens_decoder()
        words = {i: token for i, token in known.items() if str(token) not in control.tokens}
        tokens = {control.tokens[token]: mark for token, mark in marks.of_token.items()}
        stand_ins = {i: _stand_in(mark, known[i], backend.normalizer) for i, mark in tokens.items()}
        added = dict(sorted({**words, **stand_ins}.items()))
        self._backend = _around_model(backend, [*added.values(), AddedToken(BREAK, normalized=False)])
        ids = {str(token): i for i, token in self._backend.get_added_tokens_decoder().items()}
        self._id_of = {ids[str(token)]: i for i, token in added.items()}
        self._break_id = ids[BREAK]
        model = self._backend.model
        self.is_ambiguous = any(model.id_to_token(i) not in (None, token) for token, i in ids.items())
        """Whether an id is a mark's and a word's too: where a vocabulary leaves numbers out."""
        self._forged_ids = control.ids - self._id_of.keys() - {self._break_id}
        self._unknown_id, self._unknown = tokenizer.unk_token_id, re.compile(re.escape(tokenizer.unk_token or ""))

    def ids(self, text: str) -> tuple[int, ...]:
        while True:
            (encoding,) = self._backend.encode_batch([text], add_special_tokens=False)
            if not (breaks := self._forged(text, encoding)):
                return tuple(self._id_of.get(i, i) for i in encoding.ids if i != self._break_id)
            pieces = [text[a:b] for a, b in pairwise([0, *breaks, len(text)])]
            text = BREAK.join(pieces)

    def _forged(self, text: str, encoding: Encoding) -> list[int]:
        """Where to break letters that the model itself takes for a control token: some vocabularies list them. A token
        of one letter is no more than that letter, and a word that is not known is no token either."""
        if self._forged_ids.isdisjoint(encoding.ids):
            return []
        breaks: list[int] = []
        for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if i == self._unknown_id:
                breaks += [found.start() + 1 for found in self._unknown.finditer(text, start, end)]
            elif i in self._forged_ids and end - start > 1:
                breaks.append(start + 1)
        return breaks


def _stand_in(mark: str, token: AddedToken, normalizer: Any) -> AddedToken:
    """A mark that is treated as the token it stands for: spaces beside it, for instance."""
    keeps_mark = normalizer is None or mark in normalizer.normalize_str(mark)
    return AddedToken(
        mark,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        single_word=token.single_word,
        normalized=token.normalized and keeps_mark,
    )


class PiecewiseEncoder:
    """The same for tokenizers written in Python, which read one piece after the other. Not safe from two threads."""

    def __init__(self, tokenizer: Any, control: ControlTokens, marks: Marks) -> None:
        self._tokenizer, self._control, self._marks = tokenizer, control, marks
        self._forged_ids = control.ids - {tokenizer.unk_token_id}

    def ids(self, text: str) -> tuple[int, ...]:
        pieces, letters = list(self._marks.pieces(text)), self._marks.letters(text)
        written = sum(is_token for _, is_token in pieces)
        if BREAK not in text and written == sum(1 for _ in self._control.found(letters)):
            return tuple(self._tokenizer(letters, add_special_tokens=False)["input_ids"])
        ids: list[int] = []
        for piece, is_token in pieces:
            ids += [self._control.tokens[piece]] if is_token else self._of_text(piece)
        return tuple(ids)

    def _of_text(self, text: str) -> list[int]:
        if BREAK in text:
            return [i for piece in text.split(BREAK) for i in self._of_text(piece)]
        ids = list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
        if len(text) < 2 or self._forged_ids.isdisjoint(ids):
            return ids
        return self._of_text(text[: len(text) // 2]) + self._of_text(text[len(text) // 2 :])
