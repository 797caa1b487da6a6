"""The part of the LLM that stands on the runtime: settings of a call, prompts as the model sees them, copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from llama_index.core.base.llms.generic_utils import messages_to_prompt as generic_messages_to_prompt
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms import LLM
from llama_index.core.llms.llm import default_completion_to_prompt
from pydantic import PrivateAttr

from llamaindex_power_sampling._messages import engine_messages
from power_sampling import ConfigurationError, Conversation, InputError, ModelConfig, PowerSampler
from power_sampling.integrations import AdapterConfig, resolve_max_tokens_alias, shortened

__all__ = ["ALIASES", "RuntimeLLM"]

ALIASES = ("max_tokens", "num_output")  # what LlamaIndex and its integrations call max_new_tokens
BOUND_TO_PROCESS = ("callback_manager", "rate_limiter")  # fields that copies share and pickles leave out


class RuntimeLLM(AdapterConfig, LLM):
    """Settings as fields, by the names of `power_sampling.Config`, and the runtime they stand for."""

    _runtime: PowerSampler = PrivateAttr()  # holds the weights as long as this object lives
    _was_handed_over: bool = PrivateAttr(default=False)
    _knows_system_role: bool | None = PrivateAttr(default=None)

    def _under(self, overrides: Mapping[str, Any]) -> PowerSampler:
        """The runtime under the settings of one call: its own over the object's. Loads nothing."""
        return self._runtime.with_generation(self.generation_under(resolve_max_tokens_alias(overrides, ALIASES)))

    # ------------------------------------------------------------ what the model is given

    def _presented(self, prompt: str, formatted: bool = False) -> str | Conversation:
        """A text as the runtime takes it (the rules are in the docstring of the class). May load the model."""
        if not isinstance(prompt, str):
            raise InputError(f"complete: expected a text, got {shortened(prompt)}.")
        if formatted:
            return prompt
        to_prompt = self.completion_to_prompt or default_completion_to_prompt
        if to_prompt is default_completion_to_prompt and self._runtime.is_chat_model:
            return Conversation(messages=engine_messages(self._extend_messages([ChatMessage(prompt)])))
        return self._extend_prompt(to_prompt(prompt))

    def _presented_messages(
        self, messages: Sequence[ChatMessage], conversation: Conversation, names: Mapping[str, str]
    ) -> str | Conversation:
        """Messages as the runtime takes them. May load the model."""
        shown = {original: name for name, original in names.items()}
        converted = engine_messages(messages, shown)  # refuses images before anybody drops them
        if self._uses_template:
            return replace(conversation, messages=converted)
        if conversation.tools:
            raise InputError(
                "Tools are shown through the chat template, and this object uses none (a base model, "
                "use_chat_template=False or messages_to_prompt). Use a ReActAgent, which asks for tools in plain text."
            )
        return (self.messages_to_prompt or generic_messages_to_prompt)(messages)

    @property
    def _uses_template(self) -> bool:
        """Whether messages go through the chat template. May load the model."""
        render = self.messages_to_prompt or generic_messages_to_prompt
        return render is generic_messages_to_prompt and self._runtime.is_chat_model

    @property
    def _accepts_system_role(self) -> bool:
        """Whether the system's words keep a turn of their own. Loads the model."""
        if self._knows_system_role is None:
            apart, together = [{"role": "system", "content": "x"}, _user("x")], [_user("x\n\nx")]
            encode = self._runtime.encode
            self._knows_system_role = not self._uses_template or encode(apart) != encode(together)
        return self._knows_system_role

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


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
