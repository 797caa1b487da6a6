"""Whatever a caller of either adapter gives: a right answer or a typed error; the next call is answered as ever."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from llama_index.core.base.llms.types import ChatMessage as IndexMessage
from pydantic import BaseModel, ValidationError

from langchain_power_sampling import ChatPowerSampling
from langchain_power_sampling import PowerSamplingLLM as LangChainLLM
from llamaindex_power_sampling import PowerSamplingLLM as LlamaIndexLLM
from power_sampling import PowerSamplingError
from tests.support.tiny import tiny_model, tiny_tokenizer

MODEL, TOKENIZER = tiny_model(layers=1), tiny_tokenizer()
OPTIONS: dict[str, Any] = {"sampler": "ancestral", "max_new_tokens": 3, "seed": 1, "timeout": 20.0}
CHAT = ChatPowerSampling.from_model(MODEL, TOKENIZER, **OPTIONS)
TEXT = LangChainLLM.from_model(MODEL, TOKENIZER, **OPTIONS)
INDEX = LlamaIndexLLM.from_model(MODEL, TOKENIZER, **OPTIONS)
EXPECTED = TEXT.invoke("a")


class Known(BaseModel):
    """A class."""

    good: bool = True


words = st.text(st.characters(codec="utf-8"), max_size=6)
plain = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(), words)
odd = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3))


def mappings(keys: str, values: Any) -> Any:
    return st.dictionaries(st.sampled_from(keys.split()), values, max_size=3)


SCHEMA_WORDS = "title name type properties items enum anyOf $ref parameters function"
schemas = st.recursive(
    st.one_of(odd, st.sampled_from(["object", "array", "string", "x", "#/$defs/x"]), st.just(Known), st.just(len)),
    lambda inner: st.lists(inner, max_size=2) | mappings(SCHEMA_WORDS, inner),
    max_leaves=8,
)
SETTINGS = (
    "alpha temperature max_new_tokens max_tokens stop seed n sampler json_schema regex choices logprobs tools "
    "tool_choice strict parallel_tool_calls response_format top_p top_k min_p logit_bias bad_words model device"
)
# langchain-core looks a block's type up in a set before any model sees it
blocks = st.lists(
    words | mappings("type text id content", odd).filter(lambda block: not isinstance(block.get("type"), list | dict)),
    max_size=2,
)
EXAMPLES = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}


def tried(call: Any, *, also: tuple[type[Exception], ...] = ()) -> Any:
    """What a call answers; a typed error is as good."""
    try:
        return call()
    except PowerSamplingError as error:
        assert len(str(error)) < 4000
    except also:
        pass
    return None


def check_settings_of_a_call(overrides: dict[str, Any]) -> None:
    tried(lambda: CHAT.invoke("a", **overrides))
    tried(lambda: list(CHAT.stream("a", **overrides)))
    tried(lambda: TEXT.generate(["a"], **overrides))
    tried(lambda: INDEX.complete("a", **overrides))
    tried(lambda: INDEX.chat([IndexMessage("a")], **overrides))


def check_settings_of_an_object(fields: dict[str, Any]) -> None:
    for owner in (ChatPowerSampling, LangChainLLM, LlamaIndexLLM):
        tried(lambda owner=owner: owner(**fields), also=(ValidationError,))


def check_tools_and_schemas(schema: Any, strict: bool | None) -> None:
    for method in ("json_schema", "function_calling", "json_mode"):
        tried(lambda method=method: CHAT.with_structured_output(schema, method=method, strict=strict))
    tried(lambda: CHAT.bind_tools([schema], strict=strict))
    tried(lambda: TEXT.with_structured_output(schema))
    tried(lambda: CHAT.invoke("a", response_format=schema, max_tokens=40), also=(NotImplementedError,))
    tried(lambda: CHAT.invoke("a", tools=[schema], max_tokens=1))
    tried(lambda: INDEX.chat([IndexMessage("a")], tools=[schema]))


@st.composite
def langchain_messages(draw: Any) -> list[Any]:
    call = {"name": draw(words), "args": draw(st.dictionaries(words, odd, max_size=2)), "id": draw(st.none() | words)}
    broken = {
        "name": draw(st.none() | words),
        "args": draw(st.none() | words),
        "id": draw(st.none() | words),
        "error": None,
    }
    kinds = [
        HumanMessage(draw(words | blocks)),
        SystemMessage(draw(words)),
        AIMessage(draw(words | blocks), tool_calls=[call], invalid_tool_calls=[broken]),
        AIMessage(draw(words)),
        ToolMessage(draw(words), tool_call_id=draw(words), status="error"),
        ChatMessage(draw(words), role=draw(words | st.sampled_from(["developer", "tool", "assistant"]))),
    ]
    return draw(st.lists(st.sampled_from(kinds), max_size=3))


def check_messages_of_langchain(messages: list[Any]) -> None:
    tried(lambda: CHAT.invoke(messages))
    tried(lambda: CHAT.bind_tools([Known]).invoke(messages))
    tried(lambda: CHAT.get_num_tokens_from_messages(messages))
    tried(lambda: CHAT.bind(use_chat_template=False).invoke(messages))


calls = st.lists(mappings("id function name tool_kwargs", odd) | odd, max_size=2)
index_messages = st.lists(
    st.builds(
        lambda role, content, kwargs: IndexMessage(role=role, content=content, additional_kwargs=kwargs),
        st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"]),
        st.none() | words,
        mappings("tool_call_id name", odd) | st.fixed_dictionaries({"tool_calls": calls | odd}),
    ),
    max_size=3,
)


def check_messages_of_llamaindex(messages: list[Any]) -> None:
    tried(lambda: INDEX.chat(messages))
    tried(lambda: list(INDEX.stream_chat(messages)))


CHECKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "settings_of_a_call": (check_settings_of_a_call, {"overrides": mappings(SETTINGS, odd)}),
    "settings_of_an_object": (check_settings_of_an_object, {"fields": mappings(SETTINGS, odd)}),
    "tools_and_schemas": (check_tools_and_schemas, {"schema": schemas, "strict": st.none() | st.booleans()}),
    "messages_of_langchain": (check_messages_of_langchain, {"messages": langchain_messages()}),
    "messages_of_llamaindex": (check_messages_of_llamaindex, {"messages": index_messages}),
}


@pytest.mark.parametrize("count", [10, pytest.param(1500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CHECKS)
def test_odd_calls_get_a_right_answer_or_a_typed_error(name: str, count: int) -> None:
    check, strategies = CHECKS[name]
    settings(max_examples=count, **EXAMPLES)(given(**strategies)(check))()
    assert TEXT.invoke("a") == EXPECTED
