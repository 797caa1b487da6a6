"""The likeliest tokens at every position of an answer: right, of the base law, paid by who asks, and shown by all."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from langchain_power_sampling import ChatPowerSampling
from langchain_power_sampling import PowerSamplingLLM as LangChainLLM
from llamaindex_power_sampling import PowerSamplingLLM as LlamaIndexLLM
from power_sampling import ConfigurationError, PowerSampler
from power_sampling.engines.choice import base_logits, log_law
from power_sampling.engines.stepped.engine import SteppedEngine
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.integrations import token_logprobs
from power_sampling.testing import TableBackend, TableLM
from power_sampling.types import BaseLaw, Law
from tests.support.law import table_tokenizer
from tests.support.served import ServedLM
from tests.support.tiny import tiny_model, tiny_tokenizer

MAKERS = {
    "torch": lambda: TorchLM(tiny_model(vocab_size=4, layers=1)),
    "table": lambda: TableLM(4, seed=5),
    "stepped": lambda: SteppedEngine(TableBackend(TableLM(4, seed=5))),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize(
    "fields", [{}, {"top_k": 2, "bad_words": ["ab"], "temperature": 0.7}, {"temperature": 0}], ids=str
)
def test_they_are_the_likeliest_of_the_base_law(make: Any, fields: dict[str, Any]) -> None:
    model = PowerSampler.from_model(make(), table_tokenizer(), max_new_tokens=100, alpha=1.5, sampler="ancestral")
    engine: Any = model._model.load().engine
    for c in model.generate(["c", "ca"], n=2, seed=3, top_logprobs=3, logit_bias={3: -3.0}, **fields):
        assert len(c.top_logprobs) == len(c.tokens)
        base = BaseLaw(((3, -3.0),), ((0, 1),) if "top_k" in fields else (), fields.get("top_k"))
        law = Law(1.0, fields.get("temperature") or 1.0, 1.0, base=base)
        prompt = model.encode("c") if c.prompt_tokens == 1 else model.encode("ca")
        for t in {0, len(c.tokens) // 2, len(c.tokens) - 1}:
            before = (*prompt, *c.tokens[:t])
            raw = np.array([engine.score(before, (v,), 1.0)[0] for v in range(4)])
            log_p = log_law(base_logits(raw, law, base.excluded(c.tokens[:t])), law.temperature)
            top = c.top_logprobs[t]
            assert [each.token for each in top] == [v for v in np.argsort(-log_p)[:3].tolist() if log_p[v] > -np.inf]
            assert [each.logp for each in top] == pytest.approx([log_p[each.token] for each in top], abs=1e-6)
            drawn = {each.token: each.logp for each in top}.get(c.tokens[t])
            assert drawn is None or drawn == pytest.approx(c.token_logp[t], abs=1e-6)
            assert all(each.text == model._model.load().codec.token_strings([each.token])[0] for each in top)


def test_who_does_not_ask_pays_nothing_and_the_answer_is_the_same() -> None:
    def run(**fields: Any) -> tuple[Any, int]:
        model = PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=70, alpha=1.2)
        found = model.generate(["ab"], n=2, seed=5, sampler="sequential_monte_carlo", **fields)
        return found, model._model.load().engine.cost.forward_calls  # type: ignore[attr-defined]

    plain, calls = run()
    told, more = run(top_logprobs=2)
    assert [c.tokens for c in plain] == [c.tokens for c in told] and not any(c.top_logprobs for c in plain)
    assert more - calls == sum(-(-len(c.tokens) // 64) for c in told), "one pass for 64 tokens of an answer"


def test_streams_and_tasks_have_them_too() -> None:
    model = PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=5, sampler="ancestral")
    whole = model.complete("ab", seed=1, top_logprobs=2)
    *_, last = model.stream("ab", seed=1, top_logprobs=2)
    assert last.completion is not None and last.completion.top_logprobs == whole.top_logprobs
    assert asyncio.run(model.acomplete("ab", seed=1, top_logprobs=2)).top_logprobs == whole.top_logprobs


def test_what_fails_meanwhile_is_one_request_s_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=5, sampler="ancestral")
    engine: Any = model._model.load().engine

    def broken(*args: Any) -> Any:
        raise RuntimeError("broken")
        yield

    monkeypatch.setattr(engine.backend, "ranked", broken)
    with pytest.raises(Exception, match="broken"):
        model.complete("ab", top_logprobs=2)
    assert model.complete("ab").tokens


def test_others_are_answered_meanwhile_and_who_gives_up_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=5, sampler="ancestral")
    engine, worker = model._model.load().engine, model._model.load().worker

    def endless(*args: Any) -> Any:
        while True:
            yield []

    monkeypatch.setattr(engine.backend, "ranked", endless)  # type: ignore[attr-defined]
    (waits,) = model._submit(["ab"], 1, {"top_logprobs": 2}, None)
    assert model.complete("cd").tokens
    assert not waits.job.is_over and waits.job in worker._live
    waits.job.cancel()
    assert model.complete("cd").tokens and waits.job not in worker._live


def test_an_engine_that_cannot_tell_refuses() -> None:
    served = ServedLM(TableLM(4, seed=1), lambda _: None)
    model = PowerSampler.from_model(served, table_tokenizer(), max_new_tokens=3)
    with pytest.raises(ConfigurationError, match="top_logprobs: this engine"):
        model.complete("a", top_logprobs=1)
    for wrong in (-1, 21):
        with pytest.raises(ConfigurationError, match="top_logprobs"):
            model.complete("a", top_logprobs=wrong)


def test_the_adapters_show_them() -> None:
    pair: Any = (tiny_model(layers=1), tiny_tokenizer())
    fields: Any = {"sampler": "ancestral", "max_new_tokens": 3, "seed": 1, "top_logprobs": 2}
    own = PowerSampler.from_model(*pair, **fields).complete("ab")
    facts = token_logprobs(own)
    assert [len(fact["top_logprobs"]) for fact in facts] == [2] * len(own.tokens)
    chat = ChatPowerSampling.from_model(*pair, use_chat_template=False, **fields).invoke("ab")
    shown_by_chat = chat.response_metadata["logprobs"]["content"]
    assert [fact.keys() for fact in shown_by_chat] == [fact.keys() for fact in facts]
    assert [len(fact["top_logprobs"]) for fact in shown_by_chat] == [2] * len(facts)
    llm = LangChainLLM.from_model(*pair, **fields, use_chat_template=False)
    info: Any = llm.generate(["ab"]).generations[0][0].generation_info
    assert info["logprobs"] == facts
    response = LlamaIndexLLM.from_model(*pair, **fields, use_chat_template=False).complete("ab")
    assert response.logprobs is not None
    shown = [[(each.token, each.logprob) for each in position] for position in response.logprobs]
    assert shown == [[(each["token"], each["logprob"]) for each in (fact, *fact["top_logprobs"])] for fact in facts]


def test_cached_tokens_of_the_prompt_are_told() -> None:
    pair: Any = (tiny_model(layers=1), tiny_tokenizer())
    fields: Any = {"sampler": "ancestral", "max_new_tokens": 3, "use_chat_template": False}
    chat = ChatPowerSampling.from_model(*pair, **fields)
    text, cached = "a prompt that is asked twice", list[int]()
    for message in (chat.invoke(text), chat.invoke(text), [*chat.stream(text)][-1]):
        usage = message.usage_metadata
        assert usage is not None
        cached.append(usage["input_token_details"]["cache_read"])
        details = message.response_metadata["token_usage"]["prompt_tokens_details"]
        assert details == {"cached_tokens": cached[-1]}
    assert cached == [0, usage["input_tokens"], usage["input_tokens"]]
    llm = LlamaIndexLLM.from_model(*pair, **fields)
    llm.complete(text)
    for raw in (llm.complete(text).raw, [*llm.stream_complete(text)][-1].raw):
        assert raw["usage"]["prompt_tokens_details"] == {"cached_tokens": len(text)}  # type: ignore[index]
