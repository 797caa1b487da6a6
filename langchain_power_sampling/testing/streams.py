"""Streams."""

from __future__ import annotations

from contextlib import aclosing

import pytest
from langchain_core.language_models.llms import BaseLLM

from langchain_power_sampling.testing.suite import Recorder, Suite
from power_sampling.testing import comes_to_rest

__all__ = ["StreamTests"]


class StreamTests(Suite):
    """`stream`, `astream`, events."""

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
        assert comes_to_rest()
        assert llm.invoke(self.prompt)
