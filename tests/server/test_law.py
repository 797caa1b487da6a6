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
from tests.support.law import ALPHA, HORIZON, TABLE, assert_law, exact_law, table_tokenizer
from tests.support.server import listening

CLIENTS, DRAWS = 32, 4
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
