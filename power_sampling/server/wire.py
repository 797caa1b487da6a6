"""The bodies of requests, field by field. What is not here is refused by its name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

__all__ = ["ChatRequest", "CompletionRequest", "GenerationRequest", "Message", "Part", "Tool", "Wire"]


class Wire(BaseModel):
    """A part of a body. Nothing is converted: a number in quotes is a text."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), use_attribute_docstrings=True
    )


# ------------------------------------------------------------ messages


class Part(Wire):
    """A piece of a message's content: text."""

    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None
    cache_control: dict[str, Any] | None = None
    """Needs no word here: prompts are cached by content."""


def _only_text(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind not in ("text", "refusal"):
        raise PydanticCustomError("no_text", "the model reads text only; describe it in words")
    return part


def _text_or_parts(content: Any) -> Any:
    if not isinstance(content, (str, list)):
        raise PydanticCustomError("no_content", "expected a text or a list of text parts")
    return content


Content = Annotated[str | list[Annotated[Part, BeforeValidator(_only_text)]], BeforeValidator(_text_or_parts)]


class SystemMessage(Wire):
    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(Wire):
    role: Literal["user"]
    content: Content
    name: str | None = None


class CalledFunction(Wire):
    name: str
    arguments: str | dict[str, Any] = ""


class Call(Wire):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class AssistantMessage(Wire):
    role: Literal["assistant"]
    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None


class ToolMessage(Wire):
    role: Literal["tool"]
    content: Content
    tool_call_id: str
    name: str | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


# ------------------------------------------------------------ tools and formats


class Function(Wire):
    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Wire):
    type: Literal["function"]
    function: Function


class FunctionName(Wire):
    name: str


class NamedChoice(Wire):
    type: Literal["function"]
    function: FunctionName


class TextFormat(Wire):
    type: Literal["text"]


class JsonObjectFormat(Wire):
    type: Literal["json_object"]


class JsonSchema(Wire):
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(Wire):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class StreamOptions(Wire):
    include_usage: bool | None = None
    """A last chunk with the usage of the whole request."""
    include_obfuscation: bool | None = None
    """Only false: pieces are never padded."""


# ------------------------------------------------------------ requests


class GenerationRequest(Wire):
    """What both endpoints take."""

    model: str
    """A name of /v1/models, with options behind an @."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    """The longest completion; the server's `max_new_tokens` where it is left out."""
    n: int | None = Field(default=None, ge=1)
    """Completions; with a seed, the i-th (from 0) is the one that seed + i gives."""
    seed: int | None = Field(default=None, ge=0)
    """Equal seeds and settings give equal answers."""
    temperature: float | None = Field(default=None, ge=0)
    """Of the base law p; 0 is greedy. alpha sharpens on top of it."""
    stop: str | Annotated[list[str], Field(max_length=64)] | None = None
    """Strings that end a completion; not part of the text."""
    top_p: float | None = Field(default=None, ge=0, le=1)
    """Restricts p to the fewest likeliest tokens that have this probability together: the target is its power."""
    frequency_penalty: float | None = None
    """Only 0."""
    presence_penalty: float | None = None
    """Only 0."""
    repetition_penalty: float | None = None
    """Only 1."""
    logit_bias: dict[str, float] | None = None
    """Token ids with numbers from -100 to 100 that are added to their logits: part of p, so the target is its power."""
    user: str | None = None
    """Goes into the server's log."""
    sampler: str | dict[str, Any] | None = None
    """Power field: a sampler's name, or a mapping with `name` and its options."""
    alpha: float | None = None
    """Power field: the target is p(x)^alpha."""
    time_budget: float | None = None
    """Power field: seconds after which refinement stops and the answer is given."""
    timeout: float | None = None
    """Power field: seconds after which the request fails."""
    regex: str | None = None
    """Power field: only completions that match it."""
    choices: list[str] | None = None
    """Power field: only these completions."""
    grammar: str | None = None
    """Power field: only completions of this Lark grammar."""
    trace: bool | None = None
    """Power field, for streams: comments tell what the sampler does, step by step."""
    top_k: int | None = Field(default=None, ge=1)
    """Power field: restricts p to the k likeliest tokens."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Power field: restricts p to tokens at least so many times as likely as the likeliest."""
    bad_words: list[str] | None = None
    """Power field: words that p excludes, as the tokenizer spells them."""


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions"""

    messages: list[Message] = Field(min_length=1)
    """Text only; a last message of the assistant is continued."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """The same as `max_tokens`."""
    tools: Annotated[list[Tool], Field(max_length=256)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    """A call that is required is decoded under its schema."""
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    """JSON is decoded under its schema, so it is always valid."""
    logprobs: bool | None = None
    """log p of every token of the answer, of the base law."""
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """So many of the likeliest tokens at every position, by passes over the finished answer; with `logprobs`."""
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    """Comes back with the answer."""
    reasoning_effort: str | None = None
    """A variable of the chat template, where it reads one; else only null."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Further variables that the chat template reads, such as `enable_thinking`; as vLLM has it."""
    store: bool | None = None
    """Only false: nothing is stored."""
    service_tier: str | None = None
    """Only auto or default."""
    modalities: list[str] | None = None
    """Only text."""
    verbosity: str | None = None
    """Only medium."""
    safety_identifier: str | None = None
    """Goes into the server's log."""
    prompt_cache_key: str | None = None
    """Needs no key here: prompts are cached by content."""


class CompletionRequest(GenerationRequest):
    """POST /v1/completions"""

    prompt: str | Annotated[list[str], Field(min_length=1)]
    """One text or several, completed as they stand."""
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """log p of every token drawn, with so many of the likeliest tokens at its position."""
    echo: bool | None = None
    """The prompt before the completion; not together with logprobs."""
    suffix: str | None = None
    """Only null."""
    best_of: int | None = None
    """Only 1, or `n`. The sampler best_of_n does it, by a power field."""
