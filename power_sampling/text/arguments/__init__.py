"""How families write the arguments of a call: as JSON, as literals of a notation of their own, or between tags.

Each way is one object that writes arguments, reads them, and gives the grammar of those that obey a schema.
"""

from __future__ import annotations

from power_sampling.text.arguments.base import Arguments, JsonArguments, owned
from power_sampling.text.arguments.literals import LiteralArguments, Notation
from power_sampling.text.arguments.tagged import TaggedArguments

__all__ = ["Arguments", "JsonArguments", "LiteralArguments", "Notation", "TaggedArguments", "owned"]
