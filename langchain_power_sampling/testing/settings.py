"""Settings of objects and of calls, stop strings, the cache."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models.llms import BaseLLM
from langchain_core.runnables import ConfigurableField

from langchain_power_sampling.testing.suite import Recorder, Suite

__all__ = ["SettingsTests"]


class SettingsTests(Suite):
    """Fields, call arguments, `configurable_fields`, caches."""

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
