"""Conversations as token ids, through a chat template. What a message says is text, whatever it spells."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

from power_sampling.text.control import ControlTokens, Marks
from power_sampling.text.formats.messages import OWN_TEXTS
from power_sampling.text.past_calls import CallForm, call_form
from power_sampling.text.roles import ROLES
from power_sampling.text.template import ChatTemplate
from power_sampling.text.tokenizer import MarkedEncoder, encoder_of
from power_sampling.types import Tokens

__all__ = ["ChatEncoder"]

_TRIALS = (
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("user", "assistant", "tool"),
)


class ChatEncoder:
    """One chat template (`source`) with one tokenizer. Safe from any thread; nobody waits for another's prompt, but
    where the tokenizer is one written in Python."""

    def __init__(
        self,
        tokenizer: Any,
        source: str,
        control: ControlTokens,
        lock: threading.Lock,
        markup: Sequence[str] = (),
    ) -> None:
        """`markup` is what the family's calls are written with."""
        self._tokenizer, self._control, self._lock = tokenizer, control, lock
        own_texts = (*OWN_TEXTS, *markup)
        self.template = ChatTemplate(
            source, control, variables=tokenizer.special_tokens_map, own_texts=own_texts, roles=ROLES
        )
        self._marks = self.template.marks
        self._encoder = encoder_of(tokenizer, control, self._marks)
        self._is_understood = self._agrees()
        if not self._is_understood:
            self._marks = Marks(control, list(control.tokens))
            self._encoder = encoder_of(tokenizer, control, self._marks)

    def render(self, messages: Sequence[Mapping[str, Any]], **arguments: Any) -> str:
        """The marked prompt. Raises whatever the template does."""
        if self._is_understood:
            return self.template.render(messages, **arguments)
        broken, further = self._control.broken((messages, arguments))
        return self._marks.settled(self._marks.marked(self.template.render_plain(broken, **further)), ())

    @cached_property
    def call_form(self) -> CallForm:
        """How the template is to be given past calls, tried out once."""
        return call_form(self.template.tried)

    def ids(self, rendered: str) -> Tokens:
        """The tokens of a marked prompt."""
        with nullcontext() if isinstance(self._encoder, MarkedEncoder) else self._lock:
            return self._encoder.ids(rendered)

    def _agrees(self) -> bool:
        """Whether marks stand for all control tokens of the template: by trial. Where it makes a token of pieces in a
        way that is not foreseen, what users write is broken up instead, before the template sees it."""
        for roles in _TRIALS:
            messages = [{"role": role, "content": "x"} for role in roles]
            try:
                plain = self.template.render_plain(messages)
            except Exception:  # noqa: BLE001, S112 - the template refuses these roles, and refusals have no common type
                continue
            with self._lock:
                expected = tuple(self._tokenizer(plain, add_special_tokens=False)["input_ids"])
                ids = self._encoder.ids(self.template.render(messages))
            if ids != expected:
                return False
        return True
