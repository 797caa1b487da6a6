"""A given start and a completion gone on from, through the whole engine and both adapters."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from llama_index.core.base.llms.types import ChatMessage

from langchain_power_sampling import ChatPowerSampling
from langchain_power_sampling import PowerSamplingLLM as LangChainLLM
from llamaindex_power_sampling import PowerSamplingLLM as LlamaIndexLLM
from power_sampling import ConfigurationError, InputError, PowerSampler
from power_sampling.engines.stepped.engine import SteppedEngine
from power_sampling.prepared import prepare
from power_sampling.testing import TableBackend, TableLM
from tests.support.law import ALPHA, HORIZON, TABLE, assert_law, exact_law, table_tokenizer
from tests.support.served import ServedLM
from tests.support.tiny import tiny_model, tiny_tokenizer

MH: Any = {"name": "metropolis_hastings", "num_steps": 3, "prefetch": 0}
GIBBS: Any = {"name": "particle_gibbs", "num_steps": 2, "num_particles": 2}


@pytest.fixture(scope="module")
def model() -> PowerSampler:
    return PowerSampler.from_model(
        tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=160, seed=3, alpha=1.5, sampler=MH, temperature=2.0
    )


@pytest.fixture(scope="module")
def small() -> PowerSampler:
    """An engine of rows and states over a table."""
    engine: Any = SteppedEngine(TableBackend(TableLM(4, seed=5)), prompt_memory=2**20)
    return PowerSampler.from_model(engine, table_tokenizer(), max_new_tokens=12, seed=3, alpha=1.5, sampler=MH)


def engine_of(sampler: PowerSampler) -> Any:
    return sampler._model.load().engine


def test_it_is_weighed_in_passes_behind_the_prompt_that_is_known(model: PowerSampler) -> None:
    text = "what a long start " * 8
    first = model.complete("hello", start=text)
    before = engine_of(model).cost
    again = model.complete("hello", start=text, time_budget=1e-9)
    tokens = model.token_ids(text)
    assert again.tokens[: len(tokens)] == tuple(tokens) and again.text == text
    assert again.diagnostics.tokens_reused == len(model.encode("hello"))
    fed = len(again.tokens) - 1
    assert again.diagnostics.tokens_prefilled == engine_of(model).cost.prefilled_tokens - before.prefilled_tokens == fed
    assert again.diagnostics.tokens_decoded == 0 and 2 <= again.diagnostics.serial_steps <= 1 + fed / 32
    assert first.diagnostics.tokens_decoded > 0 and first.diagnostics.exactness == "asymptotic"
    for c in (first, again):
        scored = engine_of(model).score(model.encode("hello"), c.tokens, 2.0)
        assert c.token_logp == pytest.approx(scored.tolist(), abs=1e-4)


def test_every_way_of_asking_starts_there(small: PowerSampler) -> None:
    asked: Any = {"start": "abc", "sampler": MH}
    one = small.complete("ab", **asked)
    assert [c.tokens for c in small.complete(["ab", "c", "ab"], **asked)][::2] == [one.tokens] * 2
    *_, last = small.stream("ab", **asked)
    assert last.completion is not None and last.completion.tokens == one.tokens
    assert asyncio.run(small.acomplete("ab", **asked)).tokens == one.tokens
    assert small.complete("ab", start=[*small.token_ids("abc"), *one.tokens[-1:]]) is not None
    frames = [frame for chunk in small.stream("ab", with_frames=True, **asked) for frame in chunk.frames]
    assert type(frames[0].event.step).__name__ == "Extended" and frames[0].texts == ("abc",)


def test_where_it_ends() -> None:
    table = PowerSampler.from_model(
        TableLM(4, seed=5), table_tokenizer(), max_new_tokens=6, alpha=2.0, time_budget=1e-9, sampler=MH
    )
    assert table.complete("c", start="ab").tokens == (0, 1, 3), "a text is a whole turn, which EOS ends"
    assert table.complete("c", start="").tokens == (3,)
    assert table.complete("c", start="abcabc").tokens == (0, 1, 2, 0, 1, 2), "or the horizon"
    assert table.complete("c", start=(0, 3, 1, 1, 1, 1, 1)).tokens == (0, 3), "nothing stands behind an EOS"
    stopped = table.complete("c", start="abcabcabc", stop=["ca"])
    assert (stopped.tokens, stopped.text, stopped.stop) == ((0, 1, 2, 0), "ab", "ca")
    onward = table.complete("c", start=(0, 1))
    assert onward.tokens[:2] == (0, 1) and (onward.tokens[-1] == 3 or len(onward.tokens) == 6)
    with pytest.raises(InputError, match=r"7 tokens.*max_new_tokens is 6"):
        table.complete("c", start="abcabca")
    with pytest.raises(InputError, match="no token of this model"):
        table.complete("c", start=(0, 9))
    with pytest.raises(InputError, match="excluded"):
        table.complete("c", start="ab", bad_words=["b"])
    with pytest.raises(ConfigurationError, match="makes no steps"):
        table.complete("c", start="ab", sampler="rejection")
    served = PowerSampler.from_model(ServedLM(TABLE, lambda _: None), table_tokenizer(), max_new_tokens=4, alpha=2.0)
    with pytest.raises(ConfigurationError, match="given tokens"):
        served.complete("c", start="ab")


def test_its_stream_of_chance_is_another_one_for_every_start(small: PowerSampler) -> None:
    def seed_of(**fields: Any) -> int:
        config = small.with_settings(**fields).generation
        asked = prepare("ab", small._model.load(), config).request(3, 0.0, None)
        return next(asked.make_sampler(lambda: False)).draws[0].seed

    seeds = [seed_of(), seed_of(start="a"), seed_of(start="b"), seed_of(start="a")]
    assert len(set(seeds)) == 3 and seeds[1] == seeds[3]


def test_a_constraint_holds_for_it(model: PowerSampler) -> None:
    with pytest.raises(InputError, match="excluded"):
        model.complete("hello", start="ab", regex="b+")
    with pytest.raises(InputError, match="excluded"):
        model.complete("hello", start="b", regex="bb+")
    legal = model.complete("hello", start="bbb", regex="b+", max_new_tokens=6)
    assert set(legal.text) == {"b"} and legal.diagnostics.exactness == "asymptotic"


# ---------------------------------------------------------------- both adapters


def starts(number: int) -> list[str]:
    """Texts of the law p^alpha."""
    law = exact_law(ALPHA)
    drawn = np.random.default_rng(7).choice(len(law), size=number, p=list(law.values()))
    return [list(law)[i] for i in drawn]


def test_through_both_adapters_a_start_of_the_law_gives_an_answer_of_the_law() -> None:
    """See `assert_law` for the probability of a false alarm."""
    fields: Any = {"sampler": {**MH, "num_steps": 1}, "alpha": ALPHA, "max_new_tokens": HORIZON}
    chat = ChatPowerSampling.from_model(TABLE, table_tokenizer(), **fields)
    index = LlamaIndexLLM.from_model(TABLE, table_tokenizer(), **fields)
    law, given = exact_law(ALPHA), starts(60)
    assert_law([str(chat.invoke("a", start=start).content) for start in given], law)
    found = [index.chat([ChatMessage("a")], start=start) for start in given]
    assert_law([str(response.message.content) for response in found], law)
    plain = LangChainLLM.from_model(TABLE, table_tokenizer(), **fields, seed=1)
    spent = plain.generate(["a"], start="ab", time_budget=1e-9).generations[0][0]
    assert spent.text == "ab" and spent.generation_info is not None
    hot: Any = {**MH, "num_steps": 1, "proposal_temperature": 50.0}
    mode = max(law, key=law.__getitem__)
    raw: Any = index.complete("a", start=mode, alpha=400.0, seed=1, sampler=hot).raw
    message = chat.invoke("a", start=mode, alpha=400.0, seed=1, sampler=hot)
    for facts in (raw, message.response_metadata):
        (warning,) = facts["power_sampling"]["warnings"]
        assert "did not move" in warning


# ---------------------------------------------------------------- gone on from


@pytest.mark.parametrize("sampler", [MH, {**MH, "cut": "entropy"}, GIBBS], ids=str)
def test_a_completion_is_gone_on_from_without_weighing_it_again(small: PowerSampler, sampler: Any) -> None:
    first = small.complete("ab", sampler=sampler)
    unmoved = first.resume(1, time_budget=1e-9)
    assert unmoved.token_logp == first.token_logp and unmoved.tokens == first.tokens
    assert unmoved.diagnostics.tokens_decoded == unmoved.diagnostics.tokens_prefilled == 0, "nothing is weighed"
    further = first.resume(num_steps=30)
    assert further.diagnostics.effective_steps is not None and further.diagnostics.exactness == "asymptotic"
    assert further.tokens == small.resume(first, 30).tokens == asyncio.run(first.aresume(30)).tokens
    assert further.seed != first.seed and further.resume().seed not in (first.seed, further.seed)
    assert first.resume(30, seed=5).tokens == first.resume(30, seed=5).tokens
    assert first.resume(2).diagnostics.sampler == sampler["name"]
    scored = engine_of(small).score(small.encode("ab"), further.tokens, 1.0)
    assert further.token_logp == pytest.approx(scored.tolist(), abs=1e-4)


def test_several_are_gone_on_from_as_one_batch(small: PowerSampler) -> None:
    chains = small.generate(["ab"], n=3, max_new_tokens=12)
    further = small.resume(chains, 12, seed=8)
    assert [c.tokens for c in further] == [chains[i].resume(12, seed=8 + i).tokens for i in range(3)]
    assert len({c.diagnostics.r_hat for c in further}) == 1 and further[0].diagnostics.r_hat is not None
    assert [c.tokens for c in asyncio.run(small.aresume(chains, 12, seed=8))] == [c.tokens for c in further]


def test_a_chat_and_an_alpha_of_one_are_gone_on_from() -> None:
    table = PowerSampler.from_model(TABLE, table_tokenizer(), max_new_tokens=HORIZON, alpha=1.0)
    first = table.chat([{"role": "user", "content": "a"}], sampler={**MH, "cut": "entropy"})
    assert first.diagnostics.exactness == "exact" and first.resume(4).reply is not None


def test_what_cannot_be_gone_on_from_says_so(small: PowerSampler) -> None:
    first = small.complete("ab", max_new_tokens=5)
    assert asdict(first)["tokens"] == first.tokens
    for resume in (replace(first, origin=None).resume, lambda: asyncio.run(replace(first, origin=None).aresume())):
        with pytest.raises(InputError, match="no sampler drew this"):
            resume()
    for lost in (pickle.loads(pickle.dumps(first)), copy.deepcopy(first)):
        assert lost == first
        with pytest.raises(InputError, match=r"start=completion\.tokens"):
            lost.resume()
        with pytest.raises(InputError, match="a copy"):
            asyncio.run(small.aresume(lost))
    with pytest.raises(InputError, match="makes no steps"):
        small.complete("ab", sampler="ancestral").resume()
    with pytest.raises(ConfigurationError, match="alpha stays"):
        small.resume(first, alpha=2.0)  # type: ignore[call-overload] # what is refused
    with pytest.raises(ConfigurationError, match="num_steps"):
        first.resume(-1)
    other = PowerSampler.from_model(TABLE, table_tokenizer(), max_new_tokens=3)
    for wrong in (first, "text", 5, None, [5], replace(first, origin=None)):
        with pytest.raises(InputError, match="this model drew"):
            other.resume(wrong)  # type: ignore[call-overload] # what is refused
    theirs = other.complete("a")
    del other
    gc.collect()
    with pytest.raises(InputError, match="model is gone"):
        theirs.resume()


# ---------------------------------------------------------------- what is said of chains


def test_chains_of_one_prompt_are_compared(small: PowerSampler) -> None:
    asked: Any = {"max_new_tokens": 12, "sampler": {**MH, "num_steps": 8}}
    found = small.generate(["ab", "c"], n=3, **asked)
    hats = [c.diagnostics.r_hat for c in found]
    assert hats[0] == hats[1] == hats[2] != hats[3] and None not in hats
    assert small.complete("ab", **asked).diagnostics.r_hat is None
    twice = small.complete(["ab", "ab"], **asked)  # with equal seeds they are one chain
    assert [c.diagnostics.r_hat for c in twice] == [None, None]
    stuck = small.generate(["ab"], n=3, **asked, alpha=1e4, temperature=40.0)
    assert any("disagree" in told for c in stuck for told in c.diagnostics.warnings) == (
        (stuck[0].diagnostics.r_hat or 0) > 1.1
    )


def test_nothing_is_said_where_there_is_nothing_to_say(small: PowerSampler) -> None:
    for sampler in ("ancestral", "best_of_n", {**MH, "num_steps": 30}):
        found = small.complete("ab", sampler=sampler, max_new_tokens=8).diagnostics
        assert found.warnings == () and found.to_dict()["warnings"] == []
