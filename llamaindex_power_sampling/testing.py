"""A conformance suite for LlamaIndex LLMs: what consumers rely on, as a pytest class. The ecosystem has none.

    from llamaindex_power_sampling.testing import LLMConformance

    class TestMyLLM(LLMConformance):
        def make_llm(self, **fields):
            return MyLLM(model="small", max_tokens=8, **fields)

`make_llm` makes an LLM that answers the same prompt with the same text. The other methods tell the suite what it cannot
know; a test whose answer is missing is skipped. Needs pytest, pytest-timeout, and pytest-asyncio with
`asyncio_mode = "auto"`. It is no part of the package's own import.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import pickle
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any, ClassVar

import pytest
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.llms import LLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index_instrumentation import get_dispatcher
from pydantic import BaseModel, PrivateAttr

__all__ = ["LLMConformance"]

KINDS = ("complete", "stream_complete", "chat", "stream_chat")
ENDPOINTS = tuple(prefix + kind for kind in KINDS for prefix in ("", "a"))


class Recorder(BaseEventHandler):
    """Keeps the events of every LLM."""

    _events: list[BaseEvent] = PrivateAttr(default_factory=list)

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        """Keep it."""
        self._events.append(event)

    def take(self) -> list[BaseEvent]:
        """What came since the last time."""
        events, self._events = self._events, []
        return events


class Limiter:
    """A rate limiter that counts."""

    def __init__(self) -> None:
        self.acquired = 0

    def acquire(self) -> None:
        self.acquired += 1

    async def async_acquire(self) -> None:
        self.acquired += 1


class Fact(BaseModel):
    """A fact."""

    subject: str
    number: int


def double(number: int) -> int:
    """Double a number."""
    return 2 * number


class LLMConformance:
    """Subclass it, name the class `Test...`, and implement `make_llm`."""

    prompt: ClassVar[str] = "Why is the sky blue?"
    other_prompt: ClassVar[str] = "Name a colour."
    streams_text_as_it_comes: ClassVar[bool] = True

    # ------------------------------------------------------------ what a subclass tells

    def make_llm(self, **fields: Any) -> LLM:
        """A short-answering LLM, made of these fields too; equal prompts get equal answers."""
        raise NotImplementedError

    @property
    def shorter(self) -> dict[str, Any] | None:
        """Arguments of a call that make its answer shorter."""
        return None

    @property
    def long(self) -> dict[str, Any] | None:
        """Fields of `make_llm` that make an answer take seconds, for tests that stop it."""
        return None

    @property
    def too_long(self) -> str | None:
        """A prompt that does not fit the context window."""
        return None

    def prompt_tokens(self, llm: Any, prompt: str) -> int | None:
        """How many tokens the model is given for a user's message, by its own tokenizer and template."""
        return None

    def broken(self, llm: Any) -> AbstractContextManager[None] | None:
        """A context in which the model of `llm` raises RuntimeError("broken")."""
        return None

    # ------------------------------------------------------------ fixtures

    @pytest.fixture
    def llm(self) -> LLM:
        return self.make_llm()

    @pytest.fixture
    def recorder(self) -> Iterator[Recorder]:
        root, handler = get_dispatcher(), Recorder()
        root.add_event_handler(handler)
        yield handler
        root.event_handlers.remove(handler)

    # ------------------------------------------------------------ the contract

    def test_class(self, llm: LLM) -> None:
        """It is a LlamaIndex LLM with a serialisation name of its own."""
        assert isinstance(llm, LLM) and isinstance(llm, BaseLLM)
        assert llm.class_name() not in ("base_component", "custom_llm")

    def test_formatted(self, llm: LLM) -> None:
        """`formatted` is the second argument of `complete` and of `stream_complete`."""
        text = llm.complete(self.prompt, True).text
        assert list(llm.stream_complete(self.prompt, True))[-1].text == text

    def test_metadata(self, llm: LLM) -> None:
        """Metadata names the model and leaves room for a prompt."""
        metadata = llm.metadata
        assert metadata.model_name not in ("", "unknown")
        assert 0 < metadata.num_output < metadata.context_window

    def test_unknown_field(self) -> None:
        """A misspelt field of the constructor raises."""
        with pytest.raises(Exception, match="temprature"):
            self.make_llm(temprature=0.5)

    def test_every_field_of_the_base(self) -> None:
        """The fields of every LLM are accepted: rate_limiter, callback_manager, system_prompt, output_parser."""
        llm = self.make_llm(
            rate_limiter=Limiter(), callback_manager=CallbackManager([]), system_prompt="Be brief.", output_parser=None
        )
        assert llm.system_prompt == "Be brief."

    # ------------------------------------------------------------ eight endpoints

    async def test_complete_is_the_chat_of_one_message(self, llm: LLM) -> None:
        """On a chat model, `complete(text)` answers what `chat` answers to that user message."""
        if not llm.metadata.is_chat_model:
            pytest.skip("no chat model")
        assert llm.complete(self.prompt).text == llm.chat([ChatMessage(self.prompt)]).message.content

    async def test_async_agrees(self, llm: LLM) -> None:
        """`acomplete` and `achat` answer what `complete` and `chat` answer."""
        assert (await llm.acomplete(self.prompt)).text == llm.complete(self.prompt).text
        messages = [ChatMessage(self.prompt)]
        assert (await llm.achat(messages)).message.content == llm.chat(messages).message.content

    async def test_streams_agree(self, llm: LLM) -> None:
        """Deltas join to the last text, which is the text of `complete` and `chat`; texts are cumulative."""
        whole, messages = llm.complete(self.prompt).text, [ChatMessage(self.prompt)]
        for texts, deltas in [
            _read(list(llm.stream_complete(self.prompt))),
            _read([chunk async for chunk in await llm.astream_complete(self.prompt)]),
        ]:
            assert "".join(deltas) == texts[-1] == whole
        whole = llm.chat(messages).message.content or ""
        for texts, deltas in [
            _read(list(llm.stream_chat(messages))),
            _read([chunk async for chunk in await llm.astream_chat(messages)]),
        ]:
            assert "".join(deltas) == texts[-1] == whole
            assert all(after.startswith(before) for before, after in pairwise(texts))

    def test_streams_come_in_pieces(self, llm: LLM) -> None:
        """A stream comes in several pieces."""
        if not self.streams_text_as_it_comes:
            pytest.skip("The method settles its text at the end.")
        assert sum(bool(chunk.delta) for chunk in llm.stream_complete(self.prompt)) > 1

    def test_stream_in_another_thread(self, llm: LLM) -> None:
        """A stream may be read in another thread than the one that opened it, as chat engines do."""
        stream, pieces = llm.stream_chat([ChatMessage(self.prompt)]), list[str]()
        thread = threading.Thread(target=lambda: pieces.extend(chunk.delta or "" for chunk in stream))
        thread.start()
        thread.join(60)
        assert "".join(pieces) == llm.chat([ChatMessage(self.prompt)]).message.content

    def test_prompt_by_keyword(self, llm: LLM) -> None:
        """The prompt may be a keyword argument; a call without one raises ValueError."""
        assert llm.complete(prompt=self.prompt).text == llm.complete(self.prompt).text
        with pytest.raises((ValueError, TypeError)):
            llm.complete()  # type: ignore[call-arg]  # that is the point

    def test_predict_is_complete(self, llm: LLM) -> None:
        """`predict` answers what `complete` answers, with a system prompt as without one."""
        for each in (llm, self.make_llm(system_prompt="You are brief.")):
            assert each.predict(PromptTemplate("{question}"), question=self.prompt) == each.complete(self.prompt).text

    def test_stream_gets_the_prompt_of_complete(self) -> None:
        """A system prompt reaches `complete` and `stream_complete` alike."""
        llm = self.make_llm(system_prompt="You are a pirate who answers in rhymes.")
        assert list(llm.stream_complete(self.prompt))[-1].text == llm.complete(self.prompt).text
        assert llm.complete(self.prompt).text != self.make_llm().complete(self.prompt).text

    # ------------------------------------------------------------ settings of a call

    def test_call_arguments(self, llm: LLM) -> None:
        """Keyword arguments of a call are honoured."""
        if self.shorter is None:
            pytest.skip("give `shorter`")
        assert len(llm.complete(self.prompt, **self.shorter).text) < len(llm.complete(self.prompt).text)

    def test_unknown_call_argument(self, llm: LLM) -> None:
        """A misspelt keyword argument of a call raises."""
        with pytest.raises(Exception, match="temprature"):
            llm.complete(self.prompt, temprature=0.5)

    def test_stop(self, llm: LLM) -> None:
        """`stop` ends an answer, and is no part of it."""
        text = llm.complete(self.prompt).text
        word = text[len(text) // 2 :][:3]
        assert word, f"the answer is too short to be cut: {text!r}"
        stopped = llm.complete(self.prompt, stop=[word]).text
        assert stopped == text[: text.index(word)]
        assert list(llm.stream_complete(self.prompt, stop=[word]))[-1].text == stopped

    def test_logprobs(self, llm: LLM) -> None:
        """`logprobs=True` gives one entry per token."""
        response = llm.complete(self.prompt, logprobs=True)
        assert response.logprobs and all(entry[0].logprob <= 0 for entry in response.logprobs)

    # ------------------------------------------------------------ messages

    def test_history_is_not_changed(self, llm: LLM) -> None:
        """The caller's messages stay as they are."""
        messages = [ChatMessage("Be brief.", role="system"), ChatMessage(self.prompt)]
        before = copy.deepcopy(messages)
        llm.chat(messages)
        list(llm.stream_chat(messages))
        assert messages == before

    def test_images_are_not_dropped(self, llm: LLM) -> None:
        """A block that the model cannot read raises; it is not left out silently."""
        with pytest.raises(Exception, match=r"(?i)image"):
            llm.chat([ChatMessage(blocks=[TextBlock(text="What is this?"), ImageBlock(image=b"x")])])

    def test_context_overflow(self, llm: LLM) -> None:
        """A prompt beyond the context window raises, and no error that synthesizers swallow."""
        if self.too_long is None:
            pytest.skip("give `too_long`")
        with pytest.raises(Exception) as caught:
            llm.complete(self.too_long)
        assert not isinstance(caught.value, (ValueError, TypeError))

    # ------------------------------------------------------------ events

    async def test_one_event_per_call(self, llm: LLM, recorder: Recorder) -> None:
        """Every endpoint is one start and one end event, so that calls are counted once."""
        for name, call in self._calls(llm).items():
            recorder.take()
            await call()
            kinds = [type(event).__name__ for event in recorder.take() if type(event).__name__.startswith("LLM")]
            assert [kind.endswith("StartEvent") for kind in kinds].count(True) == 1, name
            assert [kind.endswith("EndEvent") for kind in kinds].count(True) == 1, name

    async def test_events_are_json(self, llm: LLM, recorder: Recorder) -> None:
        """Every event can be exported as JSON."""
        for call in self._calls(llm).values():
            await call()
        for event in recorder.take():
            event.model_dump_json()

    async def test_token_counts(self) -> None:
        """TokenCountingHandler gets the true numbers from all eight endpoints."""
        counter = TokenCountingHandler(tokenizer=lambda text: [0] * 1_000_003)  # used where a response has no counts
        llm = self.make_llm(callback_manager=CallbackManager([counter]))
        expected = self.prompt_tokens(llm, self.prompt)
        for name, call in self._calls(llm).items():
            counter.reset_counts()
            await call()
            (count,) = counter.llm_token_counts
            assert 0 < count.completion_token_count < 1_000_003, name
            assert count.prompt_token_count == expected or (expected is None and count.prompt_token_count), name

    async def test_rate_limiter(self) -> None:
        """The rate limiter is asked once per call."""
        limiter = Limiter()
        for call in self._calls(self.make_llm(rate_limiter=limiter)).values():
            await call()
        assert limiter.acquired == len(ENDPOINTS)

    def test_payload(self, llm: LLM) -> None:
        """Events name the model and the temperature."""
        payload: dict[str, Any] = llm.to_payload()
        json.dumps(payload)
        assert payload["model"] and "temperature" in payload

    def test_raw_is_json(self, llm: LLM) -> None:
        """`raw` is plain JSON, with usage and finish reason, on the last chunk of a stream too."""
        for response in (llm.complete(self.prompt), *list(llm.stream_complete(self.prompt))[-1:]):
            raw: Any = json.loads(json.dumps(response.raw))
            assert raw["usage"]["completion_tokens"] > 0
            assert raw["finish_reason"] in ("stop", "length")

    # ------------------------------------------------------------ concurrency

    async def test_the_event_loop_goes_on(self, llm: LLM) -> None:
        """Async calls leave the event loop free."""
        await llm.acomplete(self.prompt)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticker, calls = asyncio.create_task(tick()), 4
        await asyncio.gather(*[llm.acomplete(f"{self.prompt} {i}") for i in range(calls)])
        ticker.cancel()
        # calls that block the loop let it go on between each other only; no time is asserted, since machines differ
        assert ticks > 2 * calls, f"the loop went on {ticks} times during {calls} calls"

    async def test_gathered_calls_agree(self, llm: LLM) -> None:
        """Gathered calls give the answers of single calls."""
        prompts = [f"{self.prompt} {i}" for i in range(4)]
        together = await asyncio.gather(*[llm.acomplete(prompt) for prompt in prompts])
        assert [response.text for response in together] == [llm.complete(prompt).text for prompt in prompts]

    def test_two_event_loops(self, llm: LLM) -> None:
        """One object serves one event loop after another."""
        texts = [asyncio.run(_only(llm.acomplete(self.prompt))).text for _ in range(2)]
        assert texts[0] == texts[1]

    def test_threads(self, llm: LLM) -> None:
        """Calls from several threads give the answers of single calls."""
        prompts, found = [f"{self.prompt} {i}" for i in range(4)], dict[str, str]()
        threads = [threading.Thread(target=lambda p=p: found.update({p: llm.complete(p).text})) for p in prompts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert found == {prompt: llm.complete(prompt).text for prompt in prompts}

    async def test_abandoned_streams_stop(self) -> None:
        """Closing a stream stops the computation."""
        if self.long is None:
            pytest.skip("give `long`")
        llm = self.make_llm(**self.long)
        stream: Any = llm.stream_complete(self.prompt)
        if self.streams_text_as_it_comes:
            next(iter(stream))
        stream.close()
        assert await asyncio.to_thread(_comes_to_rest)

    # ------------------------------------------------------------ errors

    @pytest.mark.timeout(60)
    @pytest.mark.parametrize("name", ENDPOINTS)
    async def test_errors_arrive(self, llm: LLM, name: str) -> None:
        """An error of the model reaches the caller of every endpoint; nobody waits for ever."""
        await self._calls(llm)[name]()
        context = self.broken(llm)
        if context is None:
            pytest.skip("give `broken`")
        with context, pytest.raises(Exception, match="broken"):
            await asyncio.wait_for(self._in_thread(self._calls(llm)[name]), 10)

    # ------------------------------------------------------------ copies and configuration

    def test_dictionaries(self, llm: LLM) -> None:
        """`to_dict` is JSON and `from_dict` reads it back."""
        data = json.loads(json.dumps(llm.to_dict()))
        assert type(llm).from_dict(data).to_dict() == llm.to_dict()

    def test_json(self, llm: LLM) -> None:
        """`to_json` and `from_json` are a round trip."""
        assert type(llm).from_json(llm.to_json()).to_dict() == llm.to_dict()

    def test_pickle(self, llm: LLM) -> None:
        """A pickle holds no weights, works or says why not, and leaves the live object as it was."""
        before = llm.complete(self.prompt).text
        try:
            assert len(pickle.dumps(llm)) < 100_000
        except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
            pytest.fail(f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - an error of the integration's own that says what to do
            assert str(error)
        assert llm.complete(self.prompt).text == before

    def test_deepcopy(self, llm: LLM) -> None:
        """A deep copy answers the same."""
        assert copy.deepcopy(llm).complete(self.prompt).text == llm.complete(self.prompt).text

    # ------------------------------------------------------------ tools and structure

    def _tools_llm(self, llm: LLM) -> FunctionCallingLLM:
        assert isinstance(llm, FunctionCallingLLM) and llm.metadata.is_function_calling_model, "no function calling"
        return llm

    async def test_tool_calls(self) -> None:
        """A tool that is required is called: sync, async, streamed."""
        llm = self._tools_llm(self.make_llm(**self.roomy))
        kwargs: Any = {"tools": [FunctionTool.from_defaults(double)], "user_msg": "Double 4.", "tool_required": True}
        stream = list(llm.stream_chat_with_tools(**kwargs))
        astream = [chunk async for chunk in await llm.astream_chat_with_tools(**kwargs)]
        for response in (llm.chat_with_tools(**kwargs), await llm.achat_with_tools(**kwargs), stream[-1], astream[-1]):
            (call,) = llm.get_tool_calls_from_response(response)
            assert call.tool_name == "double"
            assert isinstance(call.tool_kwargs["number"], int)

    def test_predict_and_call(self) -> None:
        """`predict_and_call` calls the tool that the model chose."""
        llm = self._tools_llm(self.make_llm(**self.roomy))
        response = llm.predict_and_call([FunctionTool.from_defaults(double)], "Double 4.", tool_required=True)
        assert int(response.response) % 2 == 0

    @pytest.mark.parametrize("mode", ["default", "llm", "function"])
    async def test_structured_predict(self, mode: str) -> None:
        """`structured_predict` gives an object: sync, async, streamed."""
        llm = self.make_llm(**self.roomy, pydantic_program_mode=mode)
        prompt = PromptTemplate("Say something about {topic}.")
        assert isinstance(llm.structured_predict(Fact, prompt, topic="7"), Fact)
        assert isinstance(await llm.astructured_predict(Fact, prompt, topic="7"), Fact)
        assert isinstance(list(llm.stream_structured_predict(Fact, prompt, topic="7"))[-1], Fact)

    @property
    def roomy(self) -> dict[str, Any]:
        """Fields of `make_llm` that leave room for a tool call or an object, a hundred tokens or so."""
        return {}

    # ------------------------------------------------------------ helpers

    def _calls(self, llm: LLM) -> dict[str, Callable[[], Any]]:
        """Every endpoint, called and read to its end."""
        prompt, messages = self.prompt, [ChatMessage(self.prompt)]

        async def now(call: Callable[[], Any]) -> Any:
            result = call()
            return list(result) if inspect.isgenerator(result) or hasattr(result, "__next__") else result

        async def drain(opening: Any) -> Any:
            stream: AsyncGenerator[Any, None] = await opening
            return [chunk async for chunk in stream]

        return {
            "complete": lambda: now(lambda: llm.complete(prompt)),
            "acomplete": lambda: llm.acomplete(prompt),
            "stream_complete": lambda: now(lambda: llm.stream_complete(prompt)),
            "astream_complete": lambda: drain(llm.astream_complete(prompt)),
            "chat": lambda: now(lambda: llm.chat(messages)),
            "achat": lambda: llm.achat(messages),
            "stream_chat": lambda: now(lambda: llm.stream_chat(messages)),
            "astream_chat": lambda: drain(llm.astream_chat(messages)),
        }

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        """In a thread that is left behind where the call hangs."""
        loop, future = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

        def run() -> None:
            try:
                outcome: tuple[str, Any] = "set_result", asyncio.run(_only(call()))
            except Exception as error:  # noqa: BLE001 - handed on
                outcome = "set_exception", error
            if not loop.is_closed():
                loop.call_soon_threadsafe(lambda: future.cancelled() or getattr(future, outcome[0])(outcome[1]))

        threading.Thread(target=run, daemon=True).start()
        return await future


def _read(chunks: list[Any]) -> tuple[list[str], list[str]]:
    """Texts and deltas of a stream that yields at least one chunk."""
    assert chunks, "a stream without a chunk"
    texts = [chunk.text if hasattr(chunk, "text") else chunk.message.content or "" for chunk in chunks]
    return texts, [chunk.delta or "" for chunk in chunks]


async def _only(awaitable: Any) -> Any:
    return await awaitable


def _comes_to_rest(seconds: float = 5.0) -> bool:
    """Whether the process stops computing within that time: a fifth of a second that uses less than half of itself."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = time.process_time()
        time.sleep(0.2)
        if time.process_time() - before < 0.1:
            return True
    return False
