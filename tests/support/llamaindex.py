"""PowerSamplingLLMs that say what a rule makes of their prompt, so that consumers can be driven through every turn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from llamaindex_power_sampling import PowerSamplingLLM
from power_sampling.types import Floats, Tokens
from tests.support.scripted import TOKENIZER, ScriptedLM, hermes_call, tools_in
from tests.support.tiny import tiny_tokenizer

# core's workflows use what pydantic and they themselves deprecate
WORKFLOWS = pytest.mark.filterwarnings("ignore::DeprecationWarning")

Rule = Callable[[str], Iterable[str]]


class Speaker(ScriptedLM):
    """Says the first of the rule's replies that is legal. The rule reads the prompt with its control tokens."""

    config = None  # PowerSampler.from_model asks for its name

    def __init__(self, rule: Rule, *, window: int | None = None) -> None:
        super().__init__()
        self._rule, self.prompts = rule, list[str]()
        self.context_window = window  # type: ignore[assignment]  # of a TableLM it is always None

    def logits(self, context: Tokens) -> Floats:
        prompt = context[: len(context) - context[::-1].index(self._opening)] if self._opening in context else context
        if prompt not in self._scripts:
            text = TOKENIZER.decode(prompt, skip_special_tokens=False)
            self.prompts.append(text)
            replies = (TOKENIZER(reply, add_special_tokens=False)["input_ids"] for reply in self._rule(text))
            self._scripts[prompt] = [(*reply, self._eos) for reply in replies]
        return super().logits(context)


def speaking(rule: Rule, *, template: str | None = None, window: int | None = None, **fields: Any) -> PowerSamplingLLM:
    """An LLM that follows a rule, on the tool template of tests/support/scripted.py or on another one."""
    tokenizer = TOKENIZER if template is None else tiny_tokenizer(chat_template=template)
    settings = {"sampler": "ancestral", "max_new_tokens": 400, **fields}
    return PowerSamplingLLM.from_model(Speaker(rule, window=window), tokenizer, **settings)


def heard(llm: PowerSamplingLLM) -> list[str]:
    """The prompts it was given, in order, each once."""
    engine: Any = llm._runtime._model.load().engine
    return list(engine.prompts)


def turns(prompt: str) -> list[str]:
    """The turns of a prompt, the opening of the assistant's next one left out."""
    return [turn for turn in prompt.split("<|end|>") if turn.strip()][:-1]


def call(name: str, /, **arguments: Any) -> str:
    """A tool call as models of this template write it."""
    return hermes_call(name, arguments)


def json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@contextmanager
def broken(engine: Any) -> Iterator[None]:
    def step() -> Any:
        raise RuntimeError("broken")

    engine.step = step
    try:
        yield
    finally:
        del engine.step


# ------------------------------------------------------------ structured answers


class Track(BaseModel):
    """A track."""

    title: str
    seconds: int = Field(ge=0)


class Album(BaseModel):
    """An album."""

    name: str
    genre: Literal["jazz", "rock"]
    tracks: list[Track]


ALBUM = Album(name="Blue", genre="jazz", tracks=[Track(title="So", seconds=9)])


def critic(prompt: str) -> list[str]:
    if tools_in(prompt):
        return [call(tools_in(prompt)[0]["name"], **ALBUM.model_dump())]
    return [json_text(ALBUM.model_dump()), "Well."]


def rambler(prompt: str) -> list[str]:
    """Knows nothing of schemas."""
    return ["I would rather talk."]
