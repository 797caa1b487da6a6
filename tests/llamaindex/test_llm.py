"""The LlamaIndex LLM: eight endpoints that agree, events, streams, concurrency, configuration, copies."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Settings, SummaryIndex
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.llms import LLM, ChatMessage, CompletionResponse, CustomLLM, ImageBlock, MessageRole, TextBlock
from llama_index.core.llms.loading import load_llm
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import TextNode

from llamaindex_power_sampling import PowerSamplingLLM
from llamaindex_power_sampling.testing import Limiter, Recorder
from power_sampling import (
    ConfigurationError,
    ContextOverflowError,
    InputError,
    MetropolisHastings,
    ModelNotFoundError,
    PowerSampler,
    PowerSamplingError,
    RequestTimeoutError,
)
from tests.support.tiny import tiny_model, tiny_tokenizer

MH = {"name": "metropolis_hastings", "block_size": 4, "num_steps": 1}
SMC = {"name": "sequential_monte_carlo", "num_particles": 2, "block_size": 4}
SAMPLERS = [pytest.param(s, id=s["name"]) for s in (MH, SMC, {"name": "ancestral"})]
QUESTION = "Why is the sky blue?"


# ---------------------------------------------------------------- models under test


@pytest.fixture(scope="module")
def objects() -> tuple[Any, Any]:
    """A random Llama over bytes with a chat template, and a window that retrieved documents fit in."""
    model = tiny_model(layers=1)
    model.config.max_position_embeddings = 16384
    return model, tiny_tokenizer()


@pytest.fixture(scope="module")
def kept(objects: tuple[Any, Any]) -> PowerSamplingLLM:
    """Holds the model's handle for the module."""
    return PowerSamplingLLM.from_model(*objects)


@pytest.fixture
def make(objects: tuple[Any, Any], kept: PowerSamplingLLM) -> Callable[..., PowerSamplingLLM]:
    """An LLM on the tiny chat model, short and seeded."""

    def build(**fields: Any) -> PowerSamplingLLM:
        return PowerSamplingLLM.from_model(*objects, **{"sampler": MH, "max_new_tokens": 6, "seed": 3, **fields})

    return build


@pytest.fixture
def llm(make: Callable[..., PowerSamplingLLM]) -> PowerSamplingLLM:
    return make()


@pytest.fixture(scope="module")
def base_llm() -> PowerSamplingLLM:
    """On a tiny model without a chat template."""
    tokenizer = tiny_tokenizer(chat_template=None)
    return PowerSamplingLLM.from_model(tiny_model(layers=1), tokenizer, sampler="ancestral", max_new_tokens=6, seed=5)


def user(text: str = QUESTION) -> list[ChatMessage]:
    return [ChatMessage(text)]


async def collected(stream: AsyncGenerator[Any, None]) -> list[Any]:
    return [chunk async for chunk in stream]


async def all_eight(llm: PowerSamplingLLM, text: str = QUESTION, **kwargs: Any) -> dict[str, list[Any]]:
    """Every endpoint's responses to one text."""
    return {
        "complete": [llm.complete(text, **kwargs)],
        "acomplete": [await llm.acomplete(text, **kwargs)],
        "stream_complete": list(llm.stream_complete(text, **kwargs)),
        "astream_complete": await collected(await llm.astream_complete(text, **kwargs)),
        "chat": [llm.chat(user(text), **kwargs)],
        "achat": [await llm.achat(user(text), **kwargs)],
        "stream_chat": list(llm.stream_chat(user(text), **kwargs)),
        "astream_chat": await collected(await llm.astream_chat(user(text), **kwargs)),
    }


def text_of(response: Any) -> str:
    text = response.text if isinstance(response, CompletionResponse) else response.message.content
    assert isinstance(text, str)
    return text


def tokens_of(llm: PowerSamplingLLM, given: Any, formatted: bool = False) -> tuple[int, ...]:
    """What the model is given."""
    return llm._runtime.encode(prompt_of(llm, given, formatted))


def prompt_of(llm: PowerSamplingLLM, given: Any, formatted: bool = False) -> Any:
    return (llm._completion(given, formatted, {}) if isinstance(given, str) else llm._chat(given, {})).prompt()


def spelled(llm: PowerSamplingLLM, given: Any, formatted: bool = False) -> str:
    """What the model is given, control tokens by name."""
    return "".join(llm._runtime._model.load().codec.token_strings(tokens_of(llm, given, formatted)))


class Steps:
    """Counts the rows of every step of a model that decodes any."""

    def __init__(self, llm: PowerSamplingLLM, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        loaded = llm._runtime._model.load()
        self.worker = loaded.worker
        step = loaded.engine.step

        def counted() -> Any:
            stepped = step()
            self.rows.append(len(stepped.decoded))
            return stepped

        monkeypatch.setattr(loaded.engine, "step", counted)

    async def reach(self, number: int) -> None:
        while len(self.rows) < number:
            await asyncio.sleep(0.002)

    async def end(self) -> None:
        """Until no request is live."""
        while self.worker._live or self.worker._inbox:
            await asyncio.sleep(0.002)


# ---------------------------------------------------------------- the contract


def test_is_a_llamaindex_llm(llm: PowerSamplingLLM) -> None:
    assert isinstance(llm, LLM) and isinstance(llm, CustomLLM) and isinstance(llm, BaseLLM)
    assert llm.class_name() == "PowerSamplingLLM"


@pytest.mark.parametrize("sampler", SAMPLERS)
async def test_eight_endpoints_agree(make: Callable[..., PowerSamplingLLM], sampler: dict[str, Any]) -> None:
    llm = make(sampler=sampler)
    answers = await all_eight(llm)
    text = text_of(answers["complete"][0])
    assert text
    for name, chunks in answers.items():
        last = chunks[-1]
        assert text_of(last) == text, name
        usage = {k: v for k, v in last.raw["usage"].items() if k != "prompt_tokens_details"}  # of the call
        assert usage == answers["complete"][0].additional_kwargs == last.additional_kwargs, name
        assert last.raw["finish_reason"] == "length"
        json.dumps(last.raw)
        assert last.raw["power_sampling"]["sampler"] == sampler["name"]


@pytest.mark.parametrize("sampler", SAMPLERS)
async def test_streams_give_settled_text_and_facts_last(
    make: Callable[..., PowerSamplingLLM], sampler: dict[str, Any]
) -> None:
    answers = await all_eight(make(sampler=sampler))
    for name in ("stream_complete", "astream_complete", "stream_chat", "astream_chat"):
        seen = ""
        for chunk in answers[name]:
            seen += chunk.delta
            assert text_of(chunk) == seen
        *before, last = answers[name]
        assert all(chunk.delta and chunk.raw is None and not chunk.additional_kwargs for chunk in before)
        assert last.raw["finish_reason"]
        assert len(before) > 1 or sampler["name"] != "ancestral"  # plain sampling settles every token at once


async def test_immediate_eos_still_yields_a_chunk() -> None:
    model, tokenizer = tiny_model(layers=1), tiny_tokenizer()
    model.generation_config.eos_token_id = list(range(300))
    answers = await all_eight(PowerSamplingLLM.from_model(model, tokenizer, sampler="ancestral", max_new_tokens=4))
    for name, chunks in answers.items():
        assert len(chunks) == 1, name
        assert text_of(chunks[0]) == ""
        assert chunks[0].raw["usage"]["completion_tokens"] == 1
        assert chunks[0].raw["finish_reason"] == "stop"


def test_logprobs_on_request(llm: PowerSamplingLLM) -> None:
    assert llm.complete(QUESTION).logprobs is None
    for response in (llm.complete(QUESTION, logprobs=True), llm.chat(user(), logprobs=True)):
        assert response.logprobs is not None
        assert len(response.logprobs) == response.raw["usage"]["completion_tokens"]
        assert sum(candidates[0].logprob for candidates in response.logprobs) == pytest.approx(response.raw["logp"])
    *_, last = llm.stream_chat(user(), logprobs=True)
    assert last.logprobs == response.logprobs


def test_metadata(make: Callable[..., PowerSamplingLLM], base_llm: PowerSamplingLLM) -> None:
    metadata = make(max_new_tokens=7).metadata
    assert (metadata.context_window, metadata.num_output, metadata.is_chat_model) == (16384, 7, True)
    assert metadata.is_function_calling_model
    assert not make(is_function_calling_model=False).metadata.is_function_calling_model
    assert not make(messages_to_prompt=str).metadata.is_function_calling_model
    assert not base_llm.metadata.is_function_calling_model
    assert metadata.system_role == MessageRole.SYSTEM
    assert make(context_window=512).metadata.context_window == 512
    assert not make(use_chat_template=False).metadata.is_chat_model
    assert not base_llm.metadata.is_chat_model


# ---------------------------------------------------------------- what the model is given


def test_complete_on_a_chat_model_is_chat_of_one_user_message(make: Callable[..., PowerSamplingLLM]) -> None:
    llm = make()
    assert tokens_of(llm, QUESTION) == tokens_of(llm, user())
    assert spelled(llm, "hi") == "<|user|>hi<|end|><|assistant|>"
    told = make(system_prompt="Be brief.")
    assert spelled(told, "hi") == "<|system|>Be brief.<|end|><|user|>hi<|end|><|assistant|>"
    assert spelled(told, user("hi")) == "<|user|>hi<|end|><|assistant|>"  # core adds it to chats where it wants one


def test_complete_on_a_base_model_is_text(base_llm: PowerSamplingLLM) -> None:
    assert spelled(base_llm, "hi") == "hi"
    assert spelled(base_llm, [ChatMessage("Be brief.", role="system"), ChatMessage("hi")]) == (
        "system: Be brief.\nuser: hi\nassistant: "
    )
    assert base_llm.chat(user()).message.role == MessageRole.ASSISTANT


def test_formatted_text_stands_as_it_is(make: Callable[..., PowerSamplingLLM]) -> None:
    llm = make(system_prompt="Be brief.", completion_to_prompt=lambda prompt: f"<<{prompt}>>")
    assert spelled(llm, "<|user|>hi<|end|>", formatted=True) == "<|user|>hi<|end|>"


def test_given_prompt_functions_replace_the_template(make: Callable[..., PowerSamplingLLM]) -> None:
    llm = make(completion_to_prompt=lambda prompt: f"Q: {prompt}", messages_to_prompt=lambda ms: f"{len(ms)} messages")
    assert spelled(llm, "hi") == "Q: hi"
    assert spelled(llm, user()) == "1 messages"


@pytest.mark.parametrize("is_chat", [True, False])
def test_complete_gets_what_predict_gets(
    make: Callable[..., PowerSamplingLLM], monkeypatch: pytest.MonkeyPatch, is_chat: bool
) -> None:
    fields: dict[str, Any] = {} if is_chat else {"completion_to_prompt": lambda prompt: f"Q: {prompt}"}
    llm = make(use_chat_template=is_chat, system_prompt="Be brief.", **fields)
    given: list[Any] = []
    generate = PowerSampler.generate

    def recorded(self: PowerSampler, prompts: Any, **kwargs: Any) -> Any:
        given.extend(prompts)
        return generate(self, prompts, **kwargs)

    monkeypatch.setattr(PowerSampler, "generate", recorded)
    assert llm.predict(PromptTemplate("What is {x}?"), x="rain") == llm.complete("What is rain?").text
    assert given[0] == given[1]


def test_roles_and_blocks(llm: PowerSamplingLLM) -> None:
    messages = prompt_of(llm, [ChatMessage("x", role=role) for role in MessageRole]).messages
    roles = [message["role"] for message in messages]
    assert set(roles) == {"system", "user", "assistant", "tool"}
    two = ChatMessage(blocks=[TextBlock(text="one"), TextBlock(text="two")])
    assert spelled(llm, [two, ChatMessage(role="assistant")]).startswith("<|user|>one\ntwo<|end|><|assistant|>")
    with pytest.raises(InputError, match="ImageBlock"):
        llm.chat([ChatMessage(blocks=[TextBlock(text="see"), ImageBlock(image=b"x")])])


# ---------------------------------------------------------------- settings of one call


async def test_keyword_arguments_override_for_one_call(llm: PowerSamplingLLM) -> None:
    for name, chunks in (await all_eight(llm, sampler="ancestral", alpha=1, max_tokens=3)).items():
        assert chunks[-1].raw["power_sampling"]["sampler"] == "ancestral", name
        assert chunks[-1].raw["usage"]["completion_tokens"] == 3
    text = llm.complete(QUESTION, sampler="ancestral").text
    assert llm.complete(QUESTION, sampler="ancestral", stop=[text[2]]).text == text[: text.index(text[2])]
    assert llm.complete(QUESTION, seed=6).text != llm.complete(QUESTION).text
    assert isinstance(llm.sampler, MetropolisHastings)


def test_unknown_or_fixed_arguments_of_a_call_are_refused(llm: PowerSamplingLLM) -> None:
    for bad in ({"aplha": 2}, {"model": "other"}, {"alpha": 0.5}, {"max_tokens": 3, "max_new_tokens": 4}):
        with pytest.raises(ConfigurationError):
            llm.complete(QUESTION, **bad)
        with pytest.raises(ConfigurationError):  # before the stream is read
            llm.stream_chat(user(), **bad)
    with pytest.raises(ConfigurationError, match="context_overflow: a field of the object, not of a call"):
        llm.complete(QUESTION, context_overflow="shrink_output")


def test_assigned_settings_act_from_the_next_call(llm: PowerSamplingLLM) -> None:
    llm.max_new_tokens = 2
    assert llm.complete(QUESTION).raw["usage"]["completion_tokens"] == 2
    assert llm.metadata.num_output == 2
    with pytest.raises(ConfigurationError, match="fixed"):
        llm.model = "other"
    llm.alpha = 0.5
    with pytest.raises(ConfigurationError, match="alpha"):
        llm.complete(QUESTION)


def test_errors_are_the_projects_and_no_value_errors(make: Callable[..., PowerSamplingLLM]) -> None:
    llm = make(max_new_tokens=20000)
    with pytest.raises(ContextOverflowError):
        llm.complete(QUESTION)
    with pytest.raises(ContextOverflowError):
        list(llm.stream_complete(QUESTION))
    with pytest.raises(RequestTimeoutError):
        make(max_new_tokens=4000, timeout=0.01).complete(QUESTION)
    with pytest.raises(InputError):
        llm.chat([])
    assert not issubclass(PowerSamplingError, (ValueError, TypeError))


# ---------------------------------------------------------------- configuration


def test_unknown_fields_are_refused_with_a_hint() -> None:
    for wrong, right in (("aplha", "alpha"), ("contxt_window", "context_window"), ("sytem_prompt", "system_prompt")):
        with pytest.raises(ConfigurationError, match=f"Did you mean '{right}'"):
            PowerSamplingLLM(**{wrong: 2})
    for bad in ({"alpha": 0.5}, {"context_window": 0}, {"system_prompt": 3}, {"num_output": 3, "max_new_tokens": 4}):
        with pytest.raises(ConfigurationError):
            PowerSamplingLLM(**bad)
    with pytest.raises(ConfigurationError, match=r"^context_overflow: Input should be .*, got 'truncate'\.$"):
        PowerSamplingLLM(context_overflow="truncate")


def test_names_of_the_horizon() -> None:
    for name in ("max_new_tokens", "num_output", "max_tokens"):
        assert PowerSamplingLLM(**{name: 9}).max_new_tokens == 9
    assert PowerSamplingLLM(num_output=9, max_new_tokens=9).max_new_tokens == 9


def test_arguments_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "power_sampling.yaml"
    file.write_text(
        "model: from-file\nalpha: 2\ntemperature: 0.5\nsampler: {name: metropolis_hastings, num_steps: 3}\n"
    )
    monkeypatch.setenv("POWER_SAMPLING_ALPHA", "3")
    monkeypatch.setenv("POWER_SAMPLING_MODEL", "from-environment")
    llm = PowerSamplingLLM.from_config(file, model="argument", context_window=512, num_output=7)
    assert (llm.model, llm.alpha, llm.temperature, llm.context_window, llm.max_new_tokens) == (
        "argument",
        3.0,
        0.5,
        512,
        7,
    )
    assert llm.sampler == MetropolisHastings(num_steps=3)
    assert PowerSamplingLLM().alpha == 3.0
    assert PowerSamplingLLM(alpha=5).alpha == 5.0
    assert PowerSamplingLLM.from_config({"alpha": 2}).model == "from-environment"


def test_environment_reaches_objects(objects: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWER_SAMPLING_SAMPLER", "ancestral")
    monkeypatch.setenv("POWER_SAMPLING_USE_CHAT_TEMPLATE", "false")
    monkeypatch.setenv("POWER_SAMPLING_DEVICE", "cuda:7")  # for models that are yet to be loaded
    llm = PowerSamplingLLM.from_model(*objects, max_new_tokens=2)
    assert llm.sampler.name == "ancestral"
    assert not llm.metadata.is_chat_model
    with pytest.raises(ConfigurationError, match="device"):
        PowerSamplingLLM.from_model(*objects, device="cpu")


def test_dictionaries_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = PowerSamplingLLM(
        sampler=SMC, stop="\n", seed=3, system_prompt="Be brief.", context_window=99, model_kwargs={"a": 1}
    )
    monkeypatch.setenv("POWER_SAMPLING_ALPHA", "3")  # a dictionary is explicit, defaults included
    for back in (
        PowerSamplingLLM.from_dict(llm.to_dict()),
        PowerSamplingLLM.from_json(llm.to_json()),
        PowerSamplingLLM.model_validate(llm.model_dump()),
        load_llm(llm.to_dict()),
    ):
        assert isinstance(back, PowerSamplingLLM)
        assert back.to_dict() == llm.to_dict()
        assert back.sampler == llm.sampler


def test_payload_is_plain_and_loads_nothing() -> None:
    payload = PowerSamplingLLM(model="no/such-model", alpha=2.0, sampler="ancestral", num_output=3).to_payload()
    assert json.loads(json.dumps(payload)) == payload
    assert {
        "model": "no/such-model",
        "sampler": "ancestral",
        "alpha": 2.0,
        "temperature": 1.0,
    }.items() <= payload.items()


def test_nothing_is_loaded_before_it_is_needed(tmp_path: Path) -> None:
    llm = PowerSamplingLLM(model=str(tmp_path / "missing"))
    assert llm.to_payload()
    with pytest.raises(ModelNotFoundError):
        llm.complete(QUESTION)


# ---------------------------------------------------------------- copies and pickles


def _as_question(prompt: str) -> str:
    return f"Q: {prompt}"


def test_pickles_hold_settings_alone() -> None:
    llm = PowerSamplingLLM(sampler=SMC, alpha=2, completion_to_prompt=_as_question, context_window=99)
    llm.callback_manager = CallbackManager([TokenCountingHandler(tokenizer=lambda text: [threading.Lock()])])
    before = dict(llm.__dict__)
    pickled = pickle.dumps(llm)
    assert llm.__dict__ == before
    assert len(pickled) < 4000
    back = pickle.loads(pickled)
    assert back.to_dict() == llm.to_dict()
    assert back.completion_to_prompt is _as_question
    assert back._runtime._model is llm._runtime._model  # in one process, equal settings are one model


def test_what_cannot_be_pickled_says_so(llm: PowerSamplingLLM) -> None:
    with pytest.raises(ConfigurationError, match="from_model"):
        pickle.dumps(llm)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(PowerSamplingLLM(completion_to_prompt=lambda prompt: prompt))
    assert llm.complete(QUESTION).text


def test_copies_share_the_model(make: Callable[..., PowerSamplingLLM]) -> None:
    llm = make(callback_manager=CallbackManager([]), rate_limiter=threading.Lock())
    for twin in (copy.deepcopy(llm), copy.copy(llm), llm.model_copy(update={"alpha": 4.0})):
        assert twin._runtime is llm._runtime
        assert (twin.callback_manager, twin.rate_limiter) == (llm.callback_manager, llm.rate_limiter)
        twin.alpha = 2.0
    assert llm.alpha == 4.0


# ---------------------------------------------------------------- events


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    root, handler = get_dispatcher(), Recorder()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


async def test_one_event_per_call_with_true_counts(make: Callable[..., PowerSamplingLLM], recorder: Recorder) -> None:
    counter = TokenCountingHandler(tokenizer=list)
    llm = make(callback_manager=CallbackManager([counter]), sampler="ancestral")
    calls: dict[str, Callable[[], Any]] = {
        "complete": lambda: llm.complete(QUESTION),
        "chat": lambda: llm.chat(user()),
        "stream_complete": lambda: list(llm.stream_complete(QUESTION)),
        "stream_chat": lambda: list(llm.stream_chat(user())),
        "acomplete": lambda: llm.acomplete(QUESTION),
        "achat": lambda: llm.achat(user()),
        "astream_complete": lambda: drain(llm.astream_complete(QUESTION)),
        "astream_chat": lambda: drain(llm.astream_chat(user())),
    }
    for name, call in calls.items():
        result = call()
        if asyncio.iscoroutine(result):
            await result
        events = recorder.take()
        kinds = [type(event).__name__ for event in events]
        assert [kind.endswith("StartEvent") for kind in kinds].count(True) == 1, name
        assert [kind.endswith("EndEvent") for kind in kinds].count(True) == 1, name
        for event in events:
            event.model_dump_json()
            assert event.span_id and event.span_id.startswith(f"PowerSamplingLLM.{name}-")
        (count,) = counter.llm_token_counts
        assert (count.prompt_token_count, count.completion_token_count) == (len(tokens_of(llm, QUESTION)), 6), name
        counter.reset_counts()


async def drain(opening: Any) -> list[Any]:
    return [chunk async for chunk in await opening]


async def test_rate_limiter_is_asked_once_per_call(make: Callable[..., PowerSamplingLLM]) -> None:
    limiter = Limiter()
    await all_eight(make(rate_limiter=limiter, max_new_tokens=1))
    assert limiter.acquired == 8


# ---------------------------------------------------------------- concurrency


async def test_gathered_requests_are_one_batch_and_the_loop_goes_on(
    make: Callable[..., PowerSamplingLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = make(sampler={**MH, "prefetch": 0})
    steps = Steps(llm, monkeypatch)
    alone = [llm.complete(f"Question {i}?", seed=i).text for i in range(16)]
    assert set(steps.rows) <= {0, 1}
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticker = asyncio.create_task(tick())
    steps.rows.clear()
    together = await asyncio.gather(*[llm.acomplete(f"Question {i}?", seed=i) for i in range(16)])
    ticker.cancel()
    assert [response.text for response in together] == alone
    assert max(steps.rows) > 2
    assert ticks > 200  # a few for each call that blocks


def test_threads_of_mixed_endpoints(llm: PowerSamplingLLM) -> None:
    expected = [llm.complete(f"Question {i}?", seed=i).text for i in range(8)]
    results: dict[int, str] = {}

    def ask(i: int) -> None:
        ways: list[Callable[..., Any]] = [
            llm.complete,
            lambda text, **kw: list(llm.stream_complete(text, **kw))[-1],
            lambda text, **kw: llm.chat(user(text), **kw),
            lambda text, **kw: asyncio.run(llm.achat(user(text), **kw)),
        ]
        results[i] = text_of(ways[i % 4](f"Question {i}?", seed=i))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[i] for i in range(8)] == expected


def test_one_object_serves_one_event_loop_after_another(llm: PowerSamplingLLM) -> None:
    async def both() -> list[str]:
        chunks = await collected(await llm.astream_chat(user()))
        return [(await llm.acomplete(QUESTION)).text, text_of(chunks[-1])]

    assert asyncio.run(both()) == asyncio.run(both()) == [llm.complete(QUESTION).text] * 2


LONG = {"sampler": "ancestral", "max_new_tokens": 4000}


async def test_cancelling_a_task_stops_the_work(llm: PowerSamplingLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(llm, monkeypatch)
    for endpoint in (llm.acomplete, lambda text, **kw: drain(llm.astream_complete(text, **kw))):
        steps.rows.clear()
        task = asyncio.ensure_future(endpoint(QUESTION, **LONG))
        await steps.reach(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await steps.end()
        assert len(steps.rows) < 3000
        assert (await llm.acomplete(QUESTION)).text


async def test_closing_a_stream_stops_the_work(
    llm: PowerSamplingLLM, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> None:
    # the recorder keeps every event, and with the exception of a closed stream all that core's frames hold
    steps = Steps(llm, monkeypatch)
    stream = await llm.astream_chat(user(), **LONG)
    await anext(stream)
    await stream.aclose()
    del stream
    await steps.end()
    assert len(steps.rows) < 3000

    steps.rows.clear()
    sync_stream = llm.stream_complete(QUESTION, **LONG)
    next(sync_stream)
    sync_stream.close()
    del sync_stream
    await steps.end()
    assert len(steps.rows) < 3000
    assert llm.complete(QUESTION).text


async def test_a_stream_that_is_not_read_does_nothing(llm: PowerSamplingLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(llm, monkeypatch)
    stream = llm.stream_complete(QUESTION)
    astream = await llm.astream_complete(QUESTION)
    time.sleep(0.05)
    assert not steps.rows and not steps.worker._live
    stream.close()
    await astream.aclose()


# ---------------------------------------------------------------- LlamaIndex around it


@pytest.fixture
def documents() -> SummaryIndex:
    return SummaryIndex([TextNode(text=f"Document {i} says that {i} and {i} make {2 * i}.") for i in range(3)])


@pytest.fixture
def as_default(make: Callable[..., PowerSamplingLLM]) -> Iterator[PowerSamplingLLM]:
    """Settings.llm, and the helper core keeps from the first LLM it saw, as they were before."""
    before = Settings._llm, Settings._prompt_helper
    Settings._prompt_helper = None
    Settings.llm = make()
    yield Settings.llm
    Settings._llm, Settings._prompt_helper = before


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "accumulate"])
def test_query_engines_answer_through_settings(
    as_default: PowerSamplingLLM, documents: SummaryIndex, mode: str
) -> None:
    assert str(documents.as_query_engine(response_mode=mode).query("What is 2 and 2?"))


async def test_query_engines_in_a_running_loop(as_default: PowerSamplingLLM, documents: SummaryIndex) -> None:
    engine = documents.as_query_engine(response_mode="accumulate", use_async=True)
    blocking = str(engine.query("What is 2 and 2?"))  # core starts a second loop and blocks this one
    assert blocking == str(await engine.aquery("What is 2 and 2?"))


def test_streaming_query_engine(as_default: PowerSamplingLLM, documents: SummaryIndex) -> None:
    whole = str(documents.as_query_engine().query("What is 2 and 2?"))
    streamed = documents.as_query_engine(streaming=True).query("What is 2 and 2?")
    assert "".join(streamed.response_gen) == whole


async def test_chat_engine_keeps_the_conversation(as_default: PowerSamplingLLM, documents: SummaryIndex) -> None:
    memory = ChatMemoryBuffer.from_defaults(llm=as_default)  # the default one leaves an SQLite connection open
    engine = documents.as_chat_engine(chat_mode="context", llm=as_default, memory=memory)
    first = await engine.achat("Hello")
    streamed = engine.stream_chat("And now?")
    assert str(first) and "".join(streamed.response_gen)
    assert [message.role.value for message in engine.chat_history] == ["user", "assistant", "user", "assistant"]


# ---------------------------------------------------------------- the embedded model


async def test_embedded_model(embedded: PowerSampler) -> None:
    llm = PowerSamplingLLM(model="embedded", max_new_tokens=4, sampler="ancestral", temperature=0)
    assert llm._runtime._model is embedded._model  # equal model settings: the weights the session already holds
    assert llm.metadata.is_chat_model
    assert llm.metadata.context_window == embedded.context_window
    question = "What is the capital of France? Answer in one word."
    answers = await all_eight(llm, question)
    assert {text_of(chunks[-1]) for chunks in answers.values()} == {llm.complete(question).text}
    assert "Paris" in llm.complete(question, max_tokens=8).text
    assert llm.complete(question, sampler=MH, temperature=1.0, seed=1).raw["power_sampling"]["alpha"] == 4.0


@pytest.mark.parametrize(
    "message",
    [
        ChatMessage("x", role="assistant", additional_kwargs={"tool_calls": 3}),
        ChatMessage("x", role="assistant", additional_kwargs={"tool_calls": [3]}),
        ChatMessage("x", role="assistant", additional_kwargs={"tool_calls": [{"function": None}]}),
        ChatMessage("x", role="assistant", additional_kwargs={"tool_calls": [{"function": {"name": [3]}}]}),
        ChatMessage("x", role="tool", additional_kwargs={"tool_call_id": [3]}),
        ChatMessage("x", role="tool", additional_kwargs={"name": [3]}),
        ChatMessage("\ud800"),
    ],
)
def test_odd_messages_are_typed_errors(llm: PowerSamplingLLM, message: ChatMessage) -> None:
    with pytest.raises(InputError):
        llm.chat([ChatMessage("a"), message, ChatMessage("b")])


@pytest.mark.parametrize("prompt", [3, None, ["x"]])
def test_what_is_no_text_is_not_completed(llm: PowerSamplingLLM, prompt: Any) -> None:
    with pytest.raises(InputError, match="expected a text"):
        llm.complete(prompt)
