"""What a LangChain LLM (text in, text out) has to do, as a pytest class; LangChain ships one for chat models only.

    from langchain_power_sampling.testing import LLMIntegrationTests

    class TestMyLLM(LLMIntegrationTests):
        @property
        def llm_class(self): return MyLLM

        @property
        def llm_params(self): return {"model": "small", "max_tokens": 12, "seed": 1}

Needs pytest and pytest-asyncio with `asyncio_mode = "auto"`. Knows nothing of this project's classes.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, aclosing
from typing import Any
from uuid import UUID

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.llms import BaseLLM
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import LLMResult
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import ConfigurableField

__all__ = ["LLMIntegrationTests", "Recorder"]


class Recorder(BaseCallbackHandler):
    """What callbacks are told."""

    def __init__(self) -> None:
        self.starts: list[dict[str, Any]] = []
        self.tokens: list[str] = []
        self.ends: list[LLMResult] = []
        self.errors: list[BaseException] = []

    def on_llm_start(self, serialized: dict[str, Any], prompts: list[str], **kwargs: Any) -> None:
        self.starts.append({"prompts": prompts, **kwargs})

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.tokens.append(token)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        self.ends.append(response)

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.errors.append(error)


class LLMIntegrationTests(ABC):
    """Override the properties; a test that does not apply to a property left at None is skipped."""

    # ------------------------------------------------------------ what is tested

    @property
    @abstractmethod
    def llm_class(self) -> type[BaseLLM]:
        """The class under test."""

    @property
    def llm_params(self) -> dict[str, Any]:
        """Constructor arguments under which an answer is short, at least four tokens long, and always the same."""
        return {}

    def make_llm(self, **overrides: Any) -> BaseLLM:
        """An object with `llm_params`, under the overrides."""
        return self.llm_class(**{**self.llm_params, **overrides})

    @property
    def prompt(self) -> str:
        return "Tell me about the sea."

    @property
    def other_prompt(self) -> str:
        return "Count from one to ten."

    @property
    def call_params(self) -> dict[str, Any]:
        """Arguments of a call that shorten the answer to one or two tokens."""
        return {"max_tokens": 2}

    @property
    def long_params(self) -> dict[str, Any]:
        """Arguments of a call that make the answer take many seconds."""
        return {"max_tokens": 1000}

    @property
    def configurable_field(self) -> tuple[str, Any]:
        """A field, and a value of it that shortens the answer."""
        return "max_tokens", 2

    @property
    def sampling_params(self) -> dict[str, Any]:
        """Constructor arguments under which the answer depends on the seed."""
        return {}

    @property
    def token_ids(self) -> tuple[str, list[int]] | None:
        """A text and its tokens by the model's own tokenizer, nothing added."""
        return None

    @property
    def streams_text_as_it_comes(self) -> bool:
        """False where a method cannot settle text before its end."""
        return True

    @property
    def stop_cuts_the_answer(self) -> bool:
        """False where the method draws by the law of completions that end at a stop string: with another stop, another
        answer."""
        return True

    def broken(self, llm: BaseLLM) -> AbstractContextManager[None] | None:
        """A context in which the model raises a RuntimeError that says "broken" while generating."""
        return None

    @pytest.fixture
    def llm(self) -> BaseLLM:
        return self.make_llm()

    @pytest.fixture
    def recorder(self) -> Recorder:
        return Recorder()

    # ------------------------------------------------------------ one answer

    def test_invoke(self, llm: BaseLLM) -> None:
        """`invoke` answers with a text."""
        text = llm.invoke(self.prompt)
        assert isinstance(text, str)
        assert text

    async def test_ainvoke(self, llm: BaseLLM) -> None:
        """`ainvoke` gives the answer of `invoke`."""
        assert await llm.ainvoke(self.prompt) == llm.invoke(self.prompt)

    def test_prompt_is_not_echoed(self, llm: BaseLLM) -> None:
        """The answer does not begin with the prompt."""
        assert not llm.invoke(self.prompt).startswith(self.prompt)

    def test_chain(self, llm: BaseLLM) -> None:
        """Prompt | llm | parser."""
        chain = PromptTemplate.from_template("Tell me about {subject}.") | llm | StrOutputParser()
        assert chain.invoke({"subject": "the sea"}) == llm.invoke("Tell me about the sea.")

    # ------------------------------------------------------------ several

    def test_batch(self, llm: BaseLLM) -> None:
        """A batch gives the answers of single calls, in order; an empty one is answered."""
        answers = llm.batch([self.prompt, self.other_prompt])
        assert answers == [llm.invoke(self.prompt), llm.invoke(self.other_prompt)]
        assert llm.batch([]) == []

    async def test_abatch(self, llm: BaseLLM) -> None:
        """An async batch gives the answers of single calls."""
        answers = await llm.abatch([self.prompt, self.other_prompt])
        assert answers == [llm.invoke(self.prompt), llm.invoke(self.other_prompt)]

    def test_batch_with_max_concurrency(self, llm: BaseLLM) -> None:
        """`max_concurrency` changes no answer."""
        prompts: list[Any] = [self.prompt, self.other_prompt, self.prompt]
        assert llm.batch(prompts, {"max_concurrency": 2}) == llm.batch(prompts)

    def test_batch_tells_callbacks_of_every_prompt(self, llm: BaseLLM, recorder: Recorder) -> None:
        """Callbacks hear of every prompt of a batch, with tags and metadata."""
        prompts: list[Any] = [self.prompt, self.other_prompt]
        answers = llm.batch(prompts, {"callbacks": [recorder], "tags": ["t"], "metadata": {"m": 1}})
        assert sorted(start["prompts"][0] for start in recorder.starts) == sorted(prompts)
        assert all("t" in start["tags"] and start["metadata"]["m"] == 1 for start in recorder.starts)
        assert sorted(end.generations[0][0].text for end in recorder.ends) == sorted(answers)

    def test_n(self, llm: BaseLLM) -> None:
        """`n` gives several answers per prompt."""
        result = llm.generate([self.prompt, self.other_prompt], n=2)
        assert [len(generations) for generations in result.generations] == [2, 2]

    # ------------------------------------------------------------ streams

    def test_stream(self, llm: BaseLLM) -> None:
        """`stream` yields texts."""
        texts = list(llm.stream(self.prompt))
        assert all(isinstance(text, str) for text in texts)
        assert "".join(texts)

    async def test_astream(self, llm: BaseLLM) -> None:
        """`astream` yields the texts of `stream`."""
        assert "".join([text async for text in llm.astream(self.prompt)]) == "".join(llm.stream(self.prompt))

    def test_stream_joins_to_the_answer(self, llm: BaseLLM) -> None:
        """A stream joins to the answer of `invoke`."""
        assert "".join(llm.stream(self.prompt)) == llm.invoke(self.prompt)

    def test_stream_has_several_chunks(self, llm: BaseLLM) -> None:
        """A stream comes in several pieces."""
        if not self.streams_text_as_it_comes:
            pytest.skip("The method settles its text at the end.")
        assert len([text for text in llm.stream(self.prompt) if text]) > 1

    def test_stream_tells_callbacks_of_every_chunk(self, llm: BaseLLM, recorder: Recorder) -> None:
        """`on_llm_new_token` is called once per piece, and the whole arrives at the end."""
        texts = list(llm.stream(self.prompt, {"callbacks": [recorder]}))
        assert [token for token in recorder.tokens if token] == [text for text in texts if text]
        assert recorder.ends[0].generations[0][0].text == "".join(texts)

    async def test_astream_tells_callbacks_of_every_chunk(self, llm: BaseLLM, recorder: Recorder) -> None:
        """`on_llm_new_token` is called once per piece of an async stream."""
        texts = [text async for text in llm.astream(self.prompt, {"callbacks": [recorder]})]
        assert [token for token in recorder.tokens if token] == [text for text in texts if text]

    def test_stream_ends_with_the_facts(self, llm: BaseLLM, recorder: Recorder) -> None:
        """A stream ends with `finish_reason`."""
        list(llm.stream(self.prompt, {"callbacks": [recorder]}))
        (generation,) = recorder.ends[0].generations[0]
        assert (generation.generation_info or {})["finish_reason"] in ("stop", "length")

    async def test_astream_events(self, llm: BaseLLM) -> None:
        """`astream_events` carries the whole text."""
        events = [event async for event in llm.astream_events(self.prompt, version="v2")]
        streamed = [event["data"]["chunk"] for event in events if event["event"] == "on_llm_stream"]
        texts = [text async for text in llm.astream(self.prompt)]
        assert "".join(chunk if isinstance(chunk, str) else chunk.text for chunk in streamed) == "".join(texts)

    async def test_closing_astream_stops_the_work(self, llm: BaseLLM) -> None:
        """Closing an async stream stops the computation."""
        async with aclosing(llm.astream(self.prompt, **self.long_params)) as stream:  # type: ignore[type-var] # typed as an iterator, is a generator
            if self.streams_text_as_it_comes:
                await anext(stream)
        assert _comes_to_rest()
        assert llm.invoke(self.prompt)

    # ------------------------------------------------------------ what an answer says of itself

    def test_token_usage(self, llm: BaseLLM) -> None:
        """`llm_output` holds `token_usage`."""
        usage = (llm.generate([self.prompt, self.other_prompt]).llm_output or {})["token_usage"]
        assert usage["prompt_tokens"] > 0
        assert usage["completion_tokens"] > 0
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

    def test_model_name(self, llm: BaseLLM) -> None:
        """`llm_output` holds `model_name`."""
        assert (llm.generate([self.prompt]).llm_output or {})["model_name"]

    def test_finish_reason(self, llm: BaseLLM) -> None:
        """`generation_info` holds `finish_reason`."""
        result = llm.generate([self.prompt], **self.call_params)
        assert (result.generations[0][0].generation_info or {})["finish_reason"] == "length"

    def test_tokens_are_the_models_own(self, llm: BaseLLM) -> None:
        """`get_token_ids` counts with the model's own tokenizer."""
        if self.token_ids is None:
            pytest.skip("No reference: give `token_ids`.")
        text, ids = self.token_ids
        assert llm.get_token_ids(text) == ids
        assert llm.get_num_tokens(text) == len(ids)

    def test_ls_params(self, llm: BaseLLM) -> None:
        """Traces get provider, model, limit and stop strings."""
        params = llm._get_ls_params(stop=["x"])
        assert params["ls_provider"]
        assert params["ls_model_name"]
        assert params["ls_model_type"] == "llm"
        assert params["ls_stop"] == ["x"]
        assert params["ls_max_tokens"]

    # ------------------------------------------------------------ settings

    def test_call_params(self, llm: BaseLLM) -> None:
        """The settings of a call are honoured by `invoke`, `bind` and `stream`."""
        text, short = llm.invoke(self.prompt), llm.invoke(self.prompt, **self.call_params)
        assert 0 < len(short) < len(text)
        assert llm.bind(**self.call_params).invoke(self.prompt) == short
        assert len("".join(llm.stream(self.prompt, **self.call_params))) < len("".join(llm.stream(self.prompt)))

    def test_max_tokens(self, llm: BaseLLM) -> None:
        """`max_tokens`, the name LangChain's models share, is honoured."""
        assert len(llm.invoke(self.prompt, max_tokens=2)) < len(llm.invoke(self.prompt))

    def test_temperature(self) -> None:
        """`temperature` is a field and reaches traces."""
        assert self.make_llm(temperature=0.5)._get_ls_params()["ls_temperature"] == 0.5

    def test_unknown_argument_raises(self, llm: BaseLLM) -> None:
        """An unknown argument raises, in the constructor and in a call."""
        with pytest.raises(Exception, match="max_tokenz"):
            self.make_llm(max_tokenz=3)
        with pytest.raises(Exception, match="max_tokenz"):
            llm.invoke(self.prompt, max_tokenz=3)

    def test_seed(self) -> None:
        """The same `seed` gives the same answer, others give others."""
        texts = [self.make_llm(**self.sampling_params, seed=seed).invoke(self.prompt) for seed in (1, 1, 2, 3, 4)]
        assert texts[0] == texts[1]
        assert len(set(texts)) > 1

    def test_configurable_fields(self, llm: BaseLLM) -> None:
        """`configurable_fields` change the answer of a call, and only of that call."""
        name, value = self.configurable_field
        switchable = llm.configurable_fields(**{name: ConfigurableField(id="it")})
        text, short = llm.invoke(self.prompt), switchable.invoke(self.prompt, {"configurable": {"it": value}})
        assert switchable.invoke(self.prompt) == text
        assert len(short) < len(text)

    # ------------------------------------------------------------ stop strings

    def test_stop(self, llm: BaseLLM) -> None:
        """`stop` ends the answer and is no part of it."""
        word, cut = self._stop_word(llm)
        text = llm.invoke(self.prompt, stop=[word])
        assert word not in text
        assert text == cut or not self.stop_cuts_the_answer

    def test_stop_in_a_stream(self, llm: BaseLLM) -> None:
        """`stop` ends a stream and is no part of it."""
        word, cut = self._stop_word(llm)
        text = "".join(llm.stream(self.prompt, stop=[word]))
        assert word not in text
        assert cut.endswith(text) or not self.stop_cuts_the_answer

    def test_stop_in_a_batch(self, llm: BaseLLM) -> None:
        """`stop` ends every answer of a batch."""
        word, _ = self._stop_word(llm)
        answers = llm.batch([self.prompt, self.other_prompt], stop=[word])
        assert not any(word in answer for answer in answers)

    def test_stop_of_the_constructor_and_of_the_call(self, llm: BaseLLM) -> None:
        """`stop` is a field too, and that of a call comes first."""
        word, _ = self._stop_word(llm)
        stopping = self.make_llm(stop=[word])
        assert word not in stopping.invoke(self.prompt)
        assert stopping.invoke(self.prompt, stop=["never this"]) == llm.invoke(self.prompt)

    def _stop_word(self, llm: BaseLLM) -> tuple[str, str]:
        """Six characters in the middle of the answer, hardly one token, and what comes before them."""
        text = llm.invoke(self.prompt)
        middle = (len(text) + text.startswith(self.prompt) * len(self.prompt)) // 2  # some models echo the prompt
        word = text[middle : middle + 6]
        assert len(word) > 1, f"the answer is too short to be cut: {text!r}"
        return word, text[: text.index(word)]

    # ------------------------------------------------------------ the cache

    def test_cache(self) -> None:
        """The cache answers the same call again."""
        llm, recorder = self.make_llm(cache=InMemoryCache()), Recorder()
        config: Any = {"callbacks": [recorder]}
        assert llm.invoke(self.prompt, config) == llm.invoke(self.prompt, config)
        assert len(recorder.starts) == 1

    def test_cache_tells_calls_apart(self) -> None:
        """The cache tells calls with other settings apart."""
        llm, plain = self.make_llm(cache=InMemoryCache()), self.make_llm()
        text = llm.invoke(self.prompt)
        assert llm.invoke(self.prompt, **self.call_params) == plain.invoke(self.prompt, **self.call_params) != text

    def test_cache_tells_objects_apart(self) -> None:
        """The cache tells objects with other settings apart."""
        cache, (name, value) = InMemoryCache(), self.configurable_field
        text = self.make_llm(cache=cache).invoke(self.prompt)
        assert len(self.make_llm(cache=cache, **{name: value}).invoke(self.prompt)) < len(text)

    # ------------------------------------------------------------ errors

    @pytest.fixture
    def broken_llm(self, llm: BaseLLM) -> Iterator[BaseLLM]:
        llm.invoke(self.prompt, **self.call_params)  # loaded and working
        with self._broken(llm):
            yield llm

    def test_errors_propagate(self, broken_llm: BaseLLM, recorder: Recorder) -> None:
        """An error of the model reaches the caller, callbacks, and `return_exceptions`."""
        with pytest.raises(Exception, match="broken"):
            broken_llm.invoke(self.prompt, {"callbacks": [recorder]})
        assert len(recorder.errors) == 1
        (outcome,) = broken_llm.batch([self.prompt], return_exceptions=True)
        assert "broken" in str(outcome)

    def test_errors_propagate_from_a_stream(self, broken_llm: BaseLLM, recorder: Recorder) -> None:
        """An error of the model ends a stream and reaches callbacks."""
        with pytest.raises(Exception, match="broken"):
            list(broken_llm.stream(self.prompt, {"callbacks": [recorder]}))
        assert len(recorder.errors) == 1

    async def test_errors_propagate_in_an_event_loop(self, broken_llm: BaseLLM) -> None:
        """An error of the model reaches an async caller."""
        with pytest.raises(Exception, match="broken"):
            await broken_llm.ainvoke(self.prompt)

    def test_works_again_after_an_error(self, llm: BaseLLM) -> None:
        """After an error the next call works."""
        expected = llm.invoke(self.prompt)
        with self._broken(llm), pytest.raises(Exception, match="broken"):
            llm.invoke(self.prompt)
        assert llm.invoke(self.prompt) == expected

    def _broken(self, llm: BaseLLM) -> AbstractContextManager[None]:
        context = self.broken(llm)
        if context is None:
            pytest.skip("No way to break the model: give `broken`.")
        return context


def _comes_to_rest(seconds: float = 8.0) -> bool:
    """Whether the process stops computing within that time: half a second in which it uses a hundredth of one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = time.process_time()
        time.sleep(0.5)
        if time.process_time() - before < 0.01:
            return True
    return False
