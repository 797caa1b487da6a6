"""A table model with a tokenizer, every text it can answer with its probability, and a test of counts against them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import product

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from power_sampling.testing import TableLM, completions, power_law
from power_sampling.types import Law, Termination


def table_tokenizer() -> PreTrainedTokenizerFast:
    vocab = {"a": 0, "b": 1, "c": 2, "<|eos|>": 3}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocab, unk_token="c"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|eos|>")
    fast.chat_template = "{{ messages[0]['content'] }}"
    return fast


TABLE, HORIZON, ALPHA = TableLM(4, seed=5, spread=1.0), 3, 2.0


def exact_law(alpha: float, log_phi: Callable[[list[str]], list[float]] | None = None) -> dict[str, float]:
    """Of every text, under p^alpha times a potential."""
    law: Counter[str] = Counter()
    chains = completions(TABLE, (0,), Termination(frozenset({3}), None), HORIZON, Law(alpha, 1.0, 1.0 / alpha))
    for chain, probability in zip(chains, power_law(chains, alpha), strict=True):
        law["".join("abc"[token] for token in chain.tokens if token < 3)] += float(probability)
    if log_phi is not None:
        weights = np.exp(log_phi(list(law)))
        total = sum(p * w for p, w in zip(law.values(), weights, strict=True))
        law = Counter({x: float(p * w / total) for (x, p), w in zip(law.items(), weights, strict=True) if w})
    return dict(law)


LAST_LETTER = f"{__name__}:last_letter"


def last_letter(text: str) -> str | None:
    """A parser of answers."""
    return text[-1:] or None


def law_of_a_vote_of_two() -> dict[str, float]:
    """Of the text that `marginal` returns over two plain samples, the answer being its last letter."""
    chains = completions(TABLE, (0,), Termination(frozenset({3})), HORIZON, Law(ALPHA, 1.0, 1.0))
    texts = ["".join("abc"[token] for token in chain.tokens if token < 3) for chain in chains]
    logps = [float(chain.logp.sum()) for chain in chains]
    law: dict[str, float] = {}
    for pair in product(range(len(chains)), repeat=2):
        voting = [k for k in pair if texts[k]] or list(pair)
        share: dict[str, float] = {}
        for k in voting:
            share[texts[k][-1:]] = share.get(texts[k][-1:], 0.0) + math.exp((ALPHA - 1) * logps[k])
        best = max(share, key=lambda a: share[a])
        winner = max((k for k in voting if texts[k][-1:] == best), key=lambda k: logps[k])
        law[texts[winner]] = law.get(texts[winner], 0.0) + math.exp(sum(logps[k] for k in pair))
    return law


def assert_law(texts: list[str], law: dict[str, float]) -> None:
    """Every text's count within 5 sigma of its expectation, texts expected fewer than 10 times counted together.

    Fewer than 30 cells, two-sided 5 sigma: the false-alarm probability is below 1e-4 per call by the normal tail
    (2e-5) with room for the binomial's.
    """
    counts = Counter(texts)
    assert set(counts) <= set(law)
    rare = {text for text, p in law.items() if p * len(texts) < 10}
    cells = [(counts[text], p) for text, p in law.items() if text not in rare]
    cells.append((sum(counts[text] for text in rare), sum(law[text] for text in rare)))
    for count, p in cells:
        assert abs(count - len(texts) * p) <= 5 * np.sqrt(len(texts) * p * (1 - p)) + 1e-9, (count, len(texts) * p)
