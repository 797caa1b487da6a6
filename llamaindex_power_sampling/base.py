"""A local language model that draws from p(x)^alpha, as a LlamaIndex LLM.

The eight endpoints differ in how they wait and in what they answer with. Each is decorated once, so that a call is one
event, over undecorated code: what is asked makes a `Call`, and that has the ways to wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack, cast

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
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from pydantic import Field

from llamaindex_power_sampling._call import Call
from llamaindex_power_sampling._calling import ToolCalling
from llamaindex_power_sampling._fields import LLMFields, LoadedLLMFields
from llamaindex_power_sampling._prediction import StructuredPrediction
from llamaindex_power_sampling._responses import ChatWriter, CompletionWriter
from llamaindex_power_sampling._runtime import ALIASES, RuntimeLLM
from llamaindex_power_sampling._structured import check_mode
from llamaindex_power_sampling._tools import as_tools, chosen, original_names, without_names
from power_sampling import Conversation, PowerSampler
from power_sampling.integrations import OverflowPolicy, resolve_settings, settings_around_loaded

__all__ = ["PowerSamplingLLM"]

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

TOOL_OPTIONS = ("tools", "tool_choice", "parallel_tool_calls", "strict")  # of one call, beside the settings


def _completion_endpoint(method: Endpoint) -> Endpoint:
    """One start and one end event per call (core's decorator, with its type)."""
    return cast(Endpoint, llm_completion_callback()(method))


def _chat_endpoint(method: Endpoint) -> Endpoint:
    """One start and one end event per call (core's decorator, with its type)."""
    return cast(Endpoint, llm_chat_callback()(method))


def _resolved(
    owner: type[RuntimeLLM], source: str | Path | Mapping[str, Any] | None, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Constructor arguments, of a dictionary that `to_dict` wrote too: that names the class."""
    if isinstance(source, Mapping):
        source = {name: value for name, value in source.items() if name != "class_name"}
    given = {name: value for name, value in fields.items() if name != "class_name"}
    return resolve_settings(owner, source, given, aliases=ALIASES)


class PowerSamplingLLM(RuntimeLLM, StructuredPrediction, ToolCalling, CustomLLM):
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
    counts in `additional_kwargs` too, and with `logprobs=True` the log p of every token, behind
    which `top_logprobs` puts the likeliest ones. What a model thinks between
    marks of its own is a ThinkingBlock. A stream yields settled text only, so Metropolis-Hastings streams at its end;
    the last chunk, which always comes, carries those facts and the tool calls. Nothing runs before a stream is read.
    Closing it, or cancelling a task, stops the work.

    Raises ConfigurationError for an unknown field or a value that cannot be honoured, and only errors derived from
    PowerSamplingError while generating: none is a ValueError, which response synthesizers turn into empty answers.
    """

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

    def __init__(self, **fields: Unpack[LLMFields]) -> None:
        """Any field of `power_sampling.Config`, `num_output`, those of this class, and the fields of every LLM."""
        super().__init__(**_resolved(type(self), None, fields))
        check_mode(self.pydantic_program_mode)
        self._runtime = PowerSampler.of(self)

    @classmethod
    def from_config(cls, source: str | Path | Mapping[str, Any] | None = None, **overrides: Unpack[LLMFields]) -> Self:
        """Settings from a YAML or TOML file or a mapping, under `POWER_SAMPLING_*`, under keyword arguments.

        It may hold the fields of this class too.
        """
        return cls(**_resolved(cls, source, overrides))

    @classmethod
    def from_model(cls, model: Any, tokenizer: Any, **fields: Unpack[LoadedLLMFields]) -> Self:
        """Around a transformers model and tokenizer that are already loaded. The tokenizer is copied.

        `model` may also be an engine of your own: any `power_sampling.engines.protocol.LanguageModel`.
        """
        runtime, settings = settings_around_loaded(cls, model, tokenizer, fields, aliases=ALIASES)
        llm = cls(**settings)
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
            "sampler": self.current_config().sampler.name,
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
        tools = as_tools(options.get("tools"))
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
