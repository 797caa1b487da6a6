"""Which form an answer has."""

from __future__ import annotations

from power_sampling.server.answers import ChatForm, Form, TextForm
from power_sampling.server.asked import Asked
from power_sampling.server.responses.form import ResponseForm

__all__ = ["form_of"]


def form_of(asked: Asked) -> Form:
    """A response is answered as one, else a conversation as chat and a text as text."""
    if asked.response is not None:
        return ResponseForm(asked)
    return TextForm(asked) if isinstance(asked.prompts[0], str) else ChatForm(asked)
