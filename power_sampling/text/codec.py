"""A tokenizer of one's own: prompts and messages in, token ids out, text back.

Fast tokenizers keep truncation and padding in shared state, so calls from several threads corrupt each other silently;
a private copy behind a lock cannot. Nothing here truncates, pads, or knows a model.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from power_sampling.errors import ChatTemplateError, EmptyPromptError
from power_sampling.text import roles
from power_sampling.text.formats import ToolFormat, tool_format
from power_sampling.text.grammar import Grammars
from power_sampling.text.tokenizer import private_copy
from power_sampling.types import Message, Tokens

__all__ = ["Codec"]

_MARK = "\ue000{}\ue001"  # private-use characters: a template carries them along, no tokenizer has them as a token


class Codec:
    """`tokenizer` is any transformers tokenizer; it is copied and never touched. Safe from any thread."""

    def __init__(self, tokenizer: Any, eos_ids: Sequence[int] = ()) -> None:
        self._tokenizer = private_copy(tokenizer)
        self._lock = threading.Lock()
        own = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        self.eos_ids: frozenset[int] = frozenset([*own, *eos_ids])
        self.vocab_size: int = max(tokenizer.get_vocab().values(), default=-1) + 1
        self._strings: dict[int, str] = {}  # of single tokens, at most the vocabulary
        self._special = sorted({str(t) for t in tokenizer.all_special_tokens}, key=len, reverse=True)

    @property
    def has_chat_template(self) -> bool:
        return bool(self._tokenizer.chat_template)

    @cached_property
    def tool_format(self) -> ToolFormat:
        """How this model is shown tools, and how it calls them."""
        tokenizer = self._tokenizer
        template = tokenizer.get_chat_template(tools=[{}]) if self.has_chat_template else None
        parse_response = None
        if getattr(tokenizer, "response_template", None):
            parse_response = partial(tokenizer.parse_response, prefix="")
        return tool_format(template, tokenizer.get_added_vocab(), parse_response=parse_response)

    def grammars(self, vocab_size: int) -> Grammars:
        """Compiles constraints for this tokenizer, for a model that draws from `vocab_size` tokens."""
        return Grammars(self._tokenizer, self.eos_ids, vocab_size, self.decode)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> Tokens:
        """Tokens of a text as it stands, control tokens written in it included; exactly one BOS where the tokenizer
        adds one. Raises EmptyPromptError where nothing comes out."""
        with self._lock:
            bos = self._tokenizer.bos_token
            adds_bos = add_special_tokens and not (bos and text.startswith(bos))
            ids = tuple(self._tokenizer(text, add_special_tokens=adds_bos)["input_ids"])
        if not ids:
            raise EmptyPromptError("The prompt is empty and the tokenizer adds no token of its own; give some text.")
        return ids

    def starts_in_reasoning(self, prompt: Tokens) -> bool:
        """Whether the template has opened the model's reasoning at the end of this prompt."""
        return "".join(self.token_strings(prompt[-4:])).rstrip().endswith("<think>")

    def encode_chat(self, messages: Sequence[Message], **template_arguments: Any) -> Tokens:
        """Tokens of a conversation through the chat template, ready for the assistant's turn.

        A last message of the assistant is continued. Where the template knows no system role, or refuses equal roles in
        a row, what they say moves into the messages it knows. Control tokens written inside a message become plain
        text, so a user cannot open a turn. Raises ChatTemplateError without a template, or with the template's reason.
        """
        if not messages:
            raise EmptyPromptError("The conversation has no message; give at least one.")
        if not self.has_chat_template:
            raise ChatTemplateError(
                "The tokenizer has no chat template: this is a base model. Send a plain prompt (`complete`), or use an "
                "instruction-tuned model."
            )
        shaped = roles.accepted([dict(message) for message in messages], self.accepted_roles)
        (neutral, arguments), hidden = self._without_control_tokens((shaped, template_arguments))
        try:
            return self._encode_rendered(self._render(neutral, **arguments), hidden)
        except Exception as error:  # jinja and the template's own raise_exception have no common type
            given = [str(message.get("role")) for message in messages]
            raise ChatTemplateError(f"The chat template refuses these messages (roles {given}): {error}") from error

    @cached_property
    def accepted_roles(self) -> roles.Roles:
        """What the chat template accepts, tried out once."""

        def render(messages: list[dict[str, Any]]) -> str | None:
            try:
                return self._render(messages)
            except Exception:  # noqa: BLE001 - refusing is what is tried out, and refusals have no common type
                return None

        return roles.roles_of(render)

    def _render(self, messages: list[dict[str, Any]], **arguments: Any) -> str:
        is_continued = messages[-1].get("role") == "assistant"
        with self._lock:
            return str(
                self._tokenizer.apply_chat_template(
                    messages,
                    tokenize=False,
                    add_generation_prompt=not is_continued,
                    continue_final_message=is_continued,
                    **arguments,
                )
            )

    def decode(self, tokens: Sequence[int], *, keep_control_tokens: bool = False) -> str:
        """Text of tokens, by default without control tokens."""
        with self._lock:
            text = self._tokenizer.decode(
                list(tokens), skip_special_tokens=not keep_control_tokens, clean_up_tokenization_spaces=False
            )
        return str(text)

    def token_strings(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Each token alone, control tokens by name. A token is decoded once, however often it is asked for."""
        with self._lock:
            for t in set(tokens) - self._strings.keys():
                text = self._tokenizer.decode([t], skip_special_tokens=False, clean_up_tokenization_spaces=False)
                self._strings[t] = str(text)
            return tuple(self._strings[t] for t in tokens)

    def _without_control_tokens(self, values: Any) -> tuple[Any, list[str]]:
        """Messages and tools with every control token in them replaced by a numbered mark, and what was replaced."""
        hidden: list[str] = []

        def neutral(value: Any) -> Any:
            if isinstance(value, str):
                for token in self._special:
                    while token in value:
                        value = value.replace(token, _MARK.format(len(hidden)), 1)
                        hidden.append(token)
                return value
            if isinstance(value, Mapping):
                return {key: item if key == "role" else neutral(item) for key, item in value.items()}
            if isinstance(value, (list, tuple)):
                return [neutral(item) for item in value]
            return value

        return neutral(values), hidden

    def _encode_rendered(self, rendered: str, hidden: list[str]) -> Tokens:
        """Tokens of a rendered template: its own control tokens as such, the hidden ones letter by letter."""
        ids: list[int] = []
        rest = rendered
        with self._lock:
            while True:
                found = [(rest.find(_MARK.format(i)), i) for i in range(len(hidden))]
                at, index = min(((a, i) for a, i in found if a >= 0), default=(-1, -1))
                piece = rest if at < 0 else rest[:at]
                if piece:
                    ids += self._tokenizer(piece, add_special_tokens=False)["input_ids"]
                if at < 0:
                    return tuple(ids)
                plain = self._tokenizer(hidden[index], add_special_tokens=False, split_special_tokens=True)
                ids += plain["input_ids"]
                rest = rest[at + len(_MARK.format(index)) :]
