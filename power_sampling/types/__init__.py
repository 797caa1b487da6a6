"""The words of the project as data. Nothing here knows a model, a tokenizer or a device."""

from power_sampling.types.completion import Chunk, Completion, Diagnostics
from power_sampling.types.conversation import Conversation, InvalidToolCall, Message, Reply, ToolCall
from power_sampling.types.decoding import (
    Ahead,
    Answer,
    Chain,
    Continuation,
    Draw,
    End,
    Exactness,
    Floats,
    Law,
    Progress,
    Round,
    Termination,
    Tokens,
)

__all__ = [
    "Ahead",
    "Answer",
    "Chain",
    "Chunk",
    "Completion",
    "Continuation",
    "Conversation",
    "Diagnostics",
    "Draw",
    "End",
    "Exactness",
    "Floats",
    "InvalidToolCall",
    "Law",
    "Message",
    "Progress",
    "Reply",
    "Round",
    "Termination",
    "Tokens",
    "ToolCall",
]
