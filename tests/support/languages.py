"""Finite languages of which every legal completion is listed without a parser: texts, spelled in every way."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from power_sampling.config import GenerationConfig
from power_sampling.text.grammar import Grammars, answer_rule
from power_sampling.text.rules import Rules
from power_sampling.types import Termination, Tokens
from tests.support.tiny import tiny_tokenizer

MERGES = [
    ("a", "b"),
    ("b", "a"),
    ("ab", "ba"),
    ("c", "d"),
    ("t", "r"),
    ("u", "e"),
    ("tr", "ue"),
    ('"', "}"),
    ("b", "c"),
]


@cache
def tokenizer_of(*, merged: bool) -> PreTrainedTokenizerFast:
    """Single bytes, or some tokens of several characters besides."""
    if not merged:
        return tiny_tokenizer()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: i for i, piece in enumerate([*alphabet, *(a + b for a, b in MERGES)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|eos|>")


class Language:
    """A constraint and the texts it stands for."""

    def __init__(self, fields: dict[str, Any], texts: Sequence[str], *, merged: bool = False) -> None:
        self.fields, self.texts, self.tokenizer = fields, list(texts), tokenizer_of(merged=merged)
        self.eos: int = self.tokenizer.eos_token_id
        self.vocab_size = len(self.tokenizer)
        grammars = Grammars(self.tokenizer, frozenset({self.eos}), self.vocab_size, self.decode)
        self.rules = Rules(self.decode, grammars)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def termination(self, horizon: int, stop: tuple[str, ...] = ()) -> Termination:
        rule = answer_rule(GenerationConfig(**self.fields))
        return Termination(frozenset({self.eos}), stop, f"start: {rule}", horizon)

    def spellings(self, text: str) -> Iterator[Tokens]:
        if not text:
            yield ()
        for token in range(self.vocab_size - 1):
            piece = self._pieces[token]
            if piece and text.startswith(piece):
                yield from ((token, *rest) for rest in self.spellings(text[len(piece) :]))

    @property
    def _pieces(self) -> list[str]:
        return _pieces(self.tokenizer)

    def completions(self, horizon: int, stop: tuple[str, ...] = ()) -> set[Tokens]:
        """Every legal completion of at most `horizon` tokens, by the definition."""
        found: set[Tokens] = set()
        for text in self.texts:
            for tokens in self.spellings(text):
                at = self._stopped_after(tokens, stop)
                if at is None and len(tokens) <= horizon:
                    found.add(tokens if len(tokens) == horizon else (*tokens, self.eos))
                elif at is not None and at <= horizon:
                    head = self.decode(tokens[:at])
                    if head[: min(head.find(s) for s in stop if s in head)] in self.texts:
                        found.add(tokens[:at])
        return found

    def _stopped_after(self, tokens: Tokens, stop: tuple[str, ...]) -> int | None:
        ends = (n for n in range(1, len(tokens) + 1) if any(s in self.decode(tokens[:n]) for s in stop))
        return next(ends, None)

    def lengths(self) -> tuple[int, int]:
        """Tokens of the shortest and of the longest legal completion."""
        lengths = [len(tokens) for text in self.texts for tokens in self.spellings(text)]
        return min(lengths), max(lengths)


@cache
def _pieces(tokenizer: Any) -> list[str]:
    special = set(tokenizer.all_special_ids)
    return ["" if i in special else tokenizer.decode([i]) for i in range(len(tokenizer))]


def matching(pattern: str, alphabet: str, longest: int) -> list[str]:
    """Every text over an alphabet that Python's `re` takes for a match."""
    texts = ("".join(letters) for n in range(longest + 1) for letters in product(alphabet, repeat=n))
    return [text for text in texts if re.fullmatch(pattern, text)]


def written(*values: Any) -> list[str]:
    """Values as JSON."""
    return [json.dumps(value) for value in values]


def power_law_of(tables: Any, prompt: Tokens, found: Sequence[Tokens], alpha: float) -> list[float]:
    """p(x)^alpha / Z over these completions, straight from a table's logits."""
    log_pi = [alpha * float(tables.score(prompt, x, 1.0).sum()) for x in found]
    top = max(log_pi)
    total = sum(math.exp(v - top) for v in log_pi)
    return [math.exp(v - top) / total for v in log_pi]
