"""A local language model that draws from p(x)^alpha, as a LlamaIndex LLM.

The eight endpoints differ in how they wait and in what they answer with. Each is decorated once, so that a call is one
event, and stands on one of four undecorated methods: `_generate`, `_agenerate`, `_stream`, `_astream`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar, cast

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
    LogProb,
    MessageRole,
    TextBlock,
)
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import default_completion_to_prompt
from pydantic import ConfigDict, Field, PrivateAttr, ValidationError

from power_sampling import (
    Completion,
    Config,
    ConfigurationError,
    GenerationConfig,
    InputError,
    ModelConfig,
    PowerSampler,
    load_config,
)

__all__ = ["PowerSamplingLLM"]

Prompt: TypeAlias = str | list[dict[str, Any]]
Given: TypeAlias = str | Sequence[ChatMessage]
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Response = TypeVar("Response")
Respond: TypeAlias = Callable[[str, str | None, dict[str, Any]], Response]

HORIZON_ALIASES = ("max_tokens", "num_output")  # what LlamaIndex and its integrations call max_new_tokens
LOADING = ModelConfig.model_fields.keys() - {"max_rows", "use_chat_template"}  # fields that act when weights are loaded
BOUND_TO_PROCESS = ("callback_manager", "rate_limiter")  # fields that copies share and pickles leave out

TEMPLATE_ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}


def _completion_endpoint(method: Endpoint) -> Endpoint:
    """One start and one end event per call (core's decorator, with its type)."""
    return cast(Endpoint, llm_completion_callback()(method))


def _chat_endpoint(method: Endpoint) -> Endpoint:
    """One start and one end event per call (core's decorator, with its type)."""
    return cast(Endpoint, llm_chat_callback()(method))


class PowerSamplingLLM(Config, CustomLLM):
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

    Switch by configuration, never by another class: a field of the constructor, a file, `POWER_SAMPLING_SAMPLER` in
    the environment, or, for one call, a keyword argument (`llm.complete(..., sampler="ancestral")`).

    The fields are those of `power_sampling.Config` and of every LlamaIndex LLM, and `context_window`; `num_output` and
    `max_tokens` are understood as `max_new_tokens`. An explicit argument comes before the environment, the environment
    before a file. A call may override every field of `GenerationConfig` and no field of the model.

    What the model is given:

    - `chat`: the messages through the chat template; a last message of the assistant is continued.
    - `complete`: on a chat model one user message, after `system_prompt` as a system message; so `complete(text)` is
      `chat` of that user message, and what `predict` makes of the same text. On a base model `completion_to_prompt` of
      the text, with `system_prompt` and `query_wrapper_prompt` around it, again as `predict` does.
    - `complete(..., formatted=True)`: the text as it stands on any model, control tokens included.
    - A base model (no chat template, or `use_chat_template=False`) gets `messages_to_prompt` of the messages; so does a
      chat model that was given this function, and in the same way `completion_to_prompt`: they replace the template.
    - `chat` adds no `system_prompt`: core does where it wants one, and agents bring their own.

    Responses hold the token counts, the finish reason, log p and the sampler's diagnostics in `raw` (plain JSON), the
    counts in `additional_kwargs` too, and with `logprobs=True` the log p of every token. A stream yields settled text
    only, so Metropolis-Hastings streams at its end; the last chunk, which always comes, carries those facts. Nothing
    runs before a stream is read. Closing it, or cancelling a task, stops the work.

    Raises ConfigurationError for an unknown field or a value that cannot be honoured, and only errors derived from
    PowerSamplingError while generating: none is a ValueError, which response synthesizers turn into empty answers.
    """

    model_config = ConfigDict(frozen=False)  # core assigns callback_manager after construction

    context_window: int | None = Field(default=None, ge=1)
    """Tokens of prompt and answer together by which LlamaIndex cuts its prompts; None: what the model can take."""

    _runtime: PowerSampler = PrivateAttr()  # holds the weights as long as this object lives
    _was_handed_over: bool = PrivateAttr(default=False)

    def __init__(self, **fields: Any) -> None:
        """Any field of `power_sampling.Config`, `num_output`, `context_window`, and the fields of every LLM."""
        try:
            super().__init__(**_resolved(None, fields))
        except ValidationError as error:
            raise ConfigurationError(str(error)) from error
        self._runtime = PowerSampler.of(self)

    @classmethod
    def from_config(cls, source: str | Path | Mapping[str, Any] | None = None, **overrides: Any) -> Self:
        """Settings from a YAML or TOML file or a mapping, under `POWER_SAMPLING_*`, under keyword arguments."""
        return cls(**_resolved(source, overrides))

    @classmethod
    def from_model(cls, model: Any, tokenizer: Any, **fields: Any) -> Self:
        """Around a transformers model and tokenizer that are already loaded. The tokenizer is copied."""
        resolved = _resolved(None, fields)
        # how to load models, the environment may say for other objects; an argument that says so is refused
        settings = {n: v for n, v in resolved.items() if n in Config.model_fields and (n not in LOADING or n in fields)}
        runtime = PowerSampler.from_model(model, tokenizer, **settings)
        llm = cls(**{**resolved, "model": runtime.model_name})
        llm._runtime = runtime
        llm._was_handed_over = True
        return llm

    @classmethod
    def class_name(cls) -> str:
        return "PowerSamplingLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What core adapts its prompts to.

        Loads the model unless `context_window` and `use_chat_template` are both set. Agents and `apredict` read it on
        the event loop: a server does well to read it once at its start.
        """
        return LLMMetadata(
            context_window=self.context_window or self._runtime.context_window or DEFAULT_CONTEXT_WINDOW,
            num_output=self.max_new_tokens,
            is_chat_model=self._runtime.is_chat_model,
            is_function_calling_model=False,
            model_name=self.model,
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
        return self._generate(self._under(kwargs), prompt, formatted, _completion_response)

    @_completion_endpoint
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """`complete`, without blocking the event loop; cancelling the task stops the work."""
        return await self._agenerate(self._under(kwargs), prompt, formatted, _completion_response)

    @_completion_endpoint
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """`complete`, in pieces of settled text."""
        return self._stream(self._under(kwargs), prompt, formatted, _completion_response)

    @_completion_endpoint
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """`stream_complete` for an event loop."""
        return self._astream(self._under(kwargs), prompt, formatted, _completion_response)

    @_chat_endpoint
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """The assistant's next turn. Keyword arguments override the settings."""
        return self._generate(self._under(kwargs), messages, False, _chat_response)

    @_chat_endpoint
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """`chat`, without blocking the event loop; cancelling the task stops the work."""
        return await self._agenerate(self._under(kwargs), messages, False, _chat_response)

    @_chat_endpoint
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """`chat`, in pieces of settled text."""
        return self._stream(self._under(kwargs), messages, False, _chat_response)

    @_chat_endpoint
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """`stream_chat` for an event loop."""
        return self._astream(self._under(kwargs), messages, False, _chat_response)

    # ------------------------------------------------------------ what they stand on

    def _under(self, overrides: Mapping[str, Any]) -> PowerSampler:
        """The runtime under the settings of one call: its own over the object's. Loads nothing."""
        own = {name: getattr(self, name) for name in GenerationConfig.model_fields}
        return self._runtime.with_settings(**{**own, **_renamed(overrides)})

    def _generate(self, runtime: PowerSampler, given: Given, formatted: bool, respond: Respond[Response]) -> Response:
        (completion,) = runtime.generate([self._presented(given, formatted)])
        return respond(completion.text, None, _facts(runtime, completion))

    async def _agenerate(
        self, runtime: PowerSampler, given: Given, formatted: bool, respond: Respond[Response]
    ) -> Response:
        prompt = await asyncio.to_thread(self._presented, given, formatted)  # may load the model
        (completion,) = await runtime.agenerate([prompt])
        return respond(completion.text, None, _facts(runtime, completion))

    def _stream(
        self, runtime: PowerSampler, given: Given, formatted: bool, respond: Respond[Response]
    ) -> Generator[Response, None, None]:
        def responses() -> Generator[Response, None, None]:
            text = ""
            with closing(runtime.stream(self._presented(given, formatted))) as chunks:
                for chunk in chunks:
                    text += chunk.text
                    if chunk.text or chunk.completion:  # nobody downstream has use for mere progress
                        yield respond(text, chunk.text, _facts(runtime, chunk.completion))

        return cast("Generator[Response, None, None]", _Stream(responses))

    def _astream(
        self, runtime: PowerSampler, given: Given, formatted: bool, respond: Respond[Response]
    ) -> AsyncGenerator[Response, None]:
        async def responses() -> AsyncGenerator[Response, None]:
            text = ""
            prompt = await asyncio.to_thread(self._presented, given, formatted)  # may load the model
            async with aclosing(runtime.astream(prompt)) as chunks:
                async for chunk in chunks:
                    text += chunk.text
                    if chunk.text or chunk.completion:
                        yield respond(text, chunk.text, _facts(runtime, chunk.completion))

        return cast("AsyncGenerator[Response, None]", _Stream(responses))

    def _presented(self, given: Given, formatted: bool) -> Prompt:
        """The prompt as the runtime takes it (the rules are in the docstring of the class). May load the model."""
        if isinstance(given, str):
            if formatted:
                return given
            to_prompt = self.completion_to_prompt or default_completion_to_prompt
            if to_prompt is default_completion_to_prompt and self._runtime.is_chat_model:
                return _templated(self._extend_messages([ChatMessage(given)]))
            return self._extend_prompt(to_prompt(given))
        messages = _templated(given)
        render = self.messages_to_prompt or generic_messages_to_prompt
        if render is generic_messages_to_prompt and self._runtime.is_chat_model:
            return messages
        return render(given)

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


@Generator.register
@AsyncGenerator.register
class _Stream:
    """A stream that core's decorators take for a generator, and loop over once.

    They never close what they loop over, and it lives as long as any event that keeps their exception. The iterator
    made here belongs to their loop alone: it ends with the loop, and its `finally` stops the work.
    """

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start

    def __iter__(self) -> Any:
        return self._start()

    __aiter__ = __iter__


def _resolved(source: str | Path | Mapping[str, Any] | None, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments: `fields`, over the environment, over the source. An unknown one is refused later."""
    given = _renamed(fields)
    given.pop("class_name", None)  # `to_dict` writes it
    own = {name: value for name, value in given.items() if name not in Config.model_fields}
    config = load_config(source, **{name: value for name, value in given.items() if name not in own})
    return {**own, **{name: getattr(config, name) for name in config.model_fields_set}}


def _renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`max_new_tokens` under that name."""
    renamed = dict(fields)
    for alias in HORIZON_ALIASES:
        if alias in renamed:
            limit = renamed.pop(alias)
            if renamed.setdefault("max_new_tokens", limit) != limit:
                raise ConfigurationError(
                    f"{alias} and max_new_tokens are the same setting: got {limit!r} and "
                    f"{renamed['max_new_tokens']!r}; give one."
                )
    return renamed


def _templated(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as chat templates take them. Raises InputError for anything that is not text."""
    for message in messages:
        for block in message.blocks:
            if not isinstance(block, TextBlock):
                raise InputError(f"A message holds a {type(block).__name__}; this model reads text only. Take it out.")
    return [{"role": TEMPLATE_ROLES[message.role], "content": message.content or ""} for message in messages]


def _facts(runtime: PowerSampler, completion: Completion | None) -> dict[str, Any]:
    """The fields both kinds of response have for what is known of a completion; none before it is finished."""
    if completion is None:
        return {}
    facts: dict[str, Any] = {
        "raw": {
            "usage": completion.usage,
            "finish_reason": completion.finish_reason,
            "stop": completion.stop,
            "logp": completion.logp,
            "seed": completion.seed,
            "power_sampling": completion.diagnostics.to_dict(),
        },
        "additional_kwargs": completion.usage,
    }
    if runtime.generation.logprobs:
        tokens = zip(completion.token_text, completion.token_logp, strict=True)
        facts["logprobs"] = [[LogProb(token=token, logprob=logp)] for token, logp in tokens]
    return facts


def _completion_response(text: str, delta: str | None, facts: dict[str, Any]) -> CompletionResponse:
    return CompletionResponse(text=text, delta=delta, **facts)


def _chat_response(text: str, delta: str | None, facts: dict[str, Any]) -> ChatResponse:
    return ChatResponse(message=ChatMessage(text, role=MessageRole.ASSISTANT), delta=delta, **facts)
