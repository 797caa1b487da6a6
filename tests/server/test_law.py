"""The law of what the server answers to many clients at once: p(x)^alpha on a model that is enumerated."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import chain
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from power_sampling import PowerSampler
from power_sampling.server import app
from power_sampling.types import BaseLaw
from tests.support.base_law import enumerated
from tests.support.law import ALPHA, HORIZON, TABLE, assert_law, exact_law, table_tokenizer
from tests.support.server import listening

CLIENTS, DRAWS = 32, 4
FURTHER: Any = {"top_k": 3, "min_p": 0.05, "bad_words": ["aa"]}
ASKED: Any = {"messages": [{"role": "user", "content": "a"}]}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    mapping = {"name": "metropolis_hastings", "block_size": HORIZON, "num_steps": 12, "prefetch": 0}
    sampler = PowerSampler.from_model(TABLE, table_tokenizer(), sampler=mapping, alpha=ALPHA, max_new_tokens=HORIZON)
    with listening(app(sampler, name="M")) as url:
        yield f"{url}/v1"


def client_of(url: str) -> AsyncOpenAI:
    plain = httpx.AsyncClient(verify=False)  # no certificates are read for it
    return AsyncOpenAI(base_url=url, api_key="none", max_retries=0, http_client=plain)


async def whole(client: AsyncOpenAI, model: str, seed: int | None) -> str:
    answer = await client.chat.completions.create(model=model, seed=seed, **ASKED)
    return answer.choices[0].message.content or ""


async def streamed(client: AsyncOpenAI, model: str, seed: int | None) -> str:
    stream = await client.chat.completions.create(model=model, seed=seed, stream=True, **ASKED)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def drawn(url: str, model: str, first_seed: int | None = None) -> list[str]:
    """Clients with a connection each, half of them streaming, each asking once and again."""

    async def one(number: int) -> list[str]:
        async with client_of(url) as client:
            ask = streamed if number % 2 else whole
            seeds = [None if first_seed is None else first_seed + number * DRAWS + i for i in range(DRAWS)]
            return [await ask(client, model, seed) for seed in seeds]

    return list(chain.from_iterable(await asyncio.gather(*map(one, range(CLIENTS)))))


async def test_many_clients_are_answered_by_the_law_and_equal_seeds_equally(url: str) -> None:
    texts = await drawn(url, "M", first_seed=1)
    assert_law(texts, exact_law(ALPHA))
    async with client_of(url) as client:
        alone = [await (whole, streamed)[seed % 2](client, "M", seed) for seed in range(1, 13)]
    assert texts[:12] == alone, "whatever runs beside it, streamed or not"


async def test_the_models_name_decides_the_law(url: str) -> None:
    plain = await drawn(url, "M:plain")
    assert_law(plain, exact_law(1.0))
    with pytest.raises(AssertionError):  # the test can tell the two laws apart
        assert_law(plain, exact_law(ALPHA))


async def test_fields_that_change_p_are_honoured(url: str) -> None:
    fields: Any = {"top_p": 0.8, "logit_bias": {"1": 0.5}, "extra_body": FURTHER}
    async with client_of(url) as client:
        ask = client.chat.completions.create
        answers = [await ask(model="M:plain", seed=seed, **ASKED, **fields) for seed in range(100)]
        pinned = await ask(model="M", logit_bias={"1": 100}, **ASKED)
    told: Any = answers[0].choices[0]
    assert told.power_sampling["base_law"] == "top_k=3, top_p=0.8, min_p=0.05, logit_bias=1 tokens, bad_words=1 words"
    base, law = BaseLaw(((1, 0.5),), ((0, 0),), 3, 0.8, 0.05), dict[str, float]()
    for tokens, p in enumerated(lambda x: TABLE.logits((0, *x)), base, 1.0, HORIZON, 3).items():
        text = "".join("abc"[t] for t in tokens if t < 3)
        law[text] = law.get(text, 0.0) + p
    assert_law([answer.choices[0].message.content or "" for answer in answers], law)
    assert len(law) < len(exact_law(1.0)) and pinned.choices[0].message.content == "b" * HORIZON
