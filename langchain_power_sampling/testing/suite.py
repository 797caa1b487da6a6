"""What the suite is told of an integration, and what its tests share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import LLMResult

__all__ = ["Recorder", "Suite"]


class Recorder(BaseCallbackHandler):
    """What callbacks are told."""

    def __init__(self) -> None:
        self.starts: list[dict[str, Any]] = []
        self.tokens: list[str] = []
        self.ends: list[LLMResult] = []
        self.errors: list[BaseException] = []

    def on_llm_start(self, serialized: dict[str, Any], prompts: list[str], **kwargs: Any) -> None:
        self.starts.append({"prompts": prompts, **kwargs})

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.tokens.append(token)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        self.ends.append(response)

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.errors.append(error)


class Suite(ABC):
    """Override the properties; a test that does not apply to a property left at None is skipped."""

    @property
    @abstractmethod
    def llm_class(self) -> type[BaseLLM]:
        """The class under test."""

    @property
    def llm_params(self) -> dict[str, Any]:
        """Constructor arguments under which an answer is short, at least four tokens long, and always the same."""
        return {}

    def make_llm(self, **overrides: Any) -> BaseLLM:
        """An object with `llm_params`, under the overrides."""
        return self.llm_class(**{**self.llm_params, **overrides})

    @property
    def prompt(self) -> str:
        return "Tell me about the sea."

    @property
    def other_prompt(self) -> str:
        return "Count from one to ten."

    @property
    def call_params(self) -> dict[str, Any]:
        """Arguments of a call that shorten the answer to one or two tokens."""
        return {"max_tokens": 2}

    @property
    def long_params(self) -> dict[str, Any]:
        """Arguments of a call that make the answer take many seconds."""
        return {"max_tokens": 1000}

    @property
    def configurable_field(self) -> tuple[str, Any]:
        """A field, and a value of it that shortens the answer."""
        return "max_tokens", 2

    @property
    def sampling_params(self) -> dict[str, Any]:
        """Constructor arguments under which the answer depends on the seed."""
        return {}

    @property
    def token_ids(self) -> tuple[str, list[int]] | None:
        """A text and its tokens by the model's own tokenizer, nothing added."""
        return None

    @property
    def streams_text_as_it_comes(self) -> bool:
        """False where a method cannot settle text before its end."""
        return True

    @property
    def stop_cuts_the_answer(self) -> bool:
        """False where the method draws by the law of completions that end at a stop string: with another stop, another
        answer."""
        return True

    def broken(self, llm: BaseLLM) -> AbstractContextManager[None] | None:
        """A context in which the model raises a RuntimeError that says "broken" while generating."""
        return None

    @pytest.fixture
    def llm(self) -> BaseLLM:
        return self.make_llm()

    @pytest.fixture
    def recorder(self) -> Recorder:
        return Recorder()
