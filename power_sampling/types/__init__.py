"""The words of the project as data. Nothing here knows a model, a tokenizer or a device."""

from power_sampling.types.completion import Chunk, Completion, Diagnostics
from power_sampling.types.conversation import Conversation, InvalidToolCall, Message, Reply, ToolCall
from power_sampling.types.decoding import (
    Answer,
    Chain,
    Continuation,
    Draw,
    End,
    Exactness,
    Floats,
    Law,
    Peek,
    Prefetch,
    Progress,
    Round,
    Termination,
    Tokens,
)

__all__ = [
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
    "Peek",
    "Prefetch",
    "Progress",
    "Reply",
    "Round",
    "Termination",
    "Tokens",
    "ToolCall",
]
