"""Structured prediction: an object of a pydantic class, decoded under its schema, so that it is always there."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any, NamedTuple, TypeVar

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, MessageRole, TextBlock
from llama_index.core.llms import LLM
from llama_index.core.output_parsers import PydanticOutputParser
from llama_index.core.program.function_program import get_function_tool
from llama_index.core.program.utils import FlexibleModel, process_streaming_objects
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.types import BasePydanticProgram, PydanticProgramMode
from pydantic import BaseModel

from llamaindex_power_sampling._tools import as_tools, selections
from power_sampling import ConfigurationError
from power_sampling.integrations import schema_of

__all__ = ["ConstrainedProgram", "check_mode"]

Model = TypeVar("Model", bound=BaseModel)

AS_ANSWER = (
    PydanticProgramMode.DEFAULT,
    PydanticProgramMode.LLM,
    PydanticProgramMode.LM_FORMAT_ENFORCER,
    PydanticProgramMode.GUIDANCE,
)
AS_TOOL = (PydanticProgramMode.FUNCTION,)


def check_mode(mode: PydanticProgramMode) -> None:
    """Raises ConfigurationError for a mode that a local model cannot be in."""
    if mode not in (*AS_ANSWER, *AS_TOOL):
        known = ", ".join(repr(known.value) for known in (*AS_ANSWER, *AS_TOOL))
        raise ConfigurationError(
            f"pydantic_program_mode={mode.value!r} calls a hosted model; a local one knows {known}, all of which "
            "decode under the schema."
        )


class _Request(NamedTuple):
    """What one prediction asks of the model: messages, or a text for a base model, and the options of the call."""

    messages: list[ChatMessage] | None
    text: str
    options: dict[str, Any]


class ConstrainedProgram(BasePydanticProgram[Model]):
    """A pydantic program of a PowerSamplingLLM: its answer is an object of `output_cls`, drawn from p(x)^alpha on the
    texts that are one.

    By the modes `default`, `llm`, `lm_format_enforcer` and `guidance` the model answers with JSON and is shown the
    schema in the prompt; by `function` it calls a tool that has the schema's fields. Either is decoded under the
    schema. Validators of the class that no JSON schema can state may still raise pydantic's ValidationError.

    Streams yield what is settled so far with `None` for what is not, and the object at the end.
    """

    def __init__(
        self,
        output_cls: type[Model],
        llm: LLM,
        prompt: BasePromptTemplate,
        mode: PydanticProgramMode = PydanticProgramMode.DEFAULT,
    ) -> None:
        check_mode(mode)
        self._output_cls, self._llm, self._prompt, self._mode = output_cls, llm, prompt, mode

    @property
    def output_cls(self) -> type[Model]:
        return self._output_cls

    def __call__(self, *args: Any, llm_kwargs: Mapping[str, Any] | None = None, **prompt_args: Any) -> Model:
        """The object that the model answers with."""
        request = self._request(llm_kwargs, prompt_args)
        if request.messages is None:
            return self._parsed(self._llm.complete(request.text, formatted=True, **request.options))
        return self._parsed(self._llm.chat(request.messages, **request.options))

    async def acall(self, *args: Any, llm_kwargs: Mapping[str, Any] | None = None, **prompt_args: Any) -> Model:
        """The same, without blocking the event loop."""
        request = self._request(llm_kwargs, prompt_args)
        if request.messages is None:
            return self._parsed(await self._llm.acomplete(request.text, formatted=True, **request.options))
        return self._parsed(await self._llm.achat(request.messages, **request.options))

    def stream_call(
        self, *args: Any, llm_kwargs: Mapping[str, Any] | None = None, **prompt_args: Any
    ) -> Generator[Model | FlexibleModel, None, None]:
        """The object as it grows."""
        request, so_far = self._request(llm_kwargs, prompt_args), _SoFar(self._output_cls)
        responses: Any = (
            self._llm.stream_complete(request.text, formatted=True, **request.options)
            if request.messages is None
            else self._llm.stream_chat(request.messages, **request.options)
        )
        for response in responses:
            yield self._parsed(response) if response.raw else so_far.read(response)

    async def astream_call(
        self, *args: Any, llm_kwargs: Mapping[str, Any] | None = None, **prompt_args: Any
    ) -> AsyncGenerator[Model | FlexibleModel, None]:
        """The object as it grows, for an event loop."""
        request = self._request(llm_kwargs, prompt_args)
        responses: Any = await (
            self._llm.astream_complete(request.text, formatted=True, **request.options)
            if request.messages is None
            else self._llm.astream_chat(request.messages, **request.options)
        )

        async def objects() -> AsyncGenerator[Model | FlexibleModel, None]:
            so_far = _SoFar(self._output_cls)
            async for response in responses:
                yield self._parsed(response) if response.raw else so_far.read(response)

        return objects()

    def _request(self, llm_kwargs: Mapping[str, Any] | None, prompt_args: Mapping[str, Any]) -> _Request:
        """The prompt is formatted as `predict` formats it; what the caller handed over is not changed."""
        llm, options = self._llm, dict(llm_kwargs or {})
        if self._mode in AS_TOOL:
            tools = as_tools([get_function_tool(self._output_cls)])
            options |= {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False}
            return _Request(copy.deepcopy(llm._get_messages(self._prompt, **prompt_args)), "", options)
        options["json_schema"] = schema_of(self._output_cls)
        shown = PydanticOutputParser(output_cls=self._output_cls).get_format_string(escape_json=False).strip()
        if llm.metadata.is_chat_model:
            messages = copy.deepcopy(llm._get_messages(self._prompt, **prompt_args))
            return _Request(_with_instruction(messages, shown), "", options)
        return _Request(None, f"{llm._get_prompt(self._prompt, **prompt_args)}\n\n{shown}\n\n", options)

    def _parsed(self, response: ChatResponse | CompletionResponse) -> Model:
        if isinstance(response, CompletionResponse):
            return self._output_cls.model_validate_json(response.text)
        if self._mode in AS_TOOL:
            return self._output_cls.model_validate(selections(response.message)[0].tool_kwargs)
        return self._output_cls.model_validate_json(response.message.content or "")


class _SoFar:
    """The object a stream has told of so far, which core reads from incomplete JSON."""

    def __init__(self, output_cls: type[BaseModel]) -> None:
        self._output_cls = output_cls
        self._known: list[Any] | None = None

    def read(self, response: ChatResponse | CompletionResponse) -> Any:
        found = process_streaming_objects(response, self._output_cls, cur_objects=self._known, flexible_mode=True)
        self._known = found if isinstance(found, list) else [found]
        return self._known[0]


def _with_instruction(messages: list[ChatMessage], text: str) -> list[ChatMessage]:
    """The schema, in the last words of the user."""
    last = next((m for m in reversed(messages) if m.role == MessageRole.USER), None)
    if last is None:
        return [*messages, ChatMessage(text)]
    last.blocks.append(TextBlock(text=f"\n{text}"))
    return messages
