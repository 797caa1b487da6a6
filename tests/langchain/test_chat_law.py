"""The law of what ChatPowerSampling answers, by every way of asking: p(x)^alpha on a model that is enumerated."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, cast

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from langchain_power_sampling import ChatPowerSampling
from power_sampling.testing import TableLM, completions, power_law
from power_sampling.types import Law, Termination
from tests.support.chat import merged


def table_tokenizer() -> PreTrainedTokenizerFast:
    vocab = {"a": 0, "b": 1, "c": 2, "<|eos|>": 3}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocab, unk_token="c"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|eos|>")
    fast.chat_template = "{{ messages[0]['content'] }}"
    return fast


TABLE, HORIZON, ALPHA = TableLM(4, seed=5, spread=1.0), 3, 2.0
DRAWS, ONE_BY_ONE = 200, 120


def exact_law(alpha: float) -> dict[str, float]:
    law: Counter[str] = Counter()
    chains = completions(TABLE, (0,), Termination(frozenset({3}), None), HORIZON, Law(alpha, 1.0, 1.0 / alpha))
    for chain, probability in zip(chains, power_law(chains, alpha), strict=True):
        law["".join("abc"[token] for token in chain.tokens if token < 3)] += float(probability)
    return dict(law)


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


@pytest.fixture(scope="module")
def enumerable() -> ChatPowerSampling:
    sampler = {"name": "metropolis_hastings", "block_size": HORIZON, "num_steps": 12, "prefetch": 0}
    return ChatPowerSampling.from_model(TABLE, table_tokenizer(), sampler=sampler, alpha=ALPHA, max_new_tokens=HORIZON)


async def test_every_way_of_asking_has_the_law(enumerable: ChatPowerSampling) -> None:
    chat, law = enumerable, exact_law(ALPHA)
    assert sum(law.values()) == pytest.approx(1)
    assert_law([str(chat.invoke("a").content) for _ in range(ONE_BY_ONE)], law)
    assert_law([str(merged(list(cast("Any", chat.stream("a")))).content) for _ in range(ONE_BY_ONE)], law)
    assert_law(drawn(chat), law)
    assert_law([str(m.content) for m in await asyncio.gather(*[chat.ainvoke("a") for _ in range(DRAWS)])], law)


def drawn(chat: Any, number: int = DRAWS) -> list[str]:
    return [str(m.content) for m in chat.batch(["a"] * number, {"max_concurrency": 16})]


def test_alpha_one_is_plain_sampling(enumerable: ChatPowerSampling) -> None:
    plain = enumerable.bind(sampler="ancestral")
    for one in (plain, enumerable.bind(alpha=1.0)):
        assert_law(drawn(one), exact_law(1.0))
    with pytest.raises(AssertionError):  # the tests can tell the two laws apart
        assert_law(drawn(plain, ONE_BY_ONE), exact_law(ALPHA))
