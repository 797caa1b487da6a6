"""A local language model that draws from p(x)^alpha, as a LangChain chat model: messages in, a message out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any, ClassVar, Self, Unpack

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput, ModelProfile
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import ConfigurableField, Runnable
from langchain_core.runnables.utils import AnyConfigurableField
from pydantic import Field, SecretStr

from langchain_power_sampling._base import BasePowerSampling, refuse_several
from langchain_power_sampling._configurable import ConfigurableAlternatives, ConfigurableFields, own_names
from langchain_power_sampling._errors import langchain_errors
from langchain_power_sampling._fields import ChatFields, LoadedChatFields
from langchain_power_sampling._messages import ChunkWriter
from langchain_power_sampling._request import CONVERSATION_OPTIONS, USAGE, Request, prompt_of
from langchain_power_sampling._structured import Method, StructuredRunnable, structured
from langchain_power_sampling._tools import ToolLike, as_tools, chosen, wanted_schema, without_nulls
from power_sampling.integrations import CONSTRAINTS

__all__ = ["ChatPowerSampling"]


class _ResolvedProfile(dict[str, Any]):
    """A profile that was read off the settings, and is read again when `configurable_fields` changes them."""


class ChatPowerSampling(BasePowerSampling[AIMessage], BaseChatModel):
    """A local language model that answers from p(x)^alpha, or plainly, as the settings say.

    Setup:
        Install `power-sampling[langchain]`. Weights come from the Hugging Face hub, a folder or a GGUF file; `embedded`
        is a small model that comes as a package. No credentials.

    Key init args, sampling:
        sampler: `metropolis_hastings` (default), `sequential_monte_carlo`, `low_temperature`, `ancestral`, or a mapping
            with `name` and that sampler's options.
        alpha: The power; the target is p(x)^alpha. 1 is plain sampling.
        temperature: Of the base law; 0 is greedy.
        max_new_tokens: The longest completion; `max_tokens` is understood too.
        stop: Strings that end a completion; never in the text.
        seed: The same seed and settings give the same completion.
        n: Completions per prompt, for `generate`.
        json_schema, regex, choices, grammar: Only completions that obey; the target is then p(x)^alpha among those.
        logprobs: Attach the log p of every token.
        time_budget, timeout: Seconds after which refinement stops, or the call fails.

    Key init args, model:
        model: Hub id, folder, GGUF file, or `embedded` (default).
        tokenizer, revision, dtype, device, device_map, attn_implementation, quantization_config, model_kwargs,
            trust_remote_code: Handed to transformers.
        max_rows: Rows decoded together.

    Every field is one of `power_sampling.Config`, and can be given to the constructor, in a file (`from_config`), in
    the environment (`POWER_SAMPLING_ALPHA`), per call, bound, or as a configurable field. An unknown one raises
    ConfigurationError. Weights are loaded on first use, once per process for equal model settings.

    Instantiate:
        ```python
        from langchain_power_sampling import ChatPowerSampling

        model = ChatPowerSampling(model="Qwen/Qwen2.5-7B-Instruct", sampler="metropolis_hastings", alpha=4.0)
        model = ChatPowerSampling.from_config("power_sampling.yaml")
        model = ChatPowerSampling.from_model(transformers_model, tokenizer, alpha=4.0)
        ```

    Invoke:
        ```python
        model.invoke([("system", "Answer in one word."), ("human", "What is the capital of France?")])
        # AIMessage(content='Paris', response_metadata={'model_name': ..., 'power_sampling': {...}}, ...)
        model.invoke("And of Italy?", sampler="ancestral", max_tokens=8)
        model.batch(["2 + 2 =", "3 + 5 ="])  # one batch on the device, as are concurrent calls from anywhere
        ```

    Stream:
        ```python
        for chunk in model.stream("Why is the sky blue?"):
            print(chunk.text, end="")
        ```
        Only settled text is streamed. Plain sampling settles every token, sequential Monte Carlo the prefix that its
        particles share, Metropolis-Hastings everything at the end; meanwhile, chunks without text tell of the progress
        in an attribute, `chunk.power_sampling_progress`, which the merged message has not.

    Async:
        ```python
        await model.ainvoke("Why is the sky blue?")
        async for chunk in model.astream("Why is the sky blue?"): ...
        await model.abatch(["2 + 2 =", "3 + 5 ="])
        ```
        Cancelling the task stops the work.

    Tool calling:
        ```python
        from pydantic import BaseModel, Field

        class GetWeather(BaseModel):
            "The current weather at a place."
            location: str = Field(description="City and country")

        model.bind_tools([GetWeather]).invoke("Is it hot in Rome?").tool_calls
        model.bind_tools([GetWeather], tool_choice="any")  # a call for certain, decoded under its schema
        # [{'name': 'GetWeather', 'args': {'location': 'Rome, Italy'}, 'id': 'k3F9sT0aZ', 'type': 'tool_call'}]
        ```
        What looks like a call and is none comes as `invalid_tool_calls`. Tools reach the model through its chat
        template, or through a system prompt where the template knows none.

    Structured output:
        ```python
        class Joke(BaseModel):
            "A joke."
            setup: str
            punchline: str

        model.with_structured_output(Joke).invoke("Tell me a joke about cats")  # Joke(setup=..., punchline=...)
        model.with_structured_output(Joke, method="function_calling", include_raw=True)
        ```
        Always valid: answers are decoded under the schema.

    Token usage:
        ```python
        model.invoke("Hello").usage_metadata
        # {'input_tokens': 31, 'output_tokens': 9, 'total_tokens': 40, 'input_token_details': {'cache_read': 24}}
        ```
        These are the tokens of the answer; what the sampler spent is in `response_metadata["power_sampling"]`.

    Logprobs:
        ```python
        model.invoke("Hello", logprobs=True).response_metadata["logprobs"]
        # {'content': [{'token': 'Hello', 'logprob': -0.41}, ...]}
        model.invoke("Hello", top_logprobs=2).response_metadata["logprobs"]["content"][0]
        # {'token': 'Hello', 'logprob': -0.41, 'top_logprobs': [{'token': 'Hello', 'logprob': -0.41}, ...]}
        ```

    Response metadata:
        ```python
        model.invoke("Hello").response_metadata
        # {'model_name': 'embedded', 'model_provider': 'power_sampling', 'finish_reason': 'stop', 'stop': None,
        #  'logp': -7.3, 'seed': 17, 'power_sampling': {'sampler': 'metropolis_hastings', 'alpha': 4.0,
        #  'acceptance_rate': 0.31, 'tokens_decoded': 812, 'seconds': 2.4, ...}}
        ```
        `finish_reason` is `stop`, `length` or `tool_calls`. In a stream, the last chunk carries it.

    Reasoning that a model writes in marks of its own (`<think>`) is a reasoning block of `content_blocks`. It goes
    back to the chat template, which decides what of it later turns see. Settings of a call are part of the key of
    LangChain's cache; with a cache and no seed, the first random answer is kept. Errors derive from
    PowerSamplingError, and from LangChain's `ModelError` where there is one of that meaning.
    """

    call_options: ClassVar[tuple[str, ...]] = (
        *CONVERSATION_OPTIONS,
        "response_format",
        "stream",  # LangChain's own switch; it passes it on
        "ls_structured_output_format",  # LangChain's own note for traces
    )

    streaming: bool | None = None
    """Whether `invoke` draws by streaming: True always, False never (then `stream` gives one piece), None as LangChain
    decides (it streams where a callback asks for it)."""
    max_retries: int | None = Field(default=None, exclude=True)
    """Accepted, so that this class drops in where a hosted model was: a local model has nothing to retry."""
    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """Accepted, so that this class drops in where a hosted model was: a local model asks for none."""

    def __init__(self, **fields: Unpack[ChatFields]) -> None:
        """Any field of `power_sampling.Config`, `n`, `max_tokens`, and the fields every LangChain chat model has."""
        if isinstance(fields.get("profile"), _ResolvedProfile):
            del fields["profile"]
        super().__init__(**fields)

    @classmethod
    def from_config(cls, source: str | Path | Mapping[str, Any] | None = None, **overrides: Unpack[ChatFields]) -> Self:
        """Settings from a YAML or TOML file or a mapping, under `POWER_SAMPLING_*`, under keyword arguments.

        It may hold the fields of this class too (`n`, `max_tokens`).
        """
        return cls._of_source(source, overrides)

    @classmethod
    def from_model(cls, model: Any, tokenizer: Any, **fields: Unpack[LoadedChatFields]) -> Self:
        """Around a transformers model and tokenizer that are already loaded. The tokenizer is copied.

        `model` may also be an engine of your own: any `power_sampling.engines.protocol.LanguageModel`.
        """
        return cls._around(model, tokenizer, fields)

    # ------------------------------------------------------------ what LangChain asks about an object

    @property
    def _llm_type(self) -> str:
        return "power-sampling-chat"

    def _resolve_model_profile(self) -> ModelProfile | None:
        sampler = self._current_handle().sampler
        is_chat = self.use_chat_template is not False and sampler.known_chat_template is not False
        profile: dict[str, Any] = _ResolvedProfile(
            name=self.model,
            open_weights=True,
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            tool_calling=is_chat,
            tool_choice=is_chat,
            tool_call_streaming=False,
            structured_output=is_chat or self.use_chat_template is False,
            temperature=True,
        )
        if window := sampler.known_context_window:
            profile["max_input_tokens"] = max(0, window - self.max_new_tokens)
            profile["max_output_tokens"] = self.max_new_tokens
        return profile  # type: ignore[return-value]  # a subclass of dict says who made it; a TypedDict has none

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._ls_params("chat", stop, kwargs)

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """The key of LangChain's cache: the settings of the call, and what else it says."""
        with langchain_errors():
            settings = self._under(stop, kwargs)._identifying_params
        options = {name: kwargs[name] for name in CONVERSATION_OPTIONS if name in kwargs}
        return json.dumps({**settings, **options, "_type": self._llm_type}, sort_keys=True, default=repr)

    def _combine_llm_outputs(self, _llm_outputs: list[dict[str, Any] | None], /) -> dict[str, Any]:
        outputs = [output for output in _llm_outputs if output]  # a cached reply has none
        usage = {name: sum(output["token_usage"][name] for output in outputs) for name in USAGE}
        return {"model_name": outputs[0]["model_name"], "token_usage": usage} if outputs else {}

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[ToolLike] | None = None) -> int:
        """Tokens of the prompt that these messages and tools make under the model's own template. Loads the model."""
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens_from_messages(messages, tools)
        with langchain_errors():
            prompt = prompt_of(messages, {"tools": tools}, as_is=self.use_chat_template is False)
            return len(self._sampler.encode(prompt))

    # ------------------------------------------------------------ one reply

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with langchain_errors():
            request = self._request(messages, stop, kwargs)
            return request.result(request.sampler.generate([request.prompt], n=request.n))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with langchain_errors():
            request = await asyncio.to_thread(self._request, messages, stop, kwargs)
            return request.result(await request.sampler.agenerate([request.prompt], n=request.n))

    # ------------------------------------------------------------ a stream

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with langchain_errors():
            request = self._request(messages, stop, kwargs)
            refuse_several(request.n)
            writer = ChunkWriter(request.metadata, is_text=isinstance(request.prompt, str))
            with closing(request.sampler.stream(request.prompt)) as pieces:
                for piece in pieces:
                    for chunk in writer.chunks(piece):
                        if run_manager:  # only some ways here bring one; on the others LangChain tells callbacks itself
                            run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        with langchain_errors():
            request = await asyncio.to_thread(self._request, messages, stop, kwargs)
            refuse_several(request.n)
            writer = ChunkWriter(request.metadata, is_text=isinstance(request.prompt, str))
            async with aclosing(request.sampler.astream(request.prompt)) as pieces:
                async for piece in pieces:
                    for chunk in writer.chunks(piece):
                        if run_manager:
                            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk

    def _request(self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]) -> Request:
        """What a call asks for. Loads nothing."""
        model = self._under(stop, kwargs)
        return Request(model._sampler, prompt_of(messages, kwargs, as_is=model.use_chat_template is False), model.n)

    def _settings(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """A call's `response_format` takes the place of every constraint."""
        settings = super()._settings(overrides)
        if overrides.get("response_format") is not None:
            settings.update(dict.fromkeys(CONSTRAINTS))
            settings["json_schema"] = wanted_schema(overrides["response_format"])
        return settings

    # ------------------------------------------------------------ tools and schemas

    def bind_tools(
        self,
        tools: Sequence[ToolLike],
        *,
        tool_choice: dict[str, Any] | str | bool | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """A model that may call these tools.

        Args:
            tools: Functions, pydantic classes, TypedDicts, BaseTools, JSON schemas, OpenAI's or Anthropic's dicts.
            tool_choice: `auto` (or None): the model decides. `none`: tools are not shown. `any`, `required`, True: it
                calls one of them. A tool's name, or `{"type": "function", "function": {"name": ...}}`: it calls that
                one. A call that is asked for is decoded under its schema, so it is always valid.
            strict: Decode arguments under the schemas even where the model decides whether to call.
            parallel_tool_calls: False: at most one call per turn. None: one where a call is asked for.
            **kwargs: Settings of these calls, as in `invoke`: `alpha`, `sampler`, `response_format`, ...
        """
        converted = as_tools(tools, strict)
        choice = chosen(tool_choice, converted)
        self._settings(kwargs)  # an unknown one is refused now
        options = without_nulls(strict=strict, parallel_tool_calls=parallel_tool_calls)
        if choice != "auto" or tool_choice == "auto":
            options["tool_choice"] = choice
        return self.bind(tools=converted, **options, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Method = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> StructuredRunnable:
        """A model whose answers follow a schema, always: they are decoded under it, by every method.

        Args:
            schema: A pydantic class (v1 or v2), a TypedDict, a JSON schema, or an OpenAI tool. Answers are objects of
                a pydantic class, else dicts.
            include_raw: Answer with `{"raw": message, "parsed": ..., "parsing_error": ...}`.
            method: `json_schema`: the answer is JSON under the schema. `function_calling`: it is the call of a tool
                with the schema's arguments. `json_mode`: it is some JSON object; say in the prompt which.
            strict: As OpenAI has it: every property is required and no other one admitted.
        """
        plan = structured(schema, method, strict, kwargs)
        return plan.chain(self.bind(**plan.options), include_raw=include_raw)

    # ------------------------------------------------------------ switching by configuration

    def configurable_fields(self, **kwargs: AnyConfigurableField) -> ConfigurableFields:
        """Fields that each call's config may set. They stay so under `bind_tools` and `with_structured_output`."""
        plain: Any = super().configurable_fields(**own_names(type(self), kwargs))
        return ConfigurableFields(default=plain.default, fields=plain.fields)

    def configurable_alternatives(
        self,
        which: ConfigurableField,
        *,
        default_key: str = "default",
        prefix_keys: bool = False,
        **kwargs: Runnable[LanguageModelInput, AIMessage] | Callable[[], Runnable[LanguageModelInput, AIMessage]],
    ) -> ConfigurableAlternatives:
        """Models of which each call's config chooses one, also under `bind_tools` and `with_structured_output`."""
        return ConfigurableAlternatives(
            which=which, default=self, alternatives=kwargs, default_key=default_key, prefix_keys=prefix_keys
        )
