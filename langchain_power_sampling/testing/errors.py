"""Errors of the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest
from langchain_core.language_models.llms import BaseLLM

from langchain_power_sampling.testing.suite import Recorder, Suite

__all__ = ["ErrorTests"]


class ErrorTests(Suite):
    """They reach the caller and callbacks, and the next call works."""

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
