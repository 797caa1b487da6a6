"""Hermes, Qwen 2 to 3, SmolLM3, and whatever is not known: calls between tags, in any number.

<tool_call>
{"name": "weather", "arguments": {"city": "Köln"}}
</tool_call>
"""

from __future__ import annotations

import re
from collections.abc import Collection

from power_sampling.text.calls import CALL, CALL_END, Call, broken_call, calls_of, decode_json
from power_sampling.text.formats.syntax import Syntax, SyntaxFormat

__all__ = ["Hermes"]

_END = re.compile(rf"[\s>]*(?:{CALL_END[:-1]}\s*>*|(?={CALL})|</?[a-z_]*\Z|\Z)")  # half written or forgotten: no harm
_LATER_END = re.compile(rf"{CALL_END}|(?={CALL})|\Z")


class Hermes(SyntaxFormat):
    family = "hermes"
    syntax = Syntax(
        begin=CALL,
        end=CALL_END,
        head='\n{"name": ',
        middle=', "arguments": ',
        tail="}\n",
        between="\n",
        is_each=True,
        quotes_names=True,
    )

    @classmethod
    def fits(cls, template: str) -> bool:
        return CALL in template

    def read(self, text: str, names: Collection[str]) -> tuple[list[Call], str]:
        calls: list[Call] = []
        outside, at = [], 0
        while (start := text.find(CALL, at)) >= 0:
            outside.append(text[at:start])
            block, at = _block(text, start + len(CALL), names)
            calls += block
        outside.append(text[at:])
        return calls, "\n".join(piece.strip("\n") for piece in outside if piece.strip())


def _block(text: str, body: int, names: Collection[str]) -> tuple[list[Call], int]:
    """The calls of one block whose inside begins at `body`, and where the block ends."""
    fault = ValueError("there is more after it")
    try:
        value, end = decode_json(text, body)
        if closed := _END.match(text, end):
            return calls_of(value, text[body:end].strip(), names), closed.end()
    except ValueError as error:
        fault = error
    end = next((m.start() for m in _LATER_END.finditer(text, body)), len(text))
    raw = text[body:end].strip()
    return [broken_call(raw, fault)], end + len(CALL_END) * text.startswith(CALL_END, end)
