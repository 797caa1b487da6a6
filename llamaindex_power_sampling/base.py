"""A local language model that draws from p(x)^alpha, as a LlamaIndex LLM.

The eight endpoints differ in how they wait and in what they answer with. Each is decorated once, so that a call is one
event, over undecorated code: what is asked makes a `Call`, and that has the ways to wait.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from llama_index.core.base.llms.generic_utils import messages_to_prompt as generic_messages_to_prompt
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.chat_engine.types import AgentChatResponse
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.instrumentation.events.llm import LLMStructuredPredictEndEvent, LLMStructuredPredictStartEvent
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection, default_completion_to_prompt
from llama_index.core.program.utils import FlexibleModel
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.tools.types import BaseTool
from llama_index_instrumentation import get_dispatcher
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from llamaindex_power_sampling._call import Call
from llamaindex_power_sampling._messages import engine_messages
from llamaindex_power_sampling._overflow import OverflowPolicy
from llamaindex_power_sampling._responses import ChatWriter, CompletionWriter
from llamaindex_power_sampling._settings import renamed, resolved
from llamaindex_power_sampling._structured import ConstrainedProgram, check_mode
from llamaindex_power_sampling._tools import as_tools, chosen, original_names, selections, without_names
from power_sampling import (
    Config,
    ConfigurationError,
    Conversation,
    GenerationConfig,
    InputError,
    ModelConfig,
    PowerSampler,
)

__all__ = ["PowerSamplingLLM"]

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Model = TypeVar("Model", bound=BaseModel)

LOADING = ModelConfig.model_fields.keys() - {"max_rows", "use_chat_template"}  # fields that act when weights are loaded
BOUND_TO_PROCESS = ("callback_manager", "rate_limiter")  # fields that copies share and pickles leave out
TOOL_OPTIONS = ("tools", "tool_choice", "parallel_tool_calls", "strict")  # of one call, beside the settings

dispatcher = get_dispatcher(__name__)


def _completion_endpoint(method: Endpoint) -> Endpoint:
    """One start and one end event per call (core's decorator, with its type)."""
    return cast(Endpoint, llm_completion_callback()(method))


def _chat_endpoint(method: Endpoint) -> Endpoint:
    """One start and one end event per call (core's decorator, with its type)."""
    return cast(Endpoint, llm_chat_callback()(method))


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


class PowerSamplingLLM(Config, FunctionCallingLLM, CustomLLM):
    """Completions of a local language model drawn from p(x)^alpha, or plainly, as the settings say.

    Instantiate; the weights are loaded on first use, once per process for equal model settings:

        llm = PowerSamplingLLM(model="Qwen/Qwen2.5-7B-Instruct", sampler="metropolis_hastings", alpha=4.0)
        llm = PowerSamplingLLM.from_config("power_sampling.yaml")
        llm = PowerSamplingLLM.from_model(model, tokenizer, alpha=4.0)
        Settings.llm = llm

    Ask; each has its `a...` form, which leaves the event loop free, and requests that run at one time are one batch:

        llm.complete("The capital of France is", max_tokens=8).text
        llm.chat([ChatMessage("Why is the sky blue?")], stop=["\\n\\n"]).message.content
        for chunk in llm.stream_complete("Once upon a time"): print(chunk.delta, end="")
        await asyncio.gather(*[llm.acomplete(question) for question in questions])
        llm.chat_with_tools([tool], "Is it hot in Rome?", tool_required=True)
        llm.structured_predict(Invoice, PromptTemplate("Read this: {text}"), text=text)  # always an Invoice

    Switch by configuration, never by another class: a field of the constructor, a file, `POWER_SAMPLING_SAMPLER` in
    the environment, or, for one call, a keyword argument (`llm.complete(..., sampler="ancestral")`).

    The fields are those of `power_sampling.Config`, those of every LlamaIndex LLM, and the ones below; `num_output` and
    `max_tokens` are understood as `max_new_tokens`. An explicit argument comes before the environment, the environment
    before a file. A call may override every field of `GenerationConfig` and no field of the model.

    What the model is given:

    - `chat`: the messages through the chat template; a last message of the assistant is continued. Where the template
      refuses a system role, or roles that do not alternate, their words go into the messages it accepts.
    - `complete`: on a chat model one user message, after `system_prompt` as a system message; so `complete(text)` is
      `chat` of that user message, and what `predict` makes of the same text. On a base model `completion_to_prompt` of
      the text, with `system_prompt` and `query_wrapper_prompt` around it, again as `predict` does.
    - `complete(..., formatted=True)`: the text as it stands on any model, control tokens included.
    - A base model (no chat template, or `use_chat_template=False`) gets `messages_to_prompt` of the messages; so does a
      chat model that was given this function, and in the same way `completion_to_prompt`: they replace the template.
    - `chat` adds no `system_prompt`: core does where it wants one, and agents bring their own.

    Tools reach a chat model through its template, or in a system message where the template knows none. A call that is
    required, by `tool_required` or `tool_choice`, and every structured prediction is decoded under its schema: it is
    always valid. The same holds for `predict_and_call`, and with `strict=True` everywhere.

    Responses hold the token counts, the finish reason, log p and the sampler's diagnostics in `raw` (plain JSON), the
    counts in `additional_kwargs` too, and with `logprobs=True` the log p of every token. What a model thinks between
    marks of its own is a ThinkingBlock. A stream yields settled text only, so Metropolis-Hastings streams at its end;
    the last chunk, which always comes, carries those facts and the tool calls. Nothing runs before a stream is read.
    Closing it, or cancelling a task, stops the work.

    Raises ConfigurationError for an unknown field or a value that cannot be honoured, and only errors derived from
    PowerSamplingError while generating: none is a ValueError, which response synthesizers turn into empty answers.
    """

    model_config = ConfigDict(frozen=False)  # core assigns callback_manager after construction

    context_window: int | None = Field(default=None, ge=1)
    """Tokens of prompt and answer together by which LlamaIndex cuts its prompts; None: what the model can take."""
    context_overflow: OverflowPolicy = "error"
    """What becomes of a prompt that leaves no room for `max_new_tokens` in the model's window. `error`: raise
    ContextOverflowError; `truncate_left`: the oldest turns go, then the beginning of the longest text, never the
    system's words; `shrink_output`: a shorter answer."""
    strict: bool = False
    """Decode tool calls under their schemas even where the model decides whether to call."""
    is_function_calling_model: bool | None = None
    """Whether agents call tools by the model's own format (FunctionAgent) or by text (ReActAgent); None: by its own
    where it has a chat template."""

    _runtime: PowerSampler = PrivateAttr()  # holds the weights as long as this object lives
    _was_handed_over: bool = PrivateAttr(default=False)
    _knows_system_role: bool | None = PrivateAttr(default=None)

    def __init__(self, **fields: Any) -> None:
        """Any field of `power_sampling.Config`, `num_output`, those of this class, and the fields of every LLM."""
        try:
            super().__init__(**resolved(None, fields))
        except ValidationError as error:
            raise ConfigurationError(str(error)) from error
        check_mode(self.pydantic_program_mode)
        self._runtime = PowerSampler.of(self)

    @classmethod
    def from_config(cls, source: str | Path | Mapping[str, Any] | None = None, **overrides: Any) -> Self:
        """Settings from a YAML or TOML file or a mapping, under `POWER_SAMPLING_*`, under keyword arguments.

        A mapping may hold the fields of this class too; a file holds those of `power_sampling.Config`.
        """
        return cls(**resolved(source, overrides))

    @classmethod
    def from_model(cls, model: Any, tokenizer: Any, **fields: Any) -> Self:
        """Around a transformers model and tokenizer that are already loaded. The tokenizer is copied."""
        given = resolved(None, fields)
        # how to load models, the environment may say for other objects; an argument that says so is refused
        settings = {n: v for n, v in given.items() if n in Config.model_fields and (n not in LOADING or n in fields)}
        runtime = PowerSampler.from_model(model, tokenizer, **settings)
        llm = cls(**{**given, "model": runtime.model_name})
        llm._runtime = runtime
        llm._was_handed_over = True
        return llm

    @classmethod
    def class_name(cls) -> str:
        """By which dictionaries are read back."""
        return "PowerSamplingLLM"

    # ------------------------------------------------------------ what core asks about an object

    @property
    def metadata(self) -> LLMMetadata:
        """What core adapts its prompts to. The context window counts prompt and answer together.

        Loads the model. Agents and `apredict` read it on the event loop: a server does well to read it once at its
        start.
        """
        calls_tools = self.is_function_calling_model
        return LLMMetadata(
            context_window=self.context_window or self._runtime.context_window or DEFAULT_CONTEXT_WINDOW,
            num_output=self.max_new_tokens,
            is_chat_model=self._runtime.is_chat_model,
            is_function_calling_model=self._uses_template if calls_tools is None else calls_tools,
            model_name=self.model,
            system_role=MessageRole.SYSTEM if self._accepts_system_role else MessageRole.USER,
        )

    def to_payload(self) -> dict[str, Any]:
        """What events say of this LLM. From the settings alone: it is asked for on the event loop, before each call."""
        return {
            "class_name": self.class_name(),
            "model_name": self.model,
            "model": self.model,
            "sampler": self._under({}).generation.sampler.name,
            "alpha": self.alpha,
            "temperature": self.temperature,
            "num_output": self.max_new_tokens,
        }

    # ------------------------------------------------------------ the eight endpoints

    @_completion_endpoint
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """The completion of one text. Keyword arguments override the settings."""
        return self._completion(prompt, formatted, kwargs).answer()

    @_completion_endpoint
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """`complete`, without blocking the event loop; cancelling the task stops the work."""
        return await self._completion(prompt, formatted, kwargs).aanswer()

    @_completion_endpoint
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """`complete`, in pieces of settled text."""
        return self._completion(prompt, formatted, kwargs).stream()

    @_completion_endpoint
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """`stream_complete` for an event loop."""
        return self._completion(prompt, formatted, kwargs).astream()

    @_chat_endpoint
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """The assistant's next turn. Keyword arguments override the settings; `tools`, `tool_choice`,
        `parallel_tool_calls` and `strict` are understood as `chat_with_tools` prepares them."""
        return self._chat(messages, kwargs).answer()

    @_chat_endpoint
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """`chat`, without blocking the event loop; cancelling the task stops the work."""
        return await self._chat(messages, kwargs).aanswer()

    @_chat_endpoint
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """`chat`, in pieces of settled text."""
        return self._chat(messages, kwargs).stream()

    @_chat_endpoint
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """`stream_chat` for an event loop."""
        return self._chat(messages, kwargs).astream()

    # ------------------------------------------------------------ what they ask of the engine

    def _completion(self, prompt: str, formatted: bool, kwargs: Mapping[str, Any]) -> Call[CompletionResponse]:
        return Call(
            self._under(kwargs), partial(self._presented, prompt, formatted), CompletionWriter, self.context_overflow
        )

    def _chat(self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> Call[ChatResponse]:
        options = {name: kwargs[name] for name in TOOL_OPTIONS if name in kwargs}
        sampler = self._under({name: value for name, value in kwargs.items() if name not in options})
        tools = as_tools(options.get("tools") or ())
        conversation = Conversation(
            messages=(),
            tools=without_names(tools),
            tool_choice=chosen(options.get("tool_choice"), tools),
            parallel_tool_calls=options.get("parallel_tool_calls"),
            strict=bool(options.get("strict", self.strict)),
        )
        names = original_names(tools)
        prompt = partial(self._presented_messages, messages, conversation, names)
        return Call(sampler, prompt, partial(ChatWriter, names=names), self.context_overflow)

    def _under(self, overrides: Mapping[str, Any]) -> PowerSampler:
        """The runtime under the settings of one call: its own over the object's. Loads nothing."""
        own = {name: getattr(self, name) for name in GenerationConfig.model_fields}
        return self._runtime.with_settings(**{**own, **renamed(overrides)})

    def _presented(self, prompt: str, formatted: bool = False) -> str | Conversation:
        """A text as the runtime takes it (the rules are in the docstring of the class). May load the model."""
        if formatted:
            return prompt
        to_prompt = self.completion_to_prompt or default_completion_to_prompt
        if to_prompt is default_completion_to_prompt and self._runtime.is_chat_model:
            return Conversation(messages=engine_messages(self._extend_messages([ChatMessage(prompt)])))
        return self._extend_prompt(to_prompt(prompt))

    def _presented_messages(
        self, messages: Sequence[ChatMessage], conversation: Conversation, names: Mapping[str, str]
    ) -> str | Conversation:
        """Messages as the runtime takes them. May load the model."""
        shown = {original: name for name, original in names.items()}
        converted = engine_messages(messages, shown)  # refuses images before anybody drops them
        if self._uses_template:
            return replace(conversation, messages=converted)
        if conversation.tools:
            raise InputError(
                "Tools are shown through the chat template, and this object uses none (a base model, "
                "use_chat_template=False or messages_to_prompt). Use a ReActAgent, which asks for tools in plain text."
            )
        return (self.messages_to_prompt or generic_messages_to_prompt)(messages)

    @property
    def _uses_template(self) -> bool:
        """Whether messages go through the chat template. May load the model."""
        render = self.messages_to_prompt or generic_messages_to_prompt
        return render is generic_messages_to_prompt and self._runtime.is_chat_model

    @property
    def _accepts_system_role(self) -> bool:
        """Whether the system's words keep a turn of their own. Loads the model."""
        if self._knows_system_role is None:
            apart, together = [{"role": "system", "content": "x"}, _user("x")], [_user("x\n\nx")]
            encode = self._runtime.encode
            self._knows_system_role = not self._uses_template or encode(apart) != encode(together)
        return self._knows_system_role

    # ------------------------------------------------------------ tools

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Arguments of `chat`. `tool_choice` is None, `auto`, `none`, `required`, a tool's name or OpenAI's dictionary;
        a settled choice comes before `tool_required`. The history is copied."""
        said = [] if user_msg is None else [ChatMessage(user_msg) if isinstance(user_msg, str) else user_msg]
        converted = as_tools(tools)
        return {
            "messages": [*(chat_history or ()), *said],
            "tools": converted,
            "tool_choice": chosen(tool_choice, converted, required=tool_required),
            "parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The calls of a response, under the names of the tools. A stream has none before its last chunk.

        Raises ValueError, as core's consumers expect, where there is none and one was wanted.
        """
        found = selections(response.message)
        if error_on_no_tool_call and not found:
            raise ValueError(
                f"Expected at least one tool call, but the model answered {response.message.content!r:.200}."
            )
        return found

    def predict_and_call(self, tools: Sequence[BaseTool], *args: Any, **kwargs: Any) -> AgentChatResponse:
        """Let the model choose a tool, and call it. The call is decoded under the tools' schemas, so it names one of
        them and has its arguments."""
        return super().predict_and_call(tools, *args, **self._strictly(kwargs))

    async def apredict_and_call(self, tools: Sequence[BaseTool], *args: Any, **kwargs: Any) -> AgentChatResponse:
        """`predict_and_call`, without blocking the event loop."""
        return await super().apredict_and_call(tools, *args, **self._strictly(kwargs))

    def _strictly(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return {"strict": True, **kwargs} if self.metadata.is_function_calling_model else dict(kwargs)

    # ------------------------------------------------------------ structured prediction

    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """An object of a pydantic class, decoded under its schema in every mode (see ConstrainedProgram).

        Raises NoLegalCompletionError where `max_new_tokens` is too short for one.
        """
        dispatcher.event(
            LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)
        )
        result = self._program(output_cls, prompt)(llm_kwargs=llm_kwargs, **prompt_args)
        dispatcher.event(LLMStructuredPredictEndEvent(output=result))
        return result

    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """`structured_predict`, without blocking the event loop, and with the same prompt."""
        dispatcher.event(
            LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)
        )
        result = await self._program(output_cls, prompt).acall(llm_kwargs=llm_kwargs, **prompt_args)
        dispatcher.event(LLMStructuredPredictEndEvent(output=result))
        return result

    def _structured_stream_call(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Model | FlexibleModel, None, None]:
        return self._program(output_cls, prompt).stream_call(llm_kwargs=llm_kwargs, **prompt_args)

    async def _structured_astream_call(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Model | FlexibleModel, None]:
        return await self._program(output_cls, prompt).astream_call(llm_kwargs=llm_kwargs, **prompt_args)

    def _program(self, output_cls: type[Model], prompt: BasePromptTemplate) -> ConstrainedProgram[Model]:
        return ConstrainedProgram(output_cls, self, prompt, self.pydantic_program_mode)

    # ------------------------------------------------------------ copies and pickles

    def __setattr__(self, name: str, value: Any) -> None:
        """Fields of generation may be assigned and act from the next call on; those of the model may not."""
        if name in ModelConfig.model_fields:
            raise ConfigurationError(
                f"{name}: the model of an object is fixed. Build another object; those with equal model settings share "
                "their weights."
            )
        super().__setattr__(name, value)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy on the same weights, the same callbacks and the same rate limiter."""
        shared = (self._runtime, *(getattr(self, name) for name in BOUND_TO_PROCESS))
        return super().__deepcopy__({**(memo or {}), **{id(part): part for part in shared}})

    def __getstate__(self) -> dict[str, Any]:
        """The settings alone. Core's version would pickle weights, and take what it cannot pickle from the live object.

        Callbacks and rate limiter stay in their process. A function that cannot be pickled raises: without it the
        prompts would be others.
        """
        if self._was_handed_over:
            raise ConfigurationError(
                f"{self.model!r} was handed over as a loaded model (from_model), and weights are never pickled. Build "
                "the object from a hub id or a folder, or call from_model in the other process."
            )
        return {name: getattr(self, name) for name in type(self).model_fields if name not in BOUND_TO_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        type(self).__init__(self, **state)
