"""One answer, several, and what an answer says of itself."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models.llms import BaseLLM
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate

from langchain_power_sampling.testing.suite import Recorder, Suite

__all__ = ["AnswerTests"]


class AnswerTests(Suite):
    """`invoke`, `batch`, `generate`."""

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
