"""A request of the protocol as what the runtime is asked: prompts, `n`, and a sampler under the request's settings.

Every field is honoured or refused.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from power_sampling.config import CONSTRAINTS
from power_sampling.errors import ConfigurationError, shortened
from power_sampling.integrations import resolve_max_tokens_alias
from power_sampling.runtime import PowerSampler, Prompt
from power_sampling.server import names
from power_sampling.server.conversations import constraint_of, conversation_of
from power_sampling.server.faults import Fault
from power_sampling.server.limits import Limits
from power_sampling.server.wire import ChatRequest, CompletionRequest, GenerationRequest
from power_sampling.text.parsers import PARSERS

__all__ = ["Asked", "Served", "asked_chat", "asked_completion", "refused"]

PENALTY = "it is raised to the power alpha like p, and then forbids what has to repeat; use top_p, min_p or bad_words"
# fields that clients send without meaning it: what they may be, and what to do else
NEUTRAL: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "frequency_penalty": ((0,), PENALTY),
    "presence_penalty": ((0,), PENALTY),
    "repetition_penalty": ((1,), PENALTY),
    "store": ((False,), "nothing is stored here; leave it out"),
    "service_tier": (("auto", "default"), "there is one tier; leave it out"),
    "modalities": ((["text"],), "the model writes text; leave it out"),
    "verbosity": (("medium",), "say in the prompt how long the answer is to be"),
    "suffix": (("",), "text is completed at its end only; put what comes after into the prompt"),
}
SWITCHES = ("enable_thinking", "thinking", "reasoning_effort")  # what templates read to switch reasoning, as hints
OWN = ("temperature", "stop", "seed", "top_p", "logit_bias")  # fields of the protocol that are settings as they stand
POWER = ("alpha", "time_budget", "timeout", "regex", "choices", "grammar", "top_k", "min_p", "bad_words")


@dataclass(frozen=True)
class Served:
    """What a server serves."""

    sampler: PowerSampler
    name: str
    limits: Limits
    created: int = field(default_factory=lambda: int(time.time()))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request, checked."""

    sampler: PowerSampler
    prompts: Sequence[Prompt]
    n: int
    model: str  # the name it was asked by
    is_stream: bool
    wants_usage: bool  # at the end of a stream
    wants_logprobs: bool
    wants_trace: bool = False  # in a stream
    echo: Sequence[str] = ()  # what stands before each prompt's completions
    metadata: Mapping[str, str] | None = None
    label: str | None = None  # for the log
    response: Mapping[str, Any] | None = None  # of /v1/responses: the fields of the request that come back

    @property
    def num_completions(self) -> int:
        return len(self.prompts) * self.n


def asked_chat(request: ChatRequest, served: Served) -> Asked:
    """Raises a Fault or a PowerSamplingError for what cannot be honoured."""
    limits = {"max_tokens": request.max_tokens, "max_completion_tokens": request.max_completion_tokens}
    if request.top_logprobs and not request.logprobs:
        raise refused("top_logprobs", request.top_logprobs, "it needs logprobs: true")
    further = constraint_of(request) | _template_arguments(request, served.sampler)
    sampler = _sampler(request, served, limits, further, request.top_logprobs)
    return Asked(
        sampler=sampler,
        prompts=[conversation_of(request)],
        n=_count(1, request, served.limits),
        wants_logprobs=bool(request.logprobs),
        metadata=request.metadata,
        label=request.safety_identifier or request.user,
        **_common(request),
    )


def asked_completion(request: CompletionRequest, served: Served) -> Asked:
    """Raises a Fault or a PowerSamplingError for what cannot be honoured."""
    prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    if request.best_of not in (None, 1, request.n):
        raise refused("best_of", request.best_of, 'use the power field sampler={"name": "best_of_n", ...}')
    if request.echo and request.logprobs is not None:
        raise refused("echo", True, "log p is that of the completion; leave echo or logprobs out")
    return Asked(
        sampler=_sampler(request, served, {"max_tokens": request.max_tokens}, {}, request.logprobs),
        prompts=prompts,
        n=_count(len(prompts), request, served.limits),
        wants_logprobs=request.logprobs is not None,
        echo=prompts if request.echo else (),
        label=request.user,
        **_common(request),
    )


def _common(request: GenerationRequest) -> dict[str, Any]:
    for name, (accepted, advice) in NEUTRAL.items():
        value = getattr(request, name, None)
        if value is not None and value not in accepted:
            raise refused(name, value, advice)
    options = request.stream_options
    if options is not None and not request.stream:
        raise refused("stream_options", options.model_dump(exclude_none=True), "it needs stream: true")
    if options is not None and options.include_obfuscation:
        raise refused("stream_options.include_obfuscation", True, "pieces are never padded; leave it out")
    if request.trace and not request.stream:
        raise refused("trace", True, "it comes with a stream; add stream: true, or leave it out")
    return {
        "model": request.model,
        "is_stream": bool(request.stream),
        "wants_usage": bool(options and options.include_usage),
        "wants_trace": bool(request.trace),
    }


def refused(param: str, value: Any, advice: str) -> Fault:
    """A value that cannot be honoured."""
    return Fault(
        400, f"{param}: {shortened(value)} cannot be honoured: {advice}.", code="unsupported_value", param=param
    )


def _count(num_prompts: int, request: GenerationRequest, limits: Limits) -> int:
    n = request.n or 1
    if num_prompts * n > limits.max_n:
        raise _beyond("n", f"{num_prompts * n} completions", limits.max_n)
    return n


def _beyond(param: str, came: str, most: float) -> Fault:
    message = f"{param}: this server allows at most {most:g}, got {came}."
    return Fault(400, message, code="limit_exceeded", param=param)


# ------------------------------------------------------------ settings


def _sampler(
    request: GenerationRequest,
    served: Served,
    limits: Mapping[str, int | None],
    further: Mapping[str, Any],
    top_logprobs: int | None,
) -> PowerSampler:
    """The server's sampler under the request's settings."""
    given = {name: getattr(request, name) for name in (*OWN, *POWER)}
    given |= resolve_max_tokens_alias({k: v for k, v in limits.items() if v is not None}, tuple(limits))
    fields = {name: value for name, value in given.items() if value is not None}
    if request.sampler is not None:
        fields["sampler"] = request.sampler
    for name, value in names.settings_of(request.model, served.name).items():
        if fields.setdefault(name, value) != value:
            raise ConfigurationError(
                f"{name}: the model's name says {shortened(value)}, the request {shortened(fields[name])}; give one."
            )
    if doubled := [name for name in CONSTRAINTS if name in further and name in fields]:
        raise ConfigurationError(f"{doubled[0]} stands in response_format too; give one.")
    _check_effort(fields.get("sampler"), served.limits)
    _check_parser(fields.get("sampler"))
    fields |= {**further, "top_logprobs": top_logprobs or 0}
    return _bounded(served.sampler.with_settings(**fields), served.limits)


def _template_arguments(request: ChatRequest, sampler: PowerSampler) -> dict[str, Any]:
    """The setting that variables of the chat template are: the request's over the server's. One that the template does
    not read would be ignored, so it is refused."""
    given = dict(request.chat_template_kwargs or {})
    if (effort := request.reasoning_effort) is not None and given.setdefault("reasoning_effort", effort) != effort:
        raise ConfigurationError("reasoning_effort stands in chat_template_kwargs too; give one.")
    for name, value in given.items():
        if not sampler.reads_in_template(name):
            known = [known for known in SWITCHES if sampler.reads_in_template(known)]
            way_out = f"; it reads {', '.join(known)} (chat_template_kwargs)" if known else ""
            param = name if name == "reasoning_effort" else f"chat_template_kwargs.{name}"
            raise refused(param, value, f"this model's chat template does not read it; leave it out{way_out}")
    return {"chat_template_kwargs": {**sampler.generation.chat_template_kwargs, **given}} if given else {}


def _check_effort(sampler: Any, limits: Limits) -> None:
    options = sampler if isinstance(sampler, Mapping) else {}
    for name, value in options.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name.startswith(("num_", "max_")) and is_number and value > limits.max_effort:
            raise _beyond(f"sampler.{name}", f"{value!r}", limits.max_effort)


def _check_parser(sampler: Any) -> None:
    """A request names a parser; code, and expressions that may run for ever, are given where the server is started."""
    parser = sampler.get("parser", "exact") if isinstance(sampler, Mapping) else "exact"
    if parser not in list(PARSERS):
        raise refused("sampler.parser", parser, f"a request can name {', '.join(PARSERS)}")


def _bounded(sampler: PowerSampler, limits: Limits) -> PowerSampler:
    generation = sampler.generation
    if limits.max_tokens is not None and generation.max_new_tokens > limits.max_tokens:
        raise _beyond("max_tokens", f"{generation.max_new_tokens}", limits.max_tokens)
    if generation.timeout is None:
        return sampler.with_settings(timeout=limits.max_seconds)
    if generation.timeout > limits.max_seconds:
        raise _beyond("timeout", f"{generation.timeout:g}", limits.max_seconds)
    return sampler
