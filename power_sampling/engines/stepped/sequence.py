"""What the scheduler moves about: prompts, and sequences, each a draw with what it needs in order to be decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from power_sampling.engines.protocol import Rule
from power_sampling.engines.row import Row
from power_sampling.engines.stepped.budget import Cached
from power_sampling.types import Tokens

__all__ = ["Prompt", "Seq"]


class Prompt:
    """The handle of `open`. Once it is prefilled it has its state and the logits at its end."""

    def __init__(self, tokens: Tokens, eos_ids: frozenset[int], rule: Rule | None, state: Any) -> None:
        self.tokens, self.eos_ids, self.rule, self.state = tokens, eos_ids, rule, state
        self.logits: Any = None
        self.prefilled_tokens = self.reused_tokens = 0
        self.partings: set[int] = set()  # where other prompts part from it, as far as that had to be known
        self.served = 0  # at which pass of the model it got its last piece

    @property
    def missing(self) -> int:
        """Tokens whose states are needed before a draw can start."""
        return len(self.tokens) - int(self.state.length)


@dataclass(slots=True, eq=False)
class Seq:
    """A draw in decoding or waiting."""

    row: Row
    prompt: Prompt
    cached: Cached  # the state of the row's first tokens; the rest is in the prompt, or is recomputed
    context: Tokens  # everything before the row's first new token

    @property
    def longest(self) -> int:
        """Tokens of the row at its end."""
        return len(self.context) + self.row.draw.max_new_tokens

    @property
    def last_token(self) -> int:
        """The token that the next step feeds."""
        return self.row.tokens[-1] if self.row.tokens else self.context[-1]

    @property
    def starts_at_prompt(self) -> bool:
        """Whether its next token is chosen from the logits at the end of the prompt."""
        return self.row.draw.cut == 0 and not self.row.tokens

    @property
    def fed_length(self) -> int:
        """Of `fed`."""
        return len(self.context) + len(self.row.tokens) - int(not self.starts_at_prompt)

    @property
    def fed(self) -> Tokens:
        """What the model has to have seen before the row's next step: all, or all but the token fed in that step."""
        seen = (*self.context, *self.row.tokens)
        return seen if self.starts_at_prompt else seen[:-1]
