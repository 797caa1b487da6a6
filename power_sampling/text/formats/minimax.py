"""MiniMax M2 and its successors: every argument between tags of its own, all calls between one pair.

<minimax:tool_call>
<invoke name="weather">
<parameter name="city">Köln</parameter>
</invoke>
</minimax:tool_call>
"""

from __future__ import annotations

from power_sampling.text.arguments import TaggedArguments
from power_sampling.text.formats.messages import Messages, with_mapped_arguments
from power_sampling.text.formats.syntax import Syntax, SyntaxFormat

__all__ = ["MiniMax"]


class MiniMax(SyntaxFormat):
    family = "minimax"
    syntax = Syntax(
        begin="<minimax:tool_call>",
        end="</minimax:tool_call>",
        open="\n",
        head='<invoke name="',
        middle='">\n',
        tail="</invoke>\n",
        arguments=TaggedArguments('<parameter name="', '">', "</parameter>\n"),
    )

    @classmethod
    def fits(cls, template: str) -> bool:
        return "<minimax:tool_call>" in template

    def shaped(self, messages: Messages) -> Messages:
        """The templates print arguments one by one."""
        return with_mapped_arguments(messages)
