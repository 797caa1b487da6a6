"""A tokenizer of one's own: prompts and messages in, token ids out, text back.

Fast tokenizers keep truncation and padding in shared state, so calls from several threads corrupt each other silently;
a private copy behind a lock cannot. Nothing here truncates, pads, or knows a model.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

from power_sampling.errors import ChatTemplateError, ConfigurationError, EmptyPromptError, InputError
from power_sampling.text import roles
from power_sampling.text.chat import ChatEncoder
from power_sampling.text.control import ControlTokens
from power_sampling.text.formats import ToolFormat, names_read, tool_format
from power_sampling.text.grammar import Grammars
from power_sampling.text.past_calls import shaped_calls
from power_sampling.text.tokenizer import private_copy
from power_sampling.types import Message, ThoughtLimit, Tokens

__all__ = ["Codec"]


class Codec:
    """`tokenizer` is any transformers tokenizer; it is copied and never touched. `family` is the name of a format of
    tools, where its chat template is not to say it; `model_type` says it where the template cannot. Safe from any
    thread."""

    def __init__(
        self, tokenizer: Any, eos_ids: Sequence[int] = (), family: str | None = None, model_type: str = ""
    ) -> None:
        self._family, self._model_type = family, model_type
        self._tokenizer = private_copy(tokenizer)
        self._lock = threading.Lock()
        own = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        self.eos_ids: frozenset[int] = frozenset([*own, *eos_ids])
        self._own_eos = next(iter([*own, *eos_ids]), None)
        self.vocab_size: int = max(tokenizer.get_vocab().values(), default=-1) + 1
        self._strings: dict[int, str] = {}  # of single tokens, at most the vocabulary
        self._control = ControlTokens(self._tokenizer.added_tokens_decoder)
        self._chats: dict[str, ChatEncoder] = {}  # by the text of their template

    @property
    def has_chat_template(self) -> bool:
        return bool(self._tokenizer.chat_template)

    @cached_property
    def template_names(self) -> frozenset[str]:
        """What the chat template reads, the variables that it may be given among them; nothing without one."""
        template = self._tokenizer.chat_template or ""
        sources = template.values() if isinstance(template, dict) else [template]
        return frozenset[str]().union(*map(names_read, sources))

    @cached_property
    def tool_format(self) -> ToolFormat:
        """How this model is shown tools, and how it calls them."""
        tokenizer = self._tokenizer
        template = tokenizer.get_chat_template(tools=[{}]) if self.has_chat_template else None
        parse_response = None
        if getattr(tokenizer, "response_template", None):
            parse_response = partial(tokenizer.parse_response, prefix="")
        added = tokenizer.get_added_vocab()
        return tool_format(
            template, added, parse_response=parse_response, family=self._family, model_type=self._model_type
        )

    @cached_property
    def _kept_ids(self) -> frozenset[int]:
        """Special tokens that carry calls and thoughts: what they say would be lost with them."""
        try:
            markup = "\0".join(self.tool_format.markup)
        except ValueError:  # several templates, and none for a chat with tools, which is refused with that reason
            return frozenset()
        return frozenset(self._special_ids() & {i for token, i in self._control.tokens.items() if token in markup})

    def _special_ids(self) -> frozenset[int]:
        special = {i for i, token in self._tokenizer.added_tokens_decoder.items() if token.special}
        return frozenset(special | {*self._tokenizer.all_special_ids})

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
        opening = self.tool_format.thoughts[0].rstrip()
        return "".join(self.token_strings(prompt[-len(opening) - 4 :])).rstrip().endswith(opening)

    def thought_limit(self, budget: int, *, is_open: bool) -> ThoughtLimit:
        """The limit on this model's reasoning. Raises ConfigurationError where its template knows none."""
        form = self.tool_format
        if not (is_open or form.may_reason):
            raise ConfigurationError(
                "thinking_budget: expected a model that reasons, but its chat template knows no marks of reasoning; "
                "leave it out, or name the family by tool_format."
            )
        opening, closing = form.thoughts
        with self._lock:
            close_ids = tuple(self._tokenizer(closing, add_special_tokens=False)["input_ids"])
        return ThoughtLimit(budget, opening, closing, close_ids, is_open, bool(form.after_thoughts))

    def encode_chat(self, messages: Sequence[Message], **template_arguments: Any) -> Tokens:
        """Tokens of a conversation through the chat template, ready for the assistant's turn.

        A last message of the assistant is continued. Where the template knows no system role, or refuses equal roles in
        a row, what they say moves into the messages it knows. Whatever a message, a tool or a key says is text, if it
        spells a control token too: so nobody can open a turn but the template. Raises ChatTemplateError without a
        template, or with the template's reason.
        """
        if not messages:
            raise EmptyPromptError("The conversation has no message; give at least one.")
        if not self.has_chat_template:
            raise ChatTemplateError(
                "The tokenizer has no chat template: this is a base model. Send a plain text (`complete`, or "
                "PowerSamplingLLM of either adapter), set use_chat_template=False, or use an instruction-tuned model."
            )
        chat = self._chat(template_arguments.get("tools"))
        known = [{**message, "role": self._known_role(message["role"])} for message in messages]
        shaped = roles.accepted(known, self.accepted_roles)
        if any(message.get("tool_calls") for message in shaped):
            shaped = shaped_calls(shaped, chat.call_form)
        try:
            return chat.ids(chat.render(shaped, **template_arguments))
        except Exception as error:  # jinja and the template's own raise_exception have no common type
            given = [str(message.get("role")) for message in messages]
            raise ChatTemplateError(f"The chat template refuses these messages (roles {given}): {error}") from error

    @cached_property
    def accepted_roles(self) -> roles.Roles:
        """What the chat template accepts, tried out once."""

        return roles.roles_of(self._tried)

    @cached_property
    def end_of_turn(self) -> int | None:
        """The EOS that the chat template writes behind a turn of the assistant; where it writes none, the tokenizer's
        own."""
        turns = [
            {"role": role, "content": text} for role, text in (("user", "Ask"), ("assistant", "Said"), ("user", "Ask"))
        ]
        rendered = (self._tried(turns) if self.has_chat_template else None) or ""
        behind, eos_ids = rendered.rpartition("Said")[2], sorted(self.eos_ids)
        places = {behind.find(text): token for token, text in zip(eos_ids, self.token_strings(eos_ids), strict=True)}
        written = sorted(place for place in places if place >= 0)
        return places[written[0]] if written else self._own_eos

    def _tried(self, messages: list[dict[str, Any]]) -> str | None:
        """What the template makes of messages; None where it refuses."""
        return self._chat().template.tried(messages)

    def _known_role(self, role: str) -> str:
        words = self._chat().template.words
        known = roles.known_role(role, words, self._tried)
        if known is None or (known in self._control.words and known not in {*roles.ROLES, *words}):
            raise InputError(f"The chat template has no role {role!r}: use one of {', '.join(roles.ROLES)}.")
        return known

    def _chat(self, tools: Any = None) -> ChatEncoder:
        """The encoder of conversations; some tokenizers have a template of its own for those with tools."""
        source = self._tokenizer.get_chat_template(tools=tools)
        if source not in self._chats:
            own = self.tool_format.markup
            self._chats[source] = ChatEncoder(self._tokenizer, source, self._control, self._lock, own)
        return self._chats[source]

    def decode(self, tokens: Sequence[int], *, keep_control_tokens: bool = False) -> str:
        """Text of tokens, by default without control tokens, those excepted that carry calls and thoughts."""
        if not keep_control_tokens and not self._kept_ids.isdisjoint(tokens):
            hidden = self._hidden_ids
            tokens, keep_control_tokens = [token for token in tokens if token not in hidden], True
        with self._lock:
            text = self._tokenizer.decode(
                list(tokens), skip_special_tokens=not keep_control_tokens, clean_up_tokenization_spaces=False
            )
        return str(text)

    @cached_property
    def _hidden_ids(self) -> frozenset[int]:
        return self._special_ids() - self._kept_ids

    def token_strings(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Each token alone, control tokens by name. A token is decoded once, however often it is asked for."""
        with self._lock:
            for t in set(tokens) - self._strings.keys():
                text = self._tokenizer.decode([t], skip_special_tokens=False, clean_up_tokenization_spaces=False)
                self._strings[t] = str(text)
            return tuple(self._strings[t] for t in tokens)
