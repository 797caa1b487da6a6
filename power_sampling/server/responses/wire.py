"""The body of a request to /v1/responses, field by field. What is not here is refused by its name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from power_sampling.server.wire import Wire

__all__ = ["FunctionCall", "FunctionOutput", "Item", "MessageItem", "TextPart", "ReasoningItem", "ResponseRequest"]

Status = Literal["in_progress", "completed", "incomplete"]


# ------------------------------------------------------------ items


class TextPart(Wire):
    """A piece of a message's content: text."""

    type: Literal["input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text"]
    text: str | None = None
    refusal: str | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: list[Any] | None = None
    prompt_cache_breakpoint: dict[str, Any] | None = None


def _only_text(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind.partition("_")[2] in ("image", "file", "audio"):
        raise PydanticCustomError("no_text", "the model reads text only; describe it in words")
    return part


def _text_or_parts(content: Any) -> Any:
    if not isinstance(content, (str, list)):
        raise PydanticCustomError("no_content", "expected a text or a list of text parts")
    return content


def _text_or_items(given: Any) -> Any:
    if not isinstance(given, (str, list)) or given == []:
        raise PydanticCustomError("no_input", "expected a text, or a list of at least one item")
    return given


Parts = list[Annotated[TextPart, BeforeValidator(_only_text)]]
Content = Annotated[str | Parts, BeforeValidator(_text_or_parts)]


class MessageItem(Wire):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    id: str | None = None
    status: Status | None = None
    phase: str | None = None


class FunctionCall(Wire):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None
    namespace: None = None
    caller: None = None


class FunctionOutput(Wire):
    type: Literal["function_call_output"]
    call_id: str
    output: Content
    id: str | None = None
    status: Status | None = None
    name: str | None = None
    namespace: None = None
    caller: None = None


class ReasoningItem(Wire):
    type: Literal["reasoning"]
    summary: Parts = Field(default_factory=list)
    content: Parts | None = None
    id: str | None = None
    status: Status | None = None
    encrypted_content: None = None


def _kind(item: Any) -> str | None:
    """Messages may come without a type."""
    if isinstance(item, dict):
        kind = item.get("type", "message" if "role" in item else None)
        return kind if isinstance(kind, str) else None
    return getattr(item, "type", None)


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionOutput, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(
        _kind,
        custom_error_type="no_item",
        custom_error_message="expected a message, function_call, function_call_output or reasoning; nothing is stored "
        "here that could be referred to",
    ),
]


# ------------------------------------------------------------ tools and formats


class FunctionTool(Wire):
    type: Literal["function"]
    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedTool(Wire):
    type: Literal["function"]
    name: str


class PlainFormat(Wire):
    type: Literal["text", "json_object"]


class SchemaFormat(Wire):
    type: Literal["json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class TextOptions(Wire):
    format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None
    """JSON is decoded under its schema, so it is always valid."""
    verbosity: str | None = None
    """Only medium."""


class ReasoningOptions(Wire):
    effort: str | None = None
    """As `reasoning_effort` of a chat."""
    summary: str | None = None
    """Only null: reasoning comes in full."""
    generate_summary: str | None = None
    """Only null."""


class ResponseStreamOptions(Wire):
    include_obfuscation: bool | None = None
    """Only false: pieces are never padded."""


# ------------------------------------------------------------ the request


class ResponseRequest(Wire):
    """POST /v1/responses"""

    model: str
    """A name of /v1/models, with options behind an @."""
    input: Annotated[str | list[Item], BeforeValidator(_text_or_items)]
    """A text, or the items of the conversation; a last message of the assistant is continued."""
    instructions: str | None = None
    """A system message before the input."""
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    """The longest answer; the server's `max_new_tokens` where it is left out."""
    temperature: float | None = Field(default=None, ge=0)
    """Of the base law p; 0 is greedy. alpha sharpens on top of it."""
    tools: Annotated[list[FunctionTool], Field(max_length=256)] | None = None
    """Functions; the server runs none itself."""
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    """A call that is required is decoded under its schema."""
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: list[str] | None = None
    """`message.output_text.logprobs`: log p of every token, with the text."""
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    """Comes back with the answer."""
    user: str | None = None
    """Goes into the server's log."""
    safety_identifier: str | None = None
    """Goes into the server's log."""
    prompt_cache_key: str | None = None
    """Needs no key here: prompts are cached by content."""
    prompt_cache_retention: str | None = None
    """Only in_memory."""
    top_p: float | None = Field(default=None, ge=0, le=1)
    """As in a chat."""
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """As in a chat."""
    service_tier: str | None = None
    """Only auto or default."""
    truncation: str | None = None
    """Only disabled."""
    store: bool | None = None
    """Only false: nothing is stored."""
    background: bool | None = None
    """Only false."""
    previous_response_id: str | None = None
    """Only null: nothing is stored; send the conversation."""
    conversation: str | dict[str, Any] | None = None
    """Only null."""
    prompt: dict[str, Any] | None = None
    """Only null."""
    max_tool_calls: int | None = None
    """Only null."""
    seed: int | None = Field(default=None, ge=0)
    """Power field: equal seeds and settings give equal answers."""
    stop: str | Annotated[list[str], Field(max_length=64)] | None = None
    """Power field: strings that end the answer; not part of it."""
    chat_template_kwargs: dict[str, Any] | None = None
    """As in a chat."""
    sampler: str | dict[str, Any] | None = None
    """Power field: a sampler's name, or a mapping with `name` and its options."""
    alpha: float | None = None
    """Power field: the target is p(x)^alpha."""
    time_budget: float | None = None
    """Power field: seconds after which refinement stops and the answer is given."""
    timeout: float | None = None
    """Power field: seconds after which the request fails."""
    regex: str | None = None
    """Power field: only answers that match it."""
    choices: list[str] | None = None
    """Power field: only these answers."""
    grammar: str | None = None
    """Power field: only answers of this Lark grammar."""
    top_k: int | None = Field(default=None, ge=1)
    """Power field: restricts p to the k likeliest tokens."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Power field: restricts p to tokens at least so many times as likely as the likeliest."""
    bad_words: list[str] | None = None
    """Power field: words that p excludes, as the tokenizer spells them."""
    trace: bool | None = None
    """Power field, for streams: comments tell what the sampler does, step by step."""
