"""Copies, dictionaries and pickles; tools and structured prediction."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from llama_index.core.llms import LLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from llamaindex_power_sampling.testing.suite import Suite

__all__ = ["StructureTests"]


class Fact(BaseModel):
    """A fact."""

    subject: str
    number: int


def double(number: int) -> int:
    """Double a number."""
    return 2 * number


class StructureTests(Suite):
    """Objects in other forms, and objects that the model answers with."""

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
