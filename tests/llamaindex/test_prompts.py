"""Templates that refuse things, blocks that are no text, and prompts that are too long."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from llama_index.core import SummaryIndex
from llama_index.core.base.llms.types import (
    AudioBlock,
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
)
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.schema import TextNode

from llamaindex_power_sampling import PowerSamplingLLM
from llamaindex_power_sampling._messages import engine_messages
from power_sampling import ChatTemplateError, ContextOverflowError, InputError
from tests.support.llamaindex import heard, speaking

LOOP = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
ASK = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
NO_SYSTEM = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}"
NO_SYSTEM += "{% endif %}{% endfor %}" + LOOP + ASK  # Gemma 2
DROPS_SYSTEM = "{% for m in messages %}{% if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}"
DROPS_SYSTEM += "{% endfor %}" + ASK
STRICT = "{% set given = messages %}{% if messages[0].role == 'system' %}<|system|>{{ messages[0].content }}<|end|>"
STRICT += (
    "{% set given = messages[1:] %}{% endif %}{% for m in given %}{% if (m.role == 'user') != (loop.index0 % 2 == 0)"
)
STRICT += " %}{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
STRICT += "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}" + ASK  # Mistral
GEMMA = STRICT.replace("{% set given = messages %}{% if messages[0].role == 'system' %}<|system|>", "{% if false %}")
GEMMA = GEMMA.replace("for m in given", "for m in messages").replace("{% set given = messages[1:] %}", "")

SYSTEM, USER, ASSISTANT = MessageRole.SYSTEM, MessageRole.USER, MessageRole.ASSISTANT


def said(*turns: tuple[MessageRole, str]) -> list[ChatMessage]:
    return [ChatMessage(text, role=role) for role, text in turns]


def silent(prompt: str) -> list[str]:
    return ["Yes."]


def shown(template: str, messages: list[ChatMessage], **fields: Any) -> str:
    """The prompt that messages make."""
    llm = speaking(silent, template=template, **fields)
    llm.chat(messages)
    return heard(llm)[-1]


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM, GEMMA], ids=["refuses", "drops", "alternates"])
def test_without_a_system_role(template: str) -> None:
    messages = said((SYSTEM, "Be brief."), (USER, "Hi"))
    before = copy.deepcopy(messages)
    assert shown(template, messages) == "<|user|>Be brief.\n\nHi<|end|><|assistant|>"
    assert messages == before
    llm = speaking(silent, template=template, system_prompt="Be brief.")
    assert llm.metadata.system_role == MessageRole.USER
    llm.complete("Hi")
    assert heard(llm) == ["<|user|>Be brief.\n\nHi<|end|><|assistant|>"]
    alone = shown(template, said((SYSTEM, "Be brief.")))
    assert alone == "<|user|>Be brief.<|end|><|assistant|>"


@pytest.mark.parametrize("template", [STRICT, GEMMA], ids=["mistral", "gemma"])
def test_strict_alternation(template: str) -> None:
    messages = said((USER, "One."), (USER, "Two."), (ASSISTANT, "A."), (ASSISTANT, "B."), (SYSTEM, "Hm."), (USER, "C"))
    expected = "<|user|>One.\n\nTwo.<|end|><|assistant|>A.\n\nB.<|end|><|user|>Hm.\n\nC<|end|><|assistant|>"
    assert shown(template, messages) == expected
    twice = said((SYSTEM, "One."), (SYSTEM, "Two."), (USER, "Hi"))
    assert "One.\n\nTwo." in shown(template, twice)


def test_what_a_template_accepts_is_left_alone() -> None:
    messages = said((USER, "One."), (USER, "Two."), (SYSTEM, "Hm."))
    expected = "<|user|>One.<|end|><|user|>Two.<|end|><|system|>Hm.<|end|><|assistant|>"
    assert shown(LOOP + ASK, messages) == expected


def test_a_last_message_of_the_assistant_is_continued() -> None:
    llm = speaking(lambda prompt: ["It is late."], template=LOOP + ASK)
    assert llm.chat(said((USER, "Hi"), (ASSISTANT, "It is"))).message.content == " late."


def test_a_template_that_refuses_everything_says_why() -> None:
    llm = speaking(silent, template="{{ raise_exception('No.') }}")
    with pytest.raises(ChatTemplateError, match=r"No\."):
        llm.chat(said((USER, "Hi")))


async def test_chat_engines_on_strict_templates() -> None:
    llm = speaking(silent, template=GEMMA)
    memory = ChatMemoryBuffer.from_defaults(llm=llm)
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=memory, system_prompt="Be brief.")
    assert str(engine.chat("Hi")) == str(await engine.achat("And now?")) == "Yes."
    assert heard(llm)[-1] == (
        "<|user|>Be brief.\n\nHi<|end|><|assistant|>Yes.<|end|><|user|>And now?<|end|><|assistant|>"
    )


def test_only_text_is_read() -> None:
    for block in (ImageBlock(image=b"x"), AudioBlock(audio=b"x"), DocumentBlock(data=b"x")):
        with pytest.raises(InputError, match=type(block).__name__):
            engine_messages([ChatMessage(blocks=[TextBlock(text="see"), block])])
    cited = CitationBlock(cited_content=TextBlock(text="b"), source="s", title="t", additional_location_info={})
    citable = CitableBlock(title="t", source="s", content=[TextBlock(text="a")])
    (message,) = engine_messages([ChatMessage(blocks=[citable, cited, CachePoint(cache_control={"type": "x"})])])
    assert message == {"role": "user", "content": "a\nb"}


# ---------------------------------------------------------------- too long


def limited(policy: str, **fields: Any) -> PowerSamplingLLM:
    """A window of 80 tokens, and a byte is one."""
    settings = {"template": LOOP + ASK, "window": 80, "max_new_tokens": 20, "context_overflow": policy, **fields}
    return speaking(silent, **settings)


async def test_overflow_is_an_error() -> None:
    llm = limited("error")
    with pytest.raises(ContextOverflowError, match="80"):
        llm.complete("x" * 60)
    with pytest.raises(ContextOverflowError):
        await llm.achat(said((USER, "x" * 60)))
    with pytest.raises(ContextOverflowError):
        list(llm.stream_complete("x" * 60))
    assert not issubclass(ContextOverflowError, (ValueError, TypeError))


async def test_overflow_shrinks_the_output() -> None:
    llm = limited("shrink_output", sampler={"name": "ancestral"})
    for response in (llm.complete("x" * 74), await llm.acomplete("x" * 74), list(llm.stream_complete("x" * 74))[-1]):
        assert response.text == "Yes"  # there is room for three tokens
        assert response.raw["usage"]["total_tokens"] == 80
        assert response.raw["finish_reason"] == "length"
    assert llm.complete("x").raw["finish_reason"] == "stop"
    with pytest.raises(ContextOverflowError):
        llm.complete("x" * 80)


def test_overflow_truncates_a_text() -> None:
    llm = limited("truncate_left")
    assert llm.complete("a" * 50 + "b" * 50, formatted=True).text
    assert heard(llm)[0] == "a" * 10 + "b" * 50
    assert llm.complete("a" * 50 + "b" * 50).text
    assert heard(llm)[-1] == f"<|user|>{'a' * 7}{'b' * 50}<|end|><|assistant|>"


def test_overflow_drops_the_oldest_turns() -> None:
    llm = limited("truncate_left")
    turns = [(USER, "u1" * 12), (ASSISTANT, "a1"), (USER, "u2" * 5), (ASSISTANT, "a2"), (USER, "u3" * 5)]
    llm.chat(said((SYSTEM, "sys"), *turns))
    assert heard(llm)[-1].startswith(f"<|system|>sys<|end|><|user|>{'u2' * 5}")
    llm.chat(said((SYSTEM, "sys"), *turns, (USER, "x" * 100)))
    assert heard(llm)[-1] == f"<|system|>sys<|end|><|user|>{'x' * 52}<|end|><|assistant|>"
    with pytest.raises(ContextOverflowError):
        llm.chat(said((SYSTEM, "s" * 100), (USER, "u")))


def test_synthesizers_do_not_swallow_an_overflow() -> None:
    index = SummaryIndex([TextNode(text="A note. " * 100)])
    for policy, answers in (("error", False), ("truncate_left", True)):
        llm = limited(policy, window=700, context_window=4000)
        if answers:
            assert str(index.as_query_engine(llm=llm).query("What?")) == "Yes."
        else:
            with pytest.raises(ContextOverflowError):
                index.as_query_engine(llm=llm).query("What?")
