"""The contract of a class, the eight endpoints, settings of a call, messages."""

from __future__ import annotations

import copy
import threading
from itertools import pairwise
from typing import Any

import pytest
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import LLM
from llama_index.core.prompts import PromptTemplate

from llamaindex_power_sampling.testing.suite import Limiter, Suite

__all__ = ["AnswerTests"]


class AnswerTests(Suite):
    """What the endpoints answer."""

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


def _read(chunks: list[Any]) -> tuple[list[str], list[str]]:
    """Texts and deltas of a stream that yields at least one chunk."""
    assert chunks, "a stream without a chunk"
    texts = [chunk.text if hasattr(chunk, "text") else chunk.message.content or "" for chunk in chunks]
    return texts, [chunk.delta or "" for chunk in chunks]
