"""A local language model that draws from p(x)^alpha, as a LangChain LLM: text in, text out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any, Self, Unpack

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, LanguageModelInput
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.runnables import Runnable
from langchain_core.runnables.utils import AnyConfigurableField

from langchain_power_sampling._base import BasePowerSampling, generation_info, refuse_several, token_usage
from langchain_power_sampling._configurable import ConfigurableLLM, own_names
from langchain_power_sampling._errors import langchain_errors
from langchain_power_sampling._fields import LLMFields, LoadedLLMFields
from langchain_power_sampling._structured import structured
from langchain_power_sampling._tools import wanted_schema
from power_sampling import Chunk, Completion, ConfigurationError, PowerSampler, Prompt

__all__ = ["PowerSamplingLLM"]

RUN_OPTIONS = ("tags", "metadata", "run_name", "run_id")  # of BaseLLM.generate; whatever else comes is a setting


class PowerSamplingLLM(BasePowerSampling[str], BaseLLM):
    """Completions of a local language model drawn from p(x)^alpha, or plainly, as the settings say.

    Instantiate; the weights are loaded on first use, once per process for equal model settings:

        llm = PowerSamplingLLM(model="Qwen/Qwen2.5-7B-Instruct", sampler="metropolis_hastings", alpha=4.0)
        llm = PowerSamplingLLM.from_config("power_sampling.yaml")
        llm = PowerSamplingLLM.from_model(model, tokenizer, alpha=4.0)

    Invoke, stream, batch (one batch on the device), each with its `a...` form for an event loop:

        llm.invoke("Why is the sky blue?", stop=["\\n\\n"], max_tokens=512)
        for text in llm.stream("Why is the sky blue?"): ...
        llm.batch(["2 + 2 =", "3 + 5 ="])
        chain = prompt | llm | StrOutputParser()

    Switch by configuration, never by another class: a field of the constructor, a file, `POWER_SAMPLING_SAMPLER` in
    the environment, one call, or a configurable field:

        llm.invoke("2 + 2 =", sampler="ancestral")
        plain = llm.bind(sampler={"name": "sequential_monte_carlo", "num_particles": 16})
        llm.configurable_fields(alpha=ConfigurableField(id="alpha")).invoke(..., {"configurable": {"alpha": 1.0}})

    The fields are those of `power_sampling.Config` and `n`, `max_tokens` is understood as `max_new_tokens`, and an
    explicit argument comes before the environment, the environment before a file. A call may override every field; one
    of the model's (`model="..."`) finds its weights among those already loaded, or loads them. A prompt is presented as
    one user message where the model has a chat template (`use_chat_template`).

    Each `Generation.generation_info` holds finish_reason, stop, logp, seed, the token counts, the sampler's diagnostics
    (`power_sampling`) and, with `logprobs=True`, the log p of every token, with `top_logprobs`
    that of the likeliest ones too; in a stream, the last chunk does. Settings
    of a call are part of the key of LangChain's cache. With a cache and no seed, the first random answer is kept.

    Raises ConfigurationError for an unknown field or a value that cannot be honoured, and only errors derived from
    PowerSamplingError while generating.
    """

    def __init__(self, **fields: Unpack[LLMFields]) -> None:
        """Any field of `power_sampling.Config`, `n`, `max_tokens`, and the fields every LangChain model has."""
        super().__init__(**fields)

    @classmethod
    def from_config(cls, source: str | Path | Mapping[str, Any] | None = None, **overrides: Unpack[LLMFields]) -> Self:
        """Settings from a YAML or TOML file or a mapping, under `POWER_SAMPLING_*`, under keyword arguments.

        It may hold the fields of this class too (`n`, `max_tokens`).
        """
        return cls._of_source(source, overrides)

    @classmethod
    def from_model(cls, model: Any, tokenizer: Any, **fields: Unpack[LoadedLLMFields]) -> Self:
        """Around a transformers model and tokenizer that are already loaded. The tokenizer is copied.

        `model` may also be an engine of your own: any `power_sampling.engines.protocol.LanguageModel`.
        """
        return cls._around(model, tokenizer, fields)

    @property
    def _llm_type(self) -> str:
        return "power-sampling"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._ls_params("llm", stop, kwargs)

    # ------------------------------------------------------------ one batch

    def generate(
        self, prompts: list[str], stop: list[str] | None = None, callbacks: Any = None, **kwargs: Any
    ) -> LLMResult:
        """One completion per prompt, decoded as one batch. Keyword arguments override the settings."""
        llm, run_options = self._of_call(stop, kwargs)
        return BaseLLM.generate(llm, prompts, list(llm.stop), callbacks, **run_options)

    async def agenerate(
        self, prompts: list[str], stop: list[str] | None = None, callbacks: Any = None, **kwargs: Any
    ) -> LLMResult:
        """`generate`, without blocking the event loop; cancelling the task stops the work."""
        llm, run_options = self._of_call(stop, kwargs)
        return await BaseLLM.agenerate(llm, prompts, list(llm.stop), callbacks, **run_options)

    def _of_call(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """This object under the settings of a call, and what else the call says. LangChain makes the key of its cache
        of an object's fields: an override that is no field would replay an answer drawn under other settings."""
        run_options = {name: value for name, value in kwargs.items() if name in RUN_OPTIONS}
        with langchain_errors():
            return self._under(stop, {n: v for n, v in kwargs.items() if n not in RUN_OPTIONS}), run_options

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        with langchain_errors():
            llm = self._under(stop, kwargs)
            sampler, presented = llm._request(prompts)
            return _result(sampler, sampler.generate(presented, n=llm.n), llm.n)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        with langchain_errors():
            llm = self._under(stop, kwargs)
            sampler, presented = await asyncio.to_thread(llm._request, prompts)
            return _result(sampler, await sampler.agenerate(presented, n=llm.n), llm.n)

    def _call(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> str:
        """One prompt, as LangChain's simplest interface has it."""
        return self._generate([prompt], stop, run_manager, **kwargs).generations[0][0].text

    async def _acall(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> str:
        """`_call`, without blocking the event loop."""
        return (await self._agenerate([prompt], stop, run_manager, **kwargs)).generations[0][0].text

    # ------------------------------------------------------------ schemas, and switching by configuration

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: str = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """An LLM whose answers follow a schema, always: they are decoded under it.

        Args:
            schema: As `ChatPowerSampling.with_structured_output` has it.
            include_raw: Answer with `{"raw": text, "parsed": ..., "parsing_error": ...}`.
            method: `json_schema`, or `json_mode`: some JSON object. `function_calling` is for chat models.
            strict: As OpenAI has it: every property is required and no other one admitted.
        """
        if method == "function_calling":
            raise ConfigurationError(
                "method: 'function_calling' needs tools, which chat models have (ChatPowerSampling); use 'json_schema'."
            )
        plan = structured(schema, method, strict, kwargs)
        wanted = wanted_schema(plan.options["response_format"])
        return plan.chain(self.bind(json_schema=wanted), include_raw=include_raw)

    def configurable_fields(self, **kwargs: AnyConfigurableField) -> ConfigurableLLM:
        """Fields that each call's config may set."""
        plain: Any = super().configurable_fields(**own_names(type(self), kwargs))
        return ConfigurableLLM(default=plain.default, fields=plain.fields)

    # ------------------------------------------------------------ a stream

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        with langchain_errors():
            llm = self._under(stop, kwargs)
            refuse_several(llm.n)
            sampler, (presented,) = llm._request([prompt])
            with closing(sampler.stream(presented)) as pieces:
                for piece in pieces:
                    chunk = _chunk(sampler, piece)
                    if chunk is None:
                        continue
                    if run_manager and chunk.text:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        with langchain_errors():
            llm = self._under(stop, kwargs)
            refuse_several(llm.n)
            sampler, (presented,) = await asyncio.to_thread(llm._request, [prompt])
            async with aclosing(sampler.astream(presented)) as pieces:
                async for piece in pieces:
                    chunk = _chunk(sampler, piece)
                    if chunk is None:
                        continue
                    if run_manager and chunk.text:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    def _request(self, prompts: list[str]) -> tuple[PowerSampler, list[Prompt]]:
        """The runtime under the settings of this object, and the prompts as the model is to see them. Loads the
        model."""
        sampler = self._sampler
        if sampler.is_chat_model:
            return sampler, [[{"role": "user", "content": prompt}] for prompt in prompts]
        return sampler, list(prompts)


def _result(sampler: PowerSampler, completions: list[Completion], n: int) -> LLMResult:
    logprobs = sampler.generation.has_logprobs
    generations = [Generation(text=c.text, generation_info=generation_info(c, logprobs=logprobs)) for c in completions]
    return LLMResult(
        generations=[list(generations[i : i + n]) for i in range(0, len(generations), n)],
        llm_output={"model_name": sampler.model_name, "token_usage": token_usage(completions, n=n)},
    )


def _chunk(sampler: PowerSampler, piece: Chunk) -> GenerationChunk | None:
    """A piece of a stream for LangChain, which has no use for mere progress. Only the last one carries information:
    merging chunks concatenates strings and adds numbers up.
    """
    if piece.completion is not None:
        info = generation_info(piece.completion, logprobs=sampler.generation.has_logprobs)
        return GenerationChunk(text=piece.text, generation_info=info)
    return GenerationChunk(text=piece.text) if piece.text else None
